// VfsCore: what all operations of vfs.h stand on: the parts of the mount, the inodes in memory, locking with
// revalidation, and the hooks by which an inode's lock is let go. Operations are in vfs_*.cc.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/block_device.h"
#include "base/clock.h"
#include "fs/alloc.h"
#include "fs/directory.h"
#include "fs/extents.h"
#include "fs/inode.h"
#include "fs/journal.h"
#include "fs/lock_table.h"
#include "fs/meta_cache.h"
#include "fs/open_locks.h"
#include "fs/superblock.h"
#include "fs/vfs_types.h"

namespace holdfast::fs {

struct VfsKnobs {
  size_t inodes_max = 16384;                      // clean inodes kept in memory
  size_t nodes_per_inode_max = 1024;              // pinned tree blocks of one inode
  Duration flush_age = Seconds(5);                // written data goes to disk after this long
  Duration flush_interval = Seconds(1);
  size_t dirty_bytes_max = size_t{256} << 20;     // of all files; beyond it a writer writes back first
  size_t inode_dirty_bytes_max = size_t{16} << 20;
  size_t inode_dirty_runs_max = 256;              // separate pieces of one file
  size_t io_bytes_max = size_t{1} << 20;          // of one device write
  size_t ios_in_flight = 8;                       // of one write-back
  Duration reap_delay = Milliseconds(100);        // unlinked inodes gather this long before they are freed
  Duration reap_retry = Seconds(5);               // for those that somebody had open
  size_t reap_batch = 128;
  size_t free_extents_max = 64;                   // per transaction
};

struct VfsParts {
  BlockDevice* device = nullptr;
  const Superblock* super = nullptr;
  MetaCache* cache = nullptr;
  Journal* journal = nullptr;
  Allocator* allocator = nullptr;
  LockTable* locks = nullptr;
  OpenLocks* open_locks = nullptr;
  Clock* clock = nullptr;
  std::function<void(Error)> fatal;  // background work met an error that makes the mount useless
  VfsKnobs knobs;
};

class Orphans;

// An inode under its lock. Movable; gives the lock back when it goes.
class [[nodiscard]] LockedInode {
 public:
  LockedInode() = default;
  LockedInode(LockGuard guard, Inode* inode, InodeTable* table) : guard_(std::move(guard)), inode_(inode), table_(table) {
    table_->Use(inode_);
  }
  LockedInode(LockedInode&& o) noexcept
      : guard_(std::move(o.guard_)), inode_(std::exchange(o.inode_, nullptr)), table_(o.table_) {}
  LockedInode& operator=(LockedInode&& o) noexcept {
    if (this != &o) {
      Release();
      guard_ = std::move(o.guard_);
      inode_ = std::exchange(o.inode_, nullptr);
      table_ = o.table_;
    }
    return *this;
  }
  ~LockedInode() { Release(); }
  void Release() {
    if (inode_ != nullptr) table_->Unuse(std::exchange(inode_, nullptr));
    guard_.Release();
  }
  explicit operator bool() const { return inode_ != nullptr; }
  Inode* operator->() const { return inode_; }
  Inode& operator*() const { return *inode_; }
  const LockGuard& guard() const { return guard_; }

 private:
  LockGuard guard_;
  Inode* inode_ = nullptr;
  InodeTable* table_ = nullptr;
};

// Aligned memory with the bytes of whole pages that are being written.
struct PageSource {
  std::byte* bytes = nullptr;
  std::shared_ptr<void> owner;
};

class VfsCore final : public LockHooks {
 public:
  explicit VfsCore(VfsParts p);
  ~VfsCore() override;

  // ---- names of inodes ----
  InodeNo root() const { return parts.super->root_inode; }
  KernelInode Node(const Inode& inode) const { return NodeOf(inode.number, inode.core.generation, root()); }
  Attr AttrOf(const Inode& inode) const { return fs::AttrOf(inode, root()); }

