// Allocator: free space of the volume as one mount uses it. All space goes through claims: extents (data) and blocks
// (metadata) that this mount has taken out of the group bitmaps ahead of use, listed in its journal's claims blocks.
// Inside a transaction taking from the claims never waits, so flushing data and splitting nodes need no group lock.
//
//   auto r = co_await alloc.Reserve({.meta = 3, .data = 16, .goal = near});   // no transaction open; may lock groups
//   InodeNo ino(r->TakeMeta(near).v);                                          // number first, then its lock
//   auto tx = co_await journal.Begin(n);
//   BlockRef b = r->New(*tx, BlockNo(ino.v), BlockType::kInode, ResourceOf(ino));
//   Extent e = r->TakeData(8, goal); ... write the data, wait ...; r->Commit(*tx, e);   // belongs to a file from here
//   tx->Finish();                                                              // the rest of r goes back to the pool
//
// Freeing: auto locks = co_await alloc.LockGroupsFor(extents) (no transaction open, inode locks may be held, not group
// locks), Begin(n + locks->credits()), FreeData/FreeMeta, Finish. Free in batches: kFreeGroupsMax groups at a time.
// A data block freed here is not given out before the freeing record is durable; a metadata block becomes
// free for metadata only, plain free after all journals were checkpointed (filesystem.md).
// LOCKS: group locks, after inodes. REQUIRES for Reserve and LockGroupsFor: the caller holds no group lock.
// Errors: kNoSpace, those of locks and devices, kCorrupt. Threading: one executor.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/sync.h"
#include "fs/geometry.h"
#include "fs/journal.h"
#include "fs/lock_table.h"
#include "fs/meta_cache.h"
#include "fs/transaction.h"

namespace holdfast::fs {

struct Extent {
  BlockNo start;
  uint64_t count = 0;
  constexpr auto operator<=>(const Extent&) const = default;
};

class Allocator;
class Claims;  // alloc_claims.h

// A promise out of the pool. What is not used goes back when it is destroyed. Movable; the allocator outlives it.
class [[nodiscard]] Reservation {
 public:
  Reservation() = default;
  Reservation(Reservation&& o) noexcept;
  Reservation& operator=(Reservation&& o) noexcept;
  ~Reservation() { Release(); }
  void Release();
  // Adds the other's promise to this one.
  void Merge(Reservation other);
  // Gives `data` blocks (and `meta` blocks) of the promise to a new reservation.
  Reservation Split(uint64_t data, uint32_t meta);

  uint32_t meta_left() const { return meta_; }
  uint64_t data_left() const { return data_; }

  // A block for metadata, near `goal` if possible; it stays claimed until New(), GiveBack() or the end. REQUIRES: meta_left() > 0.
  BlockNo TakeMeta(BlockNo goal);
  // The block in its first shape. Finish of tx ends its claim; Abort brings it back to the pool.
  BlockRef New(Transaction& tx, BlockNo taken, BlockType type, Resource resource);
  // Both in one.
  BlockRef New(Transaction& tx, BlockType type, Resource resource, BlockNo goal);

  // 1..max blocks, contiguous, near goal (at goal if that is free here). REQUIRES: data_left() > 0. The extent stays
  // claimed until Commit() or GiveBack(); both work after this reservation is gone: they are the allocator's.
  Extent TakeData(uint64_t max, BlockNo goal);

 private:
  friend class Allocator;
  Allocator* alloc_ = nullptr;
  uint32_t meta_ = 0;
  uint64_t data_ = 0;
};

struct ReserveRequest {
  uint32_t meta = 0;      // blocks
  uint64_t data = 0;      // blocks
  BlockNo goal;           // near here; {}: the mount's favourite group
  bool emergency = false; // unlink and truncate: may use what is kept back for a full volume
};

// Group locks and bitmaps in memory for freeing.
class [[nodiscard]] GroupLocks {
 public:
  GroupLocks() = default;
  GroupLocks(GroupLocks&&) noexcept = default;
  GroupLocks& operator=(GroupLocks&&) noexcept = default;
  // Different blocks that freeing all of it may change.
  uint32_t credits() const { return credits_; }
  bool Covers(BlockNo block) const;

 private:
  friend class Allocator;
  struct Group {
    LockGuard guard;
    BlockRef header;
    std::map<uint32_t, BlockRef> bitmaps;  // by index in the group
  };
  std::map<uint64_t, Group> groups_;
  uint32_t credits_ = 0;
};
inline constexpr size_t kFreeGroupsMax = 8;

struct AllocatorKnobs {
  uint32_t meta_pool = 64;            // blocks claimed ahead
  uint64_t data_pool_blocks = 4096;   // claimed ahead (16 MiB); smaller when space is short
  uint32_t emergency_meta = 16;       // kept back in the pool for unlink and truncate
};

struct SpaceTotals {  // blocks of the volume
  uint64_t total = 0;      // usable for data or metadata
  uint64_t free = 0;       // unclaimed, plus our own pool
  uint64_t meta_free = 0;  // counted in free as well
};

class Allocator {
 public:
  Allocator(LockTable& locks, Journal& journal, MetaCache& cache, const Geometry& geometry, AllocatorKnobs knobs = {});
  ~Allocator();

