// LeaseGate: the volume as a mount may use it: every submit first compares the lease's deadline with now (decided.md,
// "Lease"). Expired: the request waits until the lease is valid again; evicted or withdrawn: kFenced. It also knows
// what is in flight, so that a withdraw can wait for it.
// Without a lease page (nolock) it only counts. Threading: one executor.
#pragma once

#include <functional>

#include "base/block_device.h"
#include "base/lease_page.h"
#include "base/sync.h"

namespace holdfast::fs {

class LeaseGate : public BlockDevice {
 public:
  LeaseGate(BlockDevice& device, Clock& clock) : device_(device), clock_(clock) {}

  // From Join on. REQUIRES: the page lives as long as this.
  void SetLease(const LeasePage* page, Incarnation incarnation) {
    page_ = page;
    incarnation_ = incarnation;
  }
  // Called once, when a submit finds the lease page evicted.
  void SetEvicted(std::function<void()> evicted) { evicted_ = std::move(evicted); }
  // Called with errors that say that we are fenced or that the device failed for good.
  void SetFailed(std::function<void(const Error&)> failed) { on_error_ = std::move(failed); }
  // Withdraw: nothing is submitted any more; what waits for the lease ends with kFenced.
  void Shut() { shut_ = true; }
  bool shut() const { return shut_; }
  size_t in_flight() const { return in_flight_; }
  // Completes when nothing is in flight.
  Task<void> Drained();
  LeaseState state() const;

  const DeviceInfo& info() const override { return device_.info(); }
  Task<Status> Read(uint64_t offset, std::span<std::byte> out) override;
  Task<Status> Write(uint64_t offset, std::span<const std::byte> in, WriteFlags flags) override;
  Task<Status> Flush() override;
  Task<Status> Discard(uint64_t offset, uint64_t length) override;
  Task<void> Close() override;

 private:
  bool Open() const { return !shut_ && (!page_ || state() == LeaseState::kValid); }
  Task<Status> Wait();
  void Done(const Status& status);

  BlockDevice& device_;
  Clock& clock_;
  const LeasePage* page_ = nullptr;
  Incarnation incarnation_;
  std::function<void()> evicted_;
  std::function<void(const Error&)> on_error_;
  bool shut_ = false;
  size_t in_flight_ = 0;
  WaitList drained_;
};

}  // namespace holdfast::fs
