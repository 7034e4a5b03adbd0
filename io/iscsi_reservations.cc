// See iscsi_reservations.h. PERSISTENT RESERVE OUT/IN as raw commands: SPC-4 6.15, 6.16.

#include "io/iscsi_reservations.h"

#include <algorithm>

#include "base/log.h"
#include "io/scsi_bytes.h"

namespace holdfast::io {

namespace {

enum OutAction : uint8_t { kRegister = 0, kReserve = 1, kPreempt = 4, kPreemptAndAbort = 5 };
enum InAction : uint8_t { kReadKeys = 0, kReadReservation = 1, kReportCapabilities = 2 };
constexpr uint8_t kWriteExclusiveAllRegistrants = 7;
constexpr size_t kKeysBytesMax = 60'000;  // the allocation length has 16 bits: 7,499 keys

}  // namespace

Task<Status> IscsiReservations::Out(uint8_t action, ReservationKey key, ReservationKey action_key, bool persist) {
  Bytes parameters(24);
  PutBe64(parameters, 0, key);
  PutBe64(parameters, 8, action_key);
  parameters[20] = std::byte{persist};
  ScsiCommand command;
  command.cdb[0] = 0x5f;
  command.cdb[1] = action;
  command.cdb[2] = action == kRegister ? 0 : kWriteExclusiveAllRegistrants;
  command.cdb[8] = 24;
  command.cdb_size = 10;
  command.out = parameters;
  command.control = true;
  auto done = co_await session_->Execute(command);
  if (!done.ok()) co_return done.error();
  co_return Status{};
}

Task<Result<Bytes>> IscsiReservations::In(uint8_t action, size_t size) {
  Bytes answer(size);
  ScsiCommand command;
  command.cdb[0] = 0x5e;
  command.cdb[1] = action;
  command.cdb[7] = static_cast<uint8_t>(size >> 8);
  command.cdb[8] = static_cast<uint8_t>(size);
  command.cdb_size = 10;
  command.in = answer;
  command.control = true;
  auto done = co_await session_->Execute(command);
  if (!done.ok()) co_return done.error();
  answer.resize(*done);
  if (answer.size() < 8) co_return Error(Errc::kIo, session_->name() + ": short answer to PERSISTENT RESERVE IN");
  co_return answer;
}

Task<Result<ReservationCapabilities>> IscsiReservations::Capabilities() {
  auto answer = co_await In(kReportCapabilities, 8);
  if (!answer.ok()) co_return answer.error();
  ReservationCapabilities out;
  bool ptpl_active = (std::to_integer<int>((*answer)[3]) & 1) != 0;
  out.persist_through_power_loss = persisted_ || (ptpl_active && try_persist_);
  out.preempt_and_abort = abort_works_;
  co_return out;
}

// REGISTER, with APTPL where the target takes it.
Task<Status> IscsiReservations::RegisterOnce(ReservationKey key, ReservationKey action_key) {
  if (try_persist_) {
    auto status = co_await Out(kRegister, key, action_key, true);
    if (status.ok() && action_key != 0) persisted_ = true;
    if (status.code() != Errc::kUnsupported) co_return status;
    try_persist_ = false;
  }
  auto status = co_await Out(kRegister, key, action_key, false);
  co_return status;
}

Task<Status> IscsiReservations::Register(ReservationKey key) {
  if (key == 0) co_return Error(Errc::kInvalid, "a reservation key is not zero");
  auto status = co_await RegisterOnce(0, key);
  if (status.code() != Errc::kConflict) co_return status;
  // This nexus is registered already; with the same key that is a success.
  auto same = co_await RegisterOnce(key, key);
  co_return same;
}

Task<Status> IscsiReservations::Unregister(ReservationKey key) {
  auto status = co_await RegisterOnce(key, 0);
  if (status.code() != Errc::kConflict) co_return status;
  auto count = co_await CountKey(key);
  if (!count.ok()) co_return count.error();
  if (*count == 0) co_return Status{};
  co_return status;
}

Task<Status> IscsiReservations::Reserve(ReservationKey own_key) {
  auto status = co_await Out(kReserve, own_key, 0, false);
  if (!status.ok()) co_return status;
  auto state = co_await Read();  // remembers the generation
  if (!state.ok()) co_return state.error();
  co_return Status{};
}

Task<Status> IscsiReservations::Preempt(ReservationKey own_key, ReservationKey victim) {
  if (victim == 0) co_return Error(Errc::kInvalid, "a reservation key is not zero");
  Status status;
  if (try_abort_) {
    status = co_await Out(kPreemptAndAbort, own_key, victim, false);
    if (status.code() == Errc::kUnsupported) {
      try_abort_ = false;
    } else if (status.ok()) {
      abort_works_ = true;
    }
  }
  if (!try_abort_) status = co_await Out(kPreempt, own_key, victim, false);
  if (status.ok() && victim == own_key) co_return status;
  if (!status.ok() && status.code() != Errc::kConflict) co_return status;
  // A conflict: either we are not registered, or the victim is not. And a target's GOOD was once seen with a copy of the
  // key left over (istgt, after a reconnect), so the keys are read in any case.
  auto count = co_await CountKey(victim);
  if (!count.ok()) co_return count.error();
  if (*count == 0) co_return Status{};
  if (!status.ok()) co_return status;
  co_return Error(Errc::kIo, session_->name() + ": the target reported a preempt and still lists the key");
}

Task<Status> IscsiReservations::Drain() {
  auto status = co_await session_->Drain();
  co_return status;
}

Task<Result<ReservationState>> IscsiReservations::Read() {
  ReservationState out;
  size_t size = 8 + 8 * 512;
  for (;;) {
    auto answer = co_await In(kReadKeys, size);
    if (!answer.ok()) co_return answer.error();
    out.generation = GetBe32(*answer, 0);
    size_t length = GetBe32(*answer, 4);
    if (8 + length > size) {
      if (8 + length > kKeysBytesMax) co_return Error(Errc::kIo, session_->name() + ": too many reservation keys");
      size = 8 + length;
      continue;
    }
    if (8 + length > answer->size()) co_return Error(Errc::kIo, session_->name() + ": short list of keys");
    for (size_t at = 8; at + 8 <= 8 + length; at += 8) out.keys.push_back(GetBe64(*answer, at));
    break;
  }
  auto answer = co_await In(kReadReservation, 24);
  if (!answer.ok()) co_return answer.error();
  generation_ = out.generation;
  out.reserved = GetBe32(*answer, 4) >= 16;
  if (out.reserved && answer->size() >= 22) {
    out.all_registrants_write_exclusive = (std::to_integer<int>((*answer)[21]) & 0xf) == kWriteExclusiveAllRegistrants;
  }
  co_return out;
}

Task<Result<size_t>> IscsiReservations::CountKey(ReservationKey key) {
  auto state = co_await Read();
  if (!state.ok()) co_return state.error();
  co_return static_cast<size_t>(std::count(state->keys.begin(), state->keys.end(), key));
}

Task<Status> IscsiReservations::Reregister(ReservationKey key) {
  auto known = co_await RegisterOnce(key, key);
  if (known.code() != Errc::kConflict) co_return known;  // success: the nexus was registered all the time
  uint32_t known_generation = generation_;
  auto before = co_await CountKey(key);
  if (!before.ok()) co_return before.error();
  // The generation starts anew with the array's power; where keys survive that (APTPL), a missing one was preempted.
  if (*before == 0 && !persisted_ && (generation_ == 0 || generation_ < known_generation)) {
    generation_ = known_generation;  // asked again, the answer is the same
    co_return Error(Errc::kStale, session_->name() + " has lost its reservation keys");
  }
  if (*before == 0) co_return Error(Errc::kConflict, "our key on " + session_->name() + " has been preempted");
  auto status = co_await RegisterOnce(0, key);
  if (!status.ok()) co_return status;
  auto after = co_await CountKey(key);
  if (!after.ok()) co_return after.error();
  if (*after > *before) co_return Status{};
  HF_LOG(LogLevel::kWarn, "iscsi", "preempted_while_registering", {{"volume", session_->name()}});
  auto undone = co_await RegisterOnce(key, 0);
  if (!undone.ok()) co_return undone.error();
  co_return Error(Errc::kConflict, "our key on " + session_->name() + " was preempted while we registered it");
}

Task<Status> IscsiReservations::Restore(ReservationKey key) {
  auto status = co_await Reregister(key);
  if (status.code() != Errc::kStale) co_return status;
  HF_LOG(LogLevel::kWarn, "iscsi", "keys_lost", {{"volume", session_->name()}, {"doing", "registering and reserving anew"}});
  status = co_await Register(key);
  if (!status.ok()) co_return status;
  status = co_await Reserve(key);
  co_return status;
}

// --- a fencer's sessions ------------------------------------------------------------------------------------------

namespace {

class FencerSession final : public ReservationSession {
 public:
  explicit FencerSession(std::unique_ptr<IscsiSession> session) : session_(std::move(session)), reservations_(session_.get()) {}
  Reservations& reservations() override { return reservations_; }
  Task<void> Close() override { return session_->Close(); }

 private:
  std::unique_ptr<IscsiSession> session_;
  IscsiReservations reservations_;
};

}  // namespace

bool IscsiReservationSessions::Supports(const std::string& volume) const { return volume.starts_with("iscsi://"); }

Task<Result<std::unique_ptr<ReservationSession>>> IscsiReservationSessions::Open(std::string volume) {
  IscsiOptions options;
  options.initiator_name = initiator_name_;
  options.drain_at_open = false;  // it writes nothing; the fencer drains when the keys are gone
  auto session = co_await IscsiSession::Open(reactor_, std::move(volume), options);
  if (!session.ok()) co_return session.error();
  co_return std::unique_ptr<ReservationSession>(new FencerSession(std::move(*session)));
}

}  // namespace holdfast::io
