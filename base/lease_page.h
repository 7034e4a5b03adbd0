// LeasePage: the page of memory in which holdfastd tells its node's mounts until when they may act. Every I/O submit,
// every reply from a cache and the supervisor compare `deadline_ns` with now; nobody has to flip a flag, so a stopped
// holdfastd expires by itself (design: decided.md "Lease"). Suspend at its end; withdraw when evicted.
// Written by one holdfastd life (cluster/lease_page.h creates the file; a later life makes a new file), read by all.
// A plain struct of lock-free atomics: the simulator and tests build one in ordinary memory.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/clock.h"
#include "base/ids.h"

namespace holdfast {

struct LeasePage {
  static constexpr uint64_t kMagic = 0x31'45'53'41'45'4c'46'48;  // "HFLEASE1"

  std::atomic<uint64_t> magic{kMagic};
  std::atomic<uint64_t> incarnation{0};  // the life of the node that the deadline is for
  std::atomic<uint64_t> deadline_ns{0};  // CLOCK_BOOTTIME; 0: no lease
  std::atomic<uint64_t> evicted{0};      // 1: this incarnation is over, for ever
  std::atomic<uint64_t> sequence{0};     // grows with every write: shows that holdfastd is at work
};
static_assert(std::atomic<uint64_t>::is_always_lock_free);
static_assert(sizeof(LeasePage) == 40);

enum class LeaseState : uint8_t {
  kValid,    // go on
  kExpired,  // suspend: submit nothing, answer nothing from caches, hold requests; it may become valid again
  kEvicted,  // withdraw
};

// What a member of `incarnation` may do at `now`.
inline LeaseState CheckLease(const LeasePage& page, Incarnation incarnation, Instant now) {
  if (page.evicted.load(std::memory_order_acquire) != 0) return LeaseState::kEvicted;
  if (page.incarnation.load(std::memory_order_acquire) != incarnation.v) return LeaseState::kEvicted;
  return now.ns < page.deadline_ns.load(std::memory_order_acquire) ? LeaseState::kValid : LeaseState::kExpired;
}

}  // namespace holdfast
