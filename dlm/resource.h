// Resource: one name as its master keeps it: the locks on it with their queues, the value block, the ranges, and what the
// gates hold against it. Decides who can be granted; sends nothing.
// INVARIANT: granted modes are compatible pair by pair. `locks` is ordered by the time of queueing among those that wait.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "dlm/context.h"
#include "dlm/range_table.h"

namespace holdfast::dlm {

// One lock as the master knows it. granted kIV: a first request that waits; requested not kIV: it waits.
struct MasterLock {
  MemberId owner;
  LockId id;
  uint64_t op = 0;  // the operation that waits
  Instant queued_at;
  Flags flags = Flags::kNone;
  Mode granted = Mode::kIV;
  Mode requested = Mode::kIV;
  Mode told = Mode::kIV;        // strongest wanted mode that the holder was told since its last change
  bool under_recovery = false;  // granted through a closed gate

  bool waits() const { return requested != Mode::kIV; }
  bool converts() const { return waits() && granted != Mode::kIV; }
};

struct RangeWaiter {
  MemberId member;
  uint64_t op = 0;
  Instant queued_at;
  RangeArgs range;
};

struct RangeQueue {
  RangeTable table;
  std::deque<RangeWaiter> waiting;
};

struct Resource {
  ResourceName name;
  uint64_t term = 0;
  uint64_t forwards = 0;        // that the directory sent us in this generation
  bool removing = false;        // REMOVE is on its way; nothing is granted until the directory has answered
  uint64_t frozen_epoch = 0;    // gate 1 holds it while its epoch is this
  uint64_t readers_epoch = 0;   // gate 2 likewise
  uint64_t ranges_epoch = 0;    // gate 1, for ranges: a dead member's are not known
  Instant unused_since;
  bool listed_unused = false;   // Master::unused_ has an entry for it
  std::vector<MasterLock> locks;
  std::unique_ptr<ValueBlock> value;
  std::unique_ptr<RangeQueue> ranges;

  bool Unused() const { return locks.empty() && (!ranges || (ranges->table.empty() && ranges->waiting.empty())); }
  bool HasWaiters() const;
  MasterLock* Find(const MemberId& owner, LockId id);
  void Erase(const MemberId& owner, LockId id);

  // Compatible with all granted locks but itself?
  bool FitsGranted(const MasterLock& lock) const;
  // May this waiting lock be granted now, by the queues' rules? (The gates are asked separately.)
  bool MayGrant(size_t index) const;
  // Would this conversion and others wait for each other for ever?
  bool ConversionDeadlock(size_t index) const;
  // Puts a lock at the end of the queue.
  void MoveToEnd(size_t index);
  // Writes the block if it is newer.
  void WriteValue(const ValueBlock& written);
};

bool FrozenNow(const Context& c, const Resource& r);
bool ReadersGatedNow(const Context& c, const Resource& r);
// Do the gates let this request pass?
bool GatesAllow(const Context& c, const Resource& r, Mode mode, Flags flags);

}  // namespace holdfast::dlm
