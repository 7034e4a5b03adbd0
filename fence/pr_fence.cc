// See pr_fence.h. docs/protocols/fencing.md has the table of what each step proves.

#include "fence/pr_fence.h"

#include <algorithm>
#include <set>

#include "base/log.h"
#include "base/mutants.h"
#include "base/probe.h"

namespace holdfast::fence {

namespace {

std::set<ReservationKey> KeysOf(const std::vector<ReservationKey>& listed, const std::vector<ReservationKey>& wanted, bool whole_life,
                                ReservationKey own) {
  std::set<ReservationKey> out;
  for (ReservationKey key : listed) {
    for (ReservationKey victim : wanted) {
      bool hit = key == victim || (whole_life && KeyLife(key) == KeyLife(victim));
      if (hit && key != own) out.insert(key);
    }
  }
  return out;
}

std::string Text(ReservationKey key) {
  char text[24];
  snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(key));
  return text;
}

void Tell(const StorageSteps& steps, const char* action, const std::string& volume, const Status* outcome) {
  if (steps) steps(action, volume, outcome);
}

}  // namespace

Task<Result<StorageProof>> PrFence::Fence(std::string volume, std::vector<ReservationKey> keys, bool whole_life, StorageSteps steps) {
  auto session = co_await sessions_->Open(volume);
  if (!session.ok()) co_return session.error();
  auto proof = co_await Steps(&(*session)->reservations(), RedactedUrl(volume), std::move(keys), whole_life, std::move(steps));
  co_await (*session)->Close();
  co_return proof;
}

Task<Result<StorageProof>> PrFence::Steps(Reservations* reservations, std::string volume, std::vector<ReservationKey> keys,
                                          bool whole_life, StorageSteps steps) {
  for (ReservationKey key : keys) {
    if (key == own_key_ || key == 0) co_return Error(Errc::kInvalid, "a victim's key is the fencer's own, or zero");
  }
  Tell(steps, "preempt", volume, nullptr);
  Status done = co_await reservations->Register(own_key_);
  if (done.ok()) done = co_await reservations->Reserve(own_key_);
  size_t preempted = 0;
  if (done.ok()) {
    auto state = co_await reservations->Read();
    if (!state.ok()) done = state.error();
    if (state.ok()) {
      for (ReservationKey key : KeysOf(state->keys, keys, whole_life, own_key_)) {
        if (HF_MUTANT(kPreemptsDaemonOnly) && (key & 0xffff) != 0) continue;
        done = co_await reservations->Preempt(own_key_, key);
        if (!done.ok()) break;
        preempted++;
        HF_LOG(LogLevel::kInfo, "fence", "preempted", {{"volume", volume}, {"key", Text(key)}});
      }
    }
  }
  Tell(steps, "preempt", volume, &done);
  if (!done.ok()) co_return done.error();

  Tell(steps, "drain", volume, nullptr);
  if (!HF_MUTANT(kNoDrain)) done = co_await reservations->Drain();
  Tell(steps, "drain", volume, &done);
  if (!done.ok()) co_return done.error();

  Tell(steps, "verify", volume, nullptr);
  bool last = true;
  auto state = co_await reservations->Read();
  if (!state.ok()) {
    done = state.error();
  } else if (!KeysOf(state->keys, keys, whole_life, own_key_).empty() && !HF_MUTANT(kPreemptsDaemonOnly)) {
    done = Error(Errc::kIo, volume + " still lists a key of the victim");
  } else if (!state->reserved || !state->all_registrants_write_exclusive) {
    done = Error(Errc::kIo, volume + " has no reservation of type write exclusive, all registrants");
  } else if (std::find(state->keys.begin(), state->keys.end(), own_key_) == state->keys.end()) {
    done = Error(Errc::kConflict, volume + ": the fencer's own key is gone");
  } else {
    last = std::all_of(state->keys.begin(), state->keys.end(), [this](ReservationKey key) { return key == own_key_; });
  }
  Tell(steps, "verify", volume, &done);
  if (!done.ok()) co_return done.error();

  StorageProof proof;
  auto capabilities = co_await reservations->Capabilities();
  proof.persistent = capabilities.ok() && capabilities->persist_through_power_loss;
  proof.details = volume + ": " + std::to_string(preempted) + " keys preempted, drained, verified" +
                  (proof.persistent ? "" : "; the reservation does not survive the array's power loss");
  if (last) HF_PROBE("fence: own key is the last and stays");
  if (!last) {
    auto left = co_await reservations->Unregister(own_key_);
    if (!left.ok()) HF_LOG(LogLevel::kWarn, "fence", "own_key_stays", {{"volume", volume}, {"why", left.error().ToString()}});
  }
  co_return proof;
}

Task<Status> PrFence::Drain(std::string volume) {
  auto session = co_await sessions_->Open(volume);
  if (!session.ok()) co_return session.error();
  auto status = co_await (*session)->reservations().Drain();
  co_await (*session)->Close();
  co_return status;
}

Task<Result<StorageProof>> PrFence::FenceMount(std::string volume, ReservationKey mount_key) {
  std::vector<ReservationKey> keys(1, mount_key);
  if (HF_MUTANT(kMountNotProven)) co_return StorageProof{};
  auto proof = co_await Fence(std::move(volume), std::move(keys), false, nullptr);
  co_return proof;
}

Task<Result<bool>> PrFence::HasKeys(std::string volume, std::vector<ReservationKey> keys) {
  auto session = co_await sessions_->Open(volume);
  if (!session.ok()) co_return session.error();
  auto state = co_await (*session)->reservations().Read();
  co_await (*session)->Close();
  if (!state.ok()) co_return state.error();
  co_return !KeysOf(state->keys, keys, true, own_key_).empty();
}

}  // namespace holdfast::fence