  // After Journal::Open: reads the claims blocks (must be empty: see ReturnClaims in replay.h) and the favourite group.
  Task<Status> Open();
  // Clean unmount, before Journal::Close: gives the whole pool back to the bitmaps. REQUIRES: no reservation alive.
  Task<Status> Close();

  Task<Result<Reservation>> Reserve(ReserveRequest request);
  // Out of the pool as it is, without suspending; empty when the pool does not have it.
  std::optional<Reservation> TryReserve(const ReserveRequest& request);

  // Ends the claim of an extent from TakeData (or a part of it): it belongs to a file when tx finishes.
  void Commit(Transaction& tx, Extent extent);
  // The extent was not used after all.
  void GiveBack(Extent extent);
  void GiveBackMeta(BlockNo taken);

  // Locks the groups of these extents (in order) and reads their bitmaps. At most kFreeGroupsMax different groups.
  Task<Result<GroupLocks>> LockGroupsFor(std::vector<Extent> extents);
  Status FreeData(Transaction& tx, GroupLocks& locks, Extent extent);
  // The block (an inode, a tree node) stops being metadata: it leaves the cache, its version raises the group's floor.
  Status FreeMeta(Transaction& tx, GroupLocks& locks, BlockRef block);

  // Hooks for kGroup (and kJournal): register with LockTable::SetHooks.
  LockHooks* hooks();

  // Asked when space is short: makes every other live mount checkpoint its journal (and give unused claims back), and
  // fails when some journal is owed. nullptr (nolock): only our own is checkpointed.
  using CheckpointOthers = std::function<Task<Status>()>;
  void SetCheckpointOthers(CheckpointOthers fn) { checkpoint_others_ = std::move(fn); }
  // Another mount is short of space: give back what is not promised.
  Task<Status> ShrinkPool();

  // Sums of all group headers as last seen; other mounts' deltas come in through ApplyDelta (about once a second).
  SpaceTotals totals() const;
  Task<Status> LoadTotals();             // reads every group header once, without locks
  int64_t TakeDelta();                   // change of free blocks by this mount since the last call
  void ApplyDelta(int64_t free_blocks);  // what another mount told

  struct PoolStatus {
    uint64_t data = 0, data_promised = 0, meta = 0, meta_promised = 0, extents = 0;
  };
  PoolStatus pool() const;
  const Geometry& geometry() const { return geometry_; }
  Journal& journal() { return journal_; }

 private:
  friend class Reservation;
  friend class GroupHooks;
  struct GroupHint;
  struct Need;

  // alloc_refill.cc
  Task<Status> Refill(ReserveRequest request);
  Task<Result<bool>> ClaimFrom(uint64_t group, Need* need);
  Task<Status> LoadGroup(GroupLocks::Group* group, uint64_t number, bool all_bitmaps);
  Task<Status> InitialiseBitmaps(uint64_t group, GroupLocks::Group* into);
  Task<Result<bool>> ReleaseMetaFree(uint64_t group);
  Task<Status> ReturnPool(bool everything);
  void Learn(uint64_t group, const DiskGroup& header);
  bool PendingFree(BlockNo block, uint64_t* until);
  void PrunePending();
  bool Sufficient(const ReserveRequest& request) const;

  // alloc_bits.cc
  Status SetStates(Transaction& tx, GroupLocks::Group& group, uint64_t number, Extent extent, BlockState from,
                   BlockState from_or, BlockState to, uint64_t version);

  LockTable& locks_;
  Journal& journal_;
  MetaCache& cache_;
  Geometry geometry_;
  AllocatorKnobs knobs_;
  std::unique_ptr<Claims> claims_;
  std::unique_ptr<LockHooks> hooks_;
  CheckpointOthers checkpoint_others_;
  Mutex refill_;
  std::vector<GroupHint> hints_;
  uint64_t data_group_ = 0;  // where the last claim came from
  uint64_t meta_group_ = 0;
  std::map<uint64_t, std::pair<uint64_t, uint64_t>> pending_free_;  // data start -> {count, record}
  uint64_t meta_promised_ = 0;
  uint64_t data_promised_ = 0;
  int64_t delta_ = 0;
  int64_t others_ = 0;
};

}  // namespace holdfast::fs
