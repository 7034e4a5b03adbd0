// ArrayDevice: one process's device on the simulated array as an iscsi:// device behaves (io/iscsi_session.h, and
// io/iscsi_device.h above it): a session that is lost, or whose command has no answer in time, is opened again, drained,
// allowed by the owner's guard; what was written and not flushed is written again; then what waited and what was under
// way goes on. A write refused by the reservation means that this session is fenced; said once.
// An image file has no session to lose and no reservations: byte locks (image_locks.h) take their place.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>

#include "base/unflushed_writes.h"
#include "tests/sim/disk.h"

namespace holdfast::whole {

struct ArrayKnobs {
  bool image = false;
  Duration command_timeout = Seconds(5);  // then the session counts as lost
  Duration stall_limit = Seconds(10);     // without a session for so long: kDisconnected
};

class ArrayDevice final : public BlockDevice, public Reservations {
 public:
  ArrayDevice(sim::SimDisk* disk, sim::SimExecutor* executor, ArrayKnobs knobs);
  void OnFenced(std::function<void(const Error&)> on_fenced) { on_fenced_ = std::move(on_fenced); }
  // Called at every request of the owner's.
  void OnSubmit(std::function<void()> on_submit) { on_submit_ = std::move(on_submit); }
  // Asked after a session was opened again, before anything is written through it.
  void SetReconnectGuard(std::function<Task<Status>()> guard) { guard_ = std::move(guard); }
  // As IscsiReservations: of the nexus that we registered. kStale: the array has lost all keys. kConflict: preempted.
  Task<Status> Reregister(ReservationKey key);
  Task<Status> Restore(ReservationKey key);

  const DeviceInfo& info() const override { return session_->info(); }
  Task<Status> Read(uint64_t offset, std::span<std::byte> out) override;
  Task<Status> Write(uint64_t offset, std::span<const std::byte> in, WriteFlags flags) override;
  Task<Status> Flush() override;
  Task<Status> Discard(uint64_t offset, uint64_t length) override;
  Task<void> Close() override;

  Task<Result<ReservationCapabilities>> Capabilities() override { return session_->Capabilities(); }
  Task<Status> Register(ReservationKey key) override { return session_->Register(key); }
  Task<Status> Unregister(ReservationKey key) override { return session_->Unregister(key); }
  Task<Status> Reserve(ReservationKey own_key) override;
  Task<Status> Preempt(ReservationKey own_key, ReservationKey victim) override { return session_->Preempt(own_key, victim); }
  Task<Status> Drain() override { return session_->Drain(); }
  Task<Result<ReservationState>> Read() override;

 private:
  struct Attempt {
    uint64_t number;
    Instant until;
  };
  Task<Status> Gate();
  uint64_t Begin();
  bool End(uint64_t attempt, const Status& status);  // false: again
  void Watch();
  void Lose(const char* why);
  Task<void> Recover();
  Task<Status> RecoverOnce();
  void Look(const Status& status);

  sim::SimExecutor* executor_;
  ArrayKnobs knobs_;
  std::unique_ptr<sim::SimDiskSession> session_;
  std::function<void(const Error&)> on_fenced_;
  std::function<Task<Status>()> guard_;
  std::function<void()> on_submit_;
  UnflushedWrites unflushed_;
  std::deque<Attempt> attempts_;  // oldest first; ended ones are dropped lazily
  std::set<uint64_t> running_;
  uint64_t next_attempt_ = 1;
  bool watching_ = false;
  bool ready_ = true, recovering_ = false, closing_ = false;
  Instant lost_since_;
  WaitList gate_;
  uint32_t generation_ = 0;  // of the reservations, as last read
  std::optional<Error> fenced_;
};

}  // namespace holdfast::whole
