// The array's reservations as a fencer reaches them in the simulated world: a session of its own for each use.
#pragma once

#include <memory>
#include <string>

#include "base/reservation_sessions.h"
#include "tests/sim/disk.h"

namespace holdfast::whole {

inline constexpr const char* kArrayUrl = "iscsi://array/iqn.2026-01.sim:volume/1";

class SimReservationSession final : public ReservationSession {
 public:
  explicit SimReservationSession(std::unique_ptr<sim::SimDiskSession> session) : session_(std::move(session)) {}
  Reservations& reservations() override { return *session_; }
  Task<void> Close() override { return session_->Close(); }

 private:
  std::unique_ptr<sim::SimDiskSession> session_;
};

class SimReservationSessions final : public ReservationSessions {
 public:
  SimReservationSessions(sim::SimDisk* disk, sim::SimExecutor* executor) : disk_(disk), executor_(executor) {}
  bool Supports(const std::string& volume) const override { return volume.starts_with("iscsi://"); }
  Task<Result<std::unique_ptr<ReservationSession>>> Open(std::string volume) override {
    if (volume != kArrayUrl) co_return Error(Errc::kInvalid, volume + ": no such volume");
    std::unique_ptr<ReservationSession> session = std::make_unique<SimReservationSession>(disk_->Open(*executor_));
    co_return session;
  }

 private:
  sim::SimDisk* disk_;
  sim::SimExecutor* executor_;
};

}  // namespace holdfast::whole
