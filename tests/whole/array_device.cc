#include "tests/whole/array_device.h"

#include <algorithm>

#include "base/log.h"
#include "base/mutants.h"
#include "base/probe.h"

namespace holdfast::whole {

ArrayDevice::ArrayDevice(sim::SimDisk* disk, sim::SimExecutor* executor, ArrayKnobs knobs)
    : executor_(executor), knobs_(knobs), session_(disk->Open(*executor)) {
  if (!knobs_.image) session_->SetLosable();
}

// ---- commands -----------------------------------------------------------------------------------------------------

Task<Status> ArrayDevice::Gate() {
  while (!ready_) {
    if (fenced_) co_return *fenced_;
    if (closing_) co_return Errc::kCancelled;
    if (executor_->clock().Now() > lost_since_ + knobs_.stall_limit) {
      HF_PROBE("array: a command stalls to its end");
      co_return Error(Errc::kDisconnected, "no session with the array");
    }
    co_await gate_.Wait();
  }
  co_return Status();
}

uint64_t ArrayDevice::Begin() {
  if (knobs_.image) return 0;
  uint64_t number = next_attempt_++;
  attempts_.push_back({number, executor_->clock().Now() + knobs_.command_timeout});
  running_.insert(number);
  Watch();
  return number;
}

bool ArrayDevice::End(uint64_t attempt, const Status& status) {
  running_.erase(attempt);
  if (knobs_.image || status.code() != Errc::kDisconnected || closing_) {
    Look(status);
    return true;
  }
  Lose("a command ended without an answer");
  return false;
}

void ArrayDevice::Watch() {
  if (watching_) return;
  while (!attempts_.empty() && !running_.contains(attempts_.front().number)) attempts_.pop_front();
  if (attempts_.empty()) return;
  watching_ = true;
  executor_->PostAt(attempts_.front().until, [this] {
    watching_ = false;
    while (!attempts_.empty() && !running_.contains(attempts_.front().number)) attempts_.pop_front();
    if (!attempts_.empty() && attempts_.front().until <= executor_->clock().Now()) {
      if (ready_) Lose("a command timed out");
      else session_->Lose();  // one of the set-up's own
    }
    Watch();
  });
}

Task<Status> ArrayDevice::Read(uint64_t offset, std::span<std::byte> out) {
  if (on_submit_) on_submit_();
  for (;;) {
    Status open = co_await Gate();
    if (!open.ok()) co_return open;
    uint64_t attempt = Begin();
    Status status = co_await session_->Read(offset, out);
    if (End(attempt, status)) co_return status;
  }
}

Task<Status> ArrayDevice::Write(uint64_t offset, std::span<const std::byte> in, WriteFlags flags) {
  if (on_submit_) on_submit_();
  for (;;) {
    Status open = co_await Gate();
    if (!open.ok()) co_return open;
    uint64_t attempt = Begin();
    Status status = co_await session_->Write(offset, in, flags);
    if (!End(attempt, status)) continue;
    if (status.ok() && info().volatile_cache && !knobs_.image) unflushed_.Wrote(offset, in, flags == WriteFlags::kFua);
    co_return status;
  }
}

Task<Status> ArrayDevice::Flush() {
  if (on_submit_) on_submit_();
  uint64_t mark = unflushed_.Mark();
  for (;;) {
    Status open = co_await Gate();
    if (!open.ok()) co_return open;
    uint64_t attempt = Begin();
    Status status = co_await session_->Flush();
    if (!End(attempt, status)) continue;
    if (status.ok()) unflushed_.Flushed(mark);
    co_return status;
  }
}

Task<Status> ArrayDevice::Discard(uint64_t offset, uint64_t length) {
  unflushed_.Discarded(offset, length);
  for (;;) {
    Status open = co_await Gate();
    if (!open.ok()) co_return open;
    uint64_t attempt = Begin();
    Status status = co_await session_->Discard(offset, length);
    if (End(attempt, status)) co_return status;
  }
}

Task<void> ArrayDevice::Close() {
  closing_ = true;
  gate_.WakeAll();
  if (!running_.empty() && session_->lost()) session_->Lose();
  co_await session_->Close();
}

void ArrayDevice::Look(const Status& status) {
  if (status.code() != Errc::kConflict || !on_fenced_) return;
  auto tell = std::exchange(on_fenced_, nullptr);
  executor_->Post([tell, why = status.error()] { tell(why); });
}

// ---- the session --------------------------------------------------------------------------------------------------

void ArrayDevice::Lose(const char* why) {
  if (!ready_ || fenced_) return;
  HF_LOG(LogLevel::kDebug, "array", "session_lost", {{"why", why}, {"unflushed", unflushed_.bytes()}});
  HF_PROBE("array: a session is lost");
  ready_ = false;
  lost_since_ = executor_->clock().Now();
  session_->Lose();
  if (recovering_) return;
  recovering_ = true;
  Detach(Recover());
}

Task<void> ArrayDevice::Recover() {
  Duration backoff = Milliseconds(20);
  while (!ready_ && !fenced_ && !closing_) {
    Status done = co_await RecoverOnce();
    if (done.ok()) {
      ready_ = true;
    } else if (done.code() == Errc::kConflict || done.code() == Errc::kFenced) {
      HF_LOG(LogLevel::kDebug, "array", "fenced", {{"why", done.error().ToString()}});
      fenced_ = Error(Errc::kConflict, done.error().message);
      Look(Status(*fenced_));
    } else {
      session_->Lose();
      gate_.WakeAll();  // those past the stall limit give up
      co_await SleepFor(backoff);
      backoff = std::min(backoff * 2, Seconds(1));
    }
  }
  recovering_ = false;
  gate_.WakeAll();
}

Task<Status> ArrayDevice::RecoverOnce() {
  bool there = co_await session_->Relogin();
  if (!there) co_return Error(Errc::kDisconnected, "no path to the array");
  if (!HF_MUTANT(kNoDrainAtReconnect)) {
    Status drained = co_await session_->Drain();
    if (!drained.ok()) co_return drained;
  }
  if (guard_) {
    Status allowed = co_await guard_();
    if (!allowed.ok()) co_return allowed;
  }
  if (HF_MUTANT(kUnflushedForgotten)) co_return Status();
  auto pieces = unflushed_.Pieces();
  for (const UnflushedWrites::Piece& piece : pieces) {
    HF_PROBE("array: unflushed writes are written again");
    uint64_t attempt = Begin();
    Status status = co_await session_->Write(piece.offset, piece.bytes.span(), WriteFlags::kNone);
    running_.erase(attempt);
    if (!status.ok()) co_return status;
  }
  if (session_->lost()) co_return Error(Errc::kDisconnected, "the session was lost while it was set up");
  co_return Status();
}

// ---- reservations -------------------------------------------------------------------------------------------------

Task<Status> ArrayDevice::Reserve(ReservationKey own_key) {
  Status reserved = co_await session_->Reserve(own_key);
  if (!reserved.ok()) co_return reserved;
  auto state = co_await Read();  // remembers the generation
  co_return state.ok() ? Status() : Status(state.error());
}

Task<Result<ReservationState>> ArrayDevice::Read() {
  auto state = co_await session_->Read();
  if (state.ok()) generation_ = state->generation;
  co_return state;
}

Task<Status> ArrayDevice::Reregister(ReservationKey key) {
  uint32_t known = generation_;
  auto state = co_await Read();
  if (!state.ok()) co_return state.error();
  if (std::count(state->keys.begin(), state->keys.end(), key) > 0) co_return Status();
  auto capabilities = co_await session_->Capabilities();
  if (!capabilities.ok()) co_return capabilities.error();
  if (!capabilities->persist_through_power_loss && (generation_ == 0 || generation_ < known)) {
    generation_ = known;  // asked again, the answer is the same
    co_return Error(Errc::kStale, "the array has lost its reservation keys");
  }
  co_return Error(Errc::kConflict, "our key has been preempted");
}

Task<Status> ArrayDevice::Restore(ReservationKey key) {
  Status status = co_await Reregister(key);
  if (status.code() != Errc::kStale) co_return status;
  HF_PROBE("array: keys lost, the daemon registers anew");
  status = co_await session_->Register(key);
  if (!status.ok()) co_return status;
  status = co_await Reserve(key);
  co_return status;
}

}  // namespace holdfast::whole