  // ---- locking ----
  // By the kernel's number, which may be anything: kStale if it names no inode of that generation.
  Task<Result<LockedInode>> Lock(KernelInode node, LockMode mode, LockOptions options = {});
  // By a directory entry or an orphan link, under the lock that protects it: what is wrong there is kCorrupt.
  Task<Result<LockedInode>> LockNumber(InodeNo number, uint32_t generation, LockMode mode, LockOptions options = {});
  // For an orphan: also one that is being freed.
  Task<Result<LockedInode>> LockOrphan(InodeNo number, LockOptions options);
  // Reads the tree block that the inode's last tree operation missed.
  Task<Status> LoadMissing(Inode* inode);

  // ---- space ----
  // Out of the pool without suspending if possible; on a full volume waits for unlinked inodes to be freed first.
  // Interrupted, it leaves the request to run to its end without it. REQUIRES: no transaction open.
  Task<Result<Reservation>> Reserve(ReserveRequest request, Interrupt* interrupt = nullptr);

  WallTime Now() const { return parts.clock->Wall(); }

  // ---- data (write_back.cc, truncate.cc) ----
  // REQUIRES for all of these: the inode's lock EX and nobody else at it (a guard, or its Flush hook).
  Task<Status> WriteBack(Inode* inode);
  // Frees the blocks from file block `first` on, in as many transactions as it takes; then runs the last of them.
  Task<Status> FreeBlocks(Inode* inode, uint64_t first, uint64_t count, bool emergency);
  Task<Status> FinishTruncate(Inode* inode);
  // Leaves inline data: what there is becomes a dirty page (or nothing).
  Task<Status> LeaveInline(Inode* inode);
  // Makes the page that holds byte `offset` dirty and whole in memory.
  Task<Result<DirtyPage*>> PageForUpdate(Inode* inode, uint64_t page);
  // Promises blocks for the pages [first, first + count) that are holes and adds them; whole[] pages are not read.
  // source: kept instead of new pages where there are none.
  Task<Status> PreparePages(Inode* inode, uint64_t offset, uint64_t length, Interrupt* interrupt = nullptr,
                            PageSource source = {});
  Task<Status> ZeroTail(Inode* inode, uint64_t new_size);
  // Adds the block to what LockGroupsFor gets, unless that would be too many groups.
  void AddGroup(std::vector<Extent>* extents, BlockNo block);
  size_t dirty_bytes() const { return dirty_bytes_; }
  void DirtyChanged(Inode* inode, size_t before);

  // ---- letting go ----
  Task<Status> Flush(Resource resource) override;
  void Drop(Resource resource, LockMode to) override;

  // Background: dirty data by age.
  Task<void> FlusherLoop();
  void Fatal(const Error& error);

  VfsParts parts;
  InodeTable table;
  std::unique_ptr<Orphans> orphans;
  bool stopping = false;
  bool abandoned = false;
  WaitList stop_changed;
  Scope scope;

 private:
  Task<Result<LockedInode>> LockLoaded(InodeNo number, LockMode mode, LockOptions options, bool hostile);
  Task<Result<Reservation>> ReserveSlowly(ReserveRequest request);
  Task<Status> WriteInline(Inode* inode);
  struct Piece;
  Task<Result<std::vector<Piece>>> PlanWrites(Inode* inode);
  Task<void> WritePieces(Inode* inode, std::vector<Piece>* pieces, size_t* next, Status* result);
  void GiveBackPieces(Inode* inode, const std::vector<Piece>& pieces);
  Task<Status> LogPieces(Inode* inode, std::vector<Piece>* pieces);
  size_t dirty_bytes_ = 0;
};

// Wakes up after `delay` or when the mount stops; false when it stops.
Task<bool> Pause(VfsCore* core, Duration delay);

Status CheckName(std::string_view name);

// Room that one transaction needs for a change of a tree: the path, its neighbours, the splits.
uint32_t TreeCredits(Tree& tree);

}  // namespace holdfast::fs

// Runs a synchronous tree operation, loading blocks that it misses: HF_CO_LOAD(found, dir.Find(name), core, inode);
#define HF_CO_LOAD(var, expression, core, inode)               \
  auto var = (expression);                                     \
  while (var.code() == ::holdfast::Errc::kWouldBlock) {        \
    auto hf_loaded_ = co_await (core)->LoadMissing(inode);     \
    if (!hf_loaded_.ok()) co_return hf_loaded_.error();        \
    var = (expression);                                        \
  }                                                            \
  if (!var.ok()) co_return var.error()
