// KernelReservations: persistent reservations of a block device that the kernel drives (SCSI, multipath, NVMe), by the
// generic ioctls of linux/pr.h; what those lack is asked of SCSI devices by SG_IO (READ KEYS, READ RESERVATION) and
// SG_SCSI_RESET (the drain). NVMe has neither here: Read and Drain say kUnsupported, so nothing can be proven by it.
// NOT RUN: no machine of ours has such a device. No program opens it by itself yet (docs/protocols/fencing.md).
// The key belongs to the whole node here, not to a process. Calls block, so they run in the pool.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "base/pool.h"
#include "base/reservations.h"

namespace holdfast::io {

class KernelReservations final : public Reservations {
 public:
  // kNotFound, kPermission, kInvalid (no block device).
  static Result<std::unique_ptr<KernelReservations>> Open(Pool* pool, const std::string& path);
  ~KernelReservations() override;

  Task<Result<ReservationCapabilities>> Capabilities() override;
  Task<Status> Register(ReservationKey key) override;
  Task<Status> Unregister(ReservationKey key) override;
  Task<Status> Reserve(ReservationKey own_key) override;
  Task<Status> Preempt(ReservationKey own_key, ReservationKey victim) override;
  Task<Status> Drain() override;
  Task<Result<ReservationState>> Read() override;

 private:
  KernelReservations(Pool* pool, int fd) : pool_(pool), fd_(fd) {}
  Task<Status> Change(ReservationKey old_key, ReservationKey new_key);
  Pool* pool_;
  int fd_;
  std::atomic<bool> abort_works_{false};  // written by the pool's threads
};

}  // namespace holdfast::io
