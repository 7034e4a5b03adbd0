// ArrayDevice: one process's session on the simulated array as an iscsi:// device behaves: a write refused by the reservation
// means that this session is fenced; said once, as io/iscsi_session.h does.
#pragma once

#include <functional>
#include <memory>

#include "tests/sim/disk.h"

namespace holdfast::whole {

class ArrayDevice final : public BlockDevice, public Reservations {
 public:
  explicit ArrayDevice(std::unique_ptr<sim::SimDiskSession> session) : session_(std::move(session)) {}
  void OnFenced(std::function<void(const Error&)> on_fenced) { on_fenced_ = std::move(on_fenced); }

  const DeviceInfo& info() const override { return session_->info(); }
  Task<Status> Read(uint64_t offset, std::span<std::byte> out) override {
    Status status = co_await session_->Read(offset, out);
    Look(status);
    co_return status;
  }
  Task<Status> Write(uint64_t offset, std::span<const std::byte> in, WriteFlags flags) override {
    Status status = co_await session_->Write(offset, in, flags);
    Look(status);
    co_return status;
  }
  Task<Status> Flush() override {
    Status status = co_await session_->Flush();
    Look(status);
    co_return status;
  }
  Task<Status> Discard(uint64_t offset, uint64_t length) override {
    Status status = co_await session_->Discard(offset, length);
    Look(status);
    co_return status;
  }
  Task<void> Close() override { return session_->Close(); }

  Task<Result<ReservationCapabilities>> Capabilities() override { return session_->Capabilities(); }
  Task<Status> Register(ReservationKey key) override { return session_->Register(key); }
  Task<Status> Unregister(ReservationKey key) override { return session_->Unregister(key); }
  Task<Status> Reserve(ReservationKey own_key) override { return session_->Reserve(own_key); }
  Task<Status> Preempt(ReservationKey own_key, ReservationKey victim) override { return session_->Preempt(own_key, victim); }
  Task<Status> Drain() override { return session_->Drain(); }
  Task<Result<ReservationState>> Read() override { return session_->Read(); }

 private:
  void Look(const Status& status) {
    if (status.code() != Errc::kConflict || !on_fenced_) return;
    auto tell = std::exchange(on_fenced_, nullptr);
    Executor::Current().Post([tell, why = status.error()] { tell(why); });
  }
  std::unique_ptr<sim::SimDiskSession> session_;
  std::function<void(const Error&)> on_fenced_;
};

}  // namespace holdfast::whole
