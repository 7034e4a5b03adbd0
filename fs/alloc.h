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
  std::vector<uint64_t> taken_;  // metadata blocks taken and not yet made
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

  // After Journal::Open: reads the claims blocks (must be empty: ReturnClaims first) and the favourite group.
  Task<Status> Open();
  // What a replayed journal's owner had claimed goes back to the bitmaps. Of a dead mount whose journal lock we hold, or
  // of our own journal before Open(). Nothing to do is fine. REQUIRES: no group lock held, no transaction open.
  Task<Status> ReturnClaims(MountNo journal, Interrupt* interrupt = nullptr);
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
  Task<Result<GroupLocks>> LockGroupsFor(std::vector<Extent> extents, Interrupt* interrupt = nullptr);
  Status FreeData(Transaction& tx, GroupLocks& locks, Extent extent);
  // The block (an inode, a tree node) stops being metadata: it leaves the cache, its version raises the group's floor.
  Status FreeMeta(Transaction& tx, GroupLocks& locks, BlockRef block);

  // Hooks for kGroup (and kJournal): register with LockTable::SetHooks.
  LockHooks* hooks();

  // Asked when space is short, with a group locked: makes every other live mount checkpoint its journal, and fails when some
  // journal is owed. So nobody may lock a group to answer it. nullptr (nolock): only our own is checkpointed.
  using CheckpointOthers = std::function<Task<Status>()>;
  void SetCheckpointOthers(CheckpointOthers fn) { checkpoint_others_ = std::move(fn); }
  // Asked before that, with no group locked: every other live mount gives its unused claims back (ShrinkPool).
  using ShrinkOthers = std::function<Task<void>()>;
  void SetShrinkOthers(ShrinkOthers fn) { shrink_others_ = std::move(fn); }
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
  // Every extent claimed now (tests, fsck of a live model).
  std::vector<Extent> claimed() const;
  const Geometry& geometry() const { return geometry_; }
  Journal& journal() { return journal_; }

 private:
  friend class Reservation;
  struct Need;
  struct GroupHint {  // what was last seen of a group; may be old
    bool known = false;
    uint32_t free = 0;
    uint32_t meta_free = 0;
    uint32_t cursor = 0;  // where the last claim of data ended, in the group
  };

  // alloc_refill.cc
  Task<Status> Refill(ReserveRequest request);
  Task<Status> ClaimRound(Need* need, uint64_t first_group, bool probe);
  Task<Status> ClaimFrom(uint64_t group, Need* need);
  Task<Result<GroupLocks::Group>> LockGroup(uint64_t number, Interrupt* interrupt = nullptr);
  Task<Status> LoadBitmap(GroupLocks::Group* into, uint64_t group, uint32_t index);
  Task<Status> InitialiseBitmaps(uint64_t group, GroupLocks::Group* into);
  Task<Status> ReleaseMetaFree(bool* any);
  Task<Status> ReturnClaimsOf(BlockRef block, Interrupt* interrupt);
  Task<Status> ReturnPool(uint64_t keep_data, uint64_t keep_meta);
  void Learn(uint64_t group, const BlockRef& header);
  bool Blocked(uint64_t start, uint64_t count) const;
  void PrunePending();
  bool Sufficient(const ReserveRequest& request) const;
  uint64_t FavouriteGroup() const;
  void EncodeInto(Transaction& tx);

  // alloc_free.cc. Changes `extent` from state `from` to `to` in the bitmaps and the header's counts.
  Status SetStates(Transaction& tx, GroupLocks::Group& group, uint64_t number, Extent extent, BlockState from, BlockState to);

  LockTable& locks_;
  Journal& journal_;
  MetaCache& cache_;
  Geometry geometry_;
  AllocatorKnobs knobs_;
  std::unique_ptr<Claims> claims_;
  std::unique_ptr<LockHooks> hooks_;
  CheckpointOthers checkpoint_others_;
  ShrinkOthers shrink_others_;
  Mutex refill_;
  std::vector<GroupHint> hints_;
  uint64_t group_ = 0;  // where the last claim came from
  std::multimap<uint64_t, std::pair<uint64_t, uint64_t>> pending_free_;  // data start -> {count, record that frees it}
  BlockRef claims_blocks_[kClaimsBlocks];
  bool claims_changed_ = false;
  bool open_ = false;
  Instant probed_;  // when every group was last looked at in vain
  uint64_t total_ = 0;
  int64_t free_sum_ = 0;  // of all bitmaps, as far as known
  uint64_t meta_promised_ = 0;
  uint64_t data_promised_ = 0;
  int64_t delta_ = 0;
};

}  // namespace holdfast::fs
