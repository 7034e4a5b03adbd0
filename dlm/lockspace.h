// LockSpace: the lock manager as its users see it; an interface, so that tests can fake it. One object is one member
// of one lockspace. Production and simulation use the same implementation (dlm/service.h) over a channel;
// MakeStandaloneLockSpace gives a lockspace of one member without any transport (nolock).
// Threading: everything on one executor. Callbacks are posted to it, never called from inside a call of the user.
// Errors of lock operations: kWouldBlock (NOQUEUE), kTimeout, kCancelled, kDeadlock (conversion deadlock: the lock keeps
// its granted mode), kInvalid (misuse), kFenced (this member is no longer in the view, or was withdrawn), kInterrupted
// (a range wait that was cancelled). docs/protocols/dlm.md
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "base/task.h"
#include "dlm/types.h"
#include "dlm/view.h"

namespace holdfast::dlm {

// The mode that somebody waits for and that this lock's granted mode excludes. May come again with a stronger mode, and
// may come late (after the lock was given up): the callee looks at what it holds. Idempotent by nature.
using BlockingCallback = std::function<void(LockId, Mode wanted)>;

struct RequestOptions {
  Duration timeout{};               // with Flags::kTimeout
  std::optional<ValueBytes> value;  // written when a conversion goes down from PW or EX; ignored otherwise
  uint64_t affinity = 0;            // reserved (issue on affinity); must be 0
};

// ---- introspection ----------------------------------------------------------------------------------------------
struct DumpLock {
  MemberId owner;
  LockId id;
  Mode granted = Mode::kIV;
  Mode requested = Mode::kIV;
  Duration waiting{};  // since it was queued here; zero when it does not wait
};
struct DumpRange {
  MemberId member;
  RangeSpace space = RangeSpace::kFcntl;
  RangeOwner owner;
  uint32_t pid = 0;
  uint64_t start = 0;
  uint64_t end = 0;
  RangeType type = RangeType::kUnlock;
  bool granted = true;
};
struct DumpResource {  // mastered here
  ResourceName name;
  bool frozen = false;         // gate 1 holds it
  bool readers_gated = false;  // gate 2 holds it against CW, PW, EX
  uint64_t value_number = 0;
  bool value_valid = false;
  std::vector<DumpLock> granted, converting, waiting;
  std::vector<DumpRange> ranges;
};
struct DumpWait {  // an operation of this member that has no answer yet
  ResourceName name;
  std::string what;  // "lock EX", "convert PR->EX", "range exclusive 0-99"
  MemberId master;   // default: not known yet
  Duration since{};
};
struct LockSpaceDump {
  MemberId self;
  Generation generation;
  RegisterVersion version;
  std::string state;  // "running", or the recovery state and what it waits for
  bool gate1_closed = false, gate2_closed = false;
  size_t locks = 0;              // handles of this member
  size_t directory_entries = 0;
  std::vector<DumpResource> resources;  // ordered by name
  std::vector<DumpWait> waits;          // oldest first
};
struct Counters {
  uint64_t requests = 0, converts = 0, unlocks = 0, range_ops = 0;  // asked by this member
  uint64_t granted_locally = 0;   // answered without a message
  uint64_t would_block = 0, deadlocks = 0, cancelled = 0, timeouts = 0;
  uint64_t blocking_sent = 0, blocking_received = 0;
  uint64_t forwarded = 0, masters_made = 0, removes = 0, removes_refused = 0;
  uint64_t sent = 0, received = 0;   // messages to and from other members
  uint64_t dropped_dead = 0;         // from former members
  uint64_t resent = 0;               // operations sent again after a recovery
  uint64_t recoveries = 0;           // completed
  uint64_t last_recovery_ns = 0;     // from the view to the barrier
};

class LockSpace {
 public:
  virtual ~LockSpace() = default;
  virtual MemberId self() const = 0;

