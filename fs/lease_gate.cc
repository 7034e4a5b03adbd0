#include "fs/lease_gate.h"

#include "base/mutants.h"
#include "base/probe.h"

namespace holdfast::fs {
namespace {

constexpr Duration kPoll = Milliseconds(10);  // while the lease is over

}  // namespace

LeaseState LeaseGate::state() const {
  if (HF_MUTANT(kLeaseNotEnforced)) return LeaseState::kValid;
  return page_ ? CheckLease(*page_, incarnation_, clock_.Now()) : LeaseState::kValid;
}

Task<Status> LeaseGate::Wait() {
  while (!Open()) {
    if (shut_) co_return Error(Errc::kFenced, "this mount has withdrawn");
    if (state() == LeaseState::kEvicted) {
      HF_PROBE("lease: a submit finds the lease evicted");
      if (evicted_) std::exchange(evicted_, nullptr)();
      co_return Error(Errc::kFenced, "this node is no longer a member of the cluster");
    }
    HF_PROBE("lease: a submit waits for the lease");
    co_await SleepFor(kPoll);
  }
  co_return Status();
}

void LeaseGate::Done(const Status& status) {
  if (--in_flight_ == 0) drained_.WakeAll();
  if (!status.ok() && on_error_ && !shut_) on_error_(status.error());
}

Task<void> LeaseGate::Drained() {
  while (in_flight_ > 0) co_await drained_.Wait();
}

Task<Status> LeaseGate::Read(uint64_t offset, std::span<std::byte> out) {
  if (!Open()) {
    Status may = co_await Wait();
    if (!may.ok()) co_return may;
  }
  ++in_flight_;
  Status status = co_await device_.Read(offset, out);
  Done(status);
  co_return status;
}

Task<Status> LeaseGate::Write(uint64_t offset, std::span<const std::byte> in, WriteFlags flags) {
  if (!Open()) {
    Status may = co_await Wait();
    if (!may.ok()) co_return may;
  }
  ++in_flight_;
  Status status = co_await device_.Write(offset, in, flags);
  Done(status);
  co_return status;
}

Task<Status> LeaseGate::Flush() {
  if (!Open()) {
    Status may = co_await Wait();
    if (!may.ok()) co_return may;
  }
  ++in_flight_;
  Status status = co_await device_.Flush();
  Done(status);
  co_return status;
}

Task<Status> LeaseGate::Discard(uint64_t offset, uint64_t length) {
  if (!Open()) {
    Status may = co_await Wait();
    if (!may.ok()) co_return may;
  }
  ++in_flight_;
  Status status = co_await device_.Discard(offset, length);
  if (--in_flight_ == 0) drained_.WakeAll();
  co_return status;
}

Task<void> LeaseGate::Close() {
  shut_ = true;
  co_await Drained();
}

}  // namespace holdfast::fs