  // ---- locks ----------------------------------------------------------------------------------------------------
  // A handle; no message, nothing granted (GrantedMode kIV). on_blocking may be empty.
  virtual LockId Create(ResourceName name, BlockingCallback on_blocking) = 0;
  // Forgets a handle. REQUIRES: nothing granted (Unlock it first) and no operation under way.
  virtual void Destroy(LockId lock) = 0;
  // First request, or conversion of a granted lock. One operation at a time per lock (kBusy otherwise). A conversion to
  // a mode that is covered never waits; its new mode counts locally as soon as the call is made.
  virtual Task<Status> Request(LockId lock, Mode mode, Flags flags = Flags::kNone, RequestOptions options = {}) = 0;
  // Gives the lock up altogether; the handle stays for another Request. `value` is written if PW or EX was held. Locally
  // the lock is gone as soon as the call is made; the Task ends when the master has it.
  virtual Task<Status> Unlock(LockId lock, std::optional<ValueBytes> value = std::nullopt) = 0;
  // Asks to end the waiting operation. The master's answer alone decides: Request ends with kCancelled, or with success
  // when the grant was first. No effect when nothing waits.
  virtual void Cancel(LockId lock) = 0;
  virtual Mode GrantedMode(LockId lock) const = 0;
  // As of the last grant to this lock (not refreshed by a conversion downwards).
  virtual ValueBlock Value(LockId lock) const = 0;

  // ---- range locks ----------------------------------------------------------------------------------------------
  // fcntl's F_SETLK / F_SETLKW / F_UNLCK with POSIX splitting and merging; first come, first served among the waiting.
  // Errors: kWouldBlock, kInterrupted (RangeCancel), kFenced. whole-file flock: space kFlock, 0..UINT64_MAX.
  virtual Task<Status> RangeSet(RangeRequest request) = 0;
  // fcntl's F_GETLK: the first range that conflicts, or nothing.
  virtual Task<Result<std::optional<RangeConflict>>> RangeTest(RangeRequest request) = 0;
  // Ends the waiting RangeSet with this token: kInterrupted, and a grant that comes late is undone.
  virtual void RangeCancel(uint64_t token) = 0;
  // Drops all that this member's owner holds or waits for on the resource in that space (close, exit).
  virtual Task<Status> RangeDropOwner(ResourceName name, RangeSpace space, RangeOwner owner) = 0;
  // Drops all that was set through one open file, whoever the owner (RELEASE; OFD locks are named by nothing else).
  virtual Task<Status> RangeDropHandle(ResourceName name, uint64_t handle) = 0;
  // Does this member hold any range on the resource? (No message; lets a close without locks cost nothing.)
  virtual bool HoldsRanges(const ResourceName& name) const = 0;

  // ---- messages between members ---------------------------------------------------------------------------------
  // Opaque; in order, exactly once while both stay members; dropped when `to` is no member (any more).
  virtual void SendApp(MemberId to, Bytes message) = 0;
  virtual void SetAppReceiver(std::function<void(MemberId from, std::span<const std::byte> message)> receiver) = 0;

  // ---- membership and recovery ----------------------------------------------------------------------------------
  // The only input about membership, fencing and the two gates. Older versions are ignored. A view without this member
  // withdraws it (kFenced), or ends a Leave.
  virtual void SetView(const View& view) = 0;
  virtual const View& view() const = 0;
  // Ends with success when the locks of this generation (or a later one) are rebuilt on all members; kFenced.
  virtual Task<Status> Recovered(Generation generation) = 0;
  // Called after each completed rebuild (posted).
  virtual void SetRecoveredCallback(std::function<void(Generation)> callback) = 0;
  // Called once (posted) when this member withdrew by itself: the members contradict each other, or one takes no messages.
  // Its owner ends: what it held counts for the others until it is evicted.
  virtual void SetWithdrawnCallback(std::function<void(std::string why)> callback) = 0;
  // Does the freeze rule hold this resource now? Asked of its master (no message if that is here). A name that nobody
  // knows is frozen as long as any journal is owed. While the caller replays an owed journal the answer stays true
  // once it was true: replay applies images of frozen resources only.
  virtual Task<Result<bool>> Frozen(ResourceName name) = 0;
  // Before a clean leave: waits until own operations have ended and no journal is owed, gives up everything this member
  // still holds. It goes on serving others as master and directory until a view without it arrives.
  virtual Task<Status> Leave() = 0;
  // At once: every waiting and later operation ends with kFenced, nothing is sent any more. No callback.
  virtual void Withdraw(std::string reason) = 0;

  // ---- what is going on -----------------------------------------------------------------------------------------
  virtual LockSpaceDump Dump() const = 0;
  virtual Counters counters() const = 0;
};

}  // namespace holdfast::dlm
