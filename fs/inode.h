// Inode: one inode in memory while its cluster lock is held: its attributes, pinned tree nodes, and written data that
// is not on disk yet. InodeTable keeps them, each valid for one acquisition of its lock; the table never waits.
// INVARIANT: `core` is the truth; the block has the same but for `size` and times while data is dirty (disk_size is
// what the log knows: a size is logged only after the data that it covers is on disk).
// Threading: one executor; shared PR holders only read core and add pinned nodes.
#pragma once

#include <memory>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "fs/alloc.h"
#include "fs/btree.h"
#include "fs/disk_inode.h"
#include "fs/file_data.h"
#include "fs/lock_table.h"
#include "fs/meta_cache.h"
#include "fs/transaction.h"
#include "fs/vfs_types.h"

namespace holdfast::fs {

inline constexpr uint64_t kInodeMask = (uint64_t{1} << 48) - 1;

struct Inode {
  InodeNo number;
  uint64_t acquisition = 0;
  BlockRef block;
  DiskInode core;
  uint64_t disk_size = 0;
  bool dirty_core = false;  // times or size are ahead of the log
  FileData data;
  std::unordered_map<uint64_t, BlockRef> nodes;  // checked tree blocks
  uint64_t missing = 0;      // the block that a tree operation wanted
  BlockRef loading;          // ... kept in memory until the tree has looked at it
  uint32_t users = 0;        // operations that hold a pointer
  bool dead = false;         // was taken out of the table while users had it
  uint64_t read_ahead = 0;   // allocation: where the next data should go
  Inode* older = nullptr;    // the table's list of inodes by last use
  Inode* newer = nullptr;

  Resource resource() const { return ResourceOf(number); }
  // Nobody may use it: being freed, or freed and not yet overwritten.
  bool gone() const { return core.nlink == 0 && (core.state & (kInodeOrphan | kInodeDead)) != kInodeOrphan; }
  FileType type() const { return TypeOfMode(core.mode); }
  bool directory() const { return type() == FileType::kDirectory; }
  bool regular() const { return type() == FileType::kRegular; }
  bool inline_data() const { return (core.state & kInodeInlineData) != 0; }
  uint64_t size() const { return core.size; }
  NodeOwner owner() const { return {number.v, core.generation}; }
  uint64_t entries() const { return uint64_t{core.entries_high} << 32 | core.entries_low; }
  void set_entries(uint64_t n) {
    core.entries_low = static_cast<uint32_t>(n);
    core.entries_high = static_cast<uint32_t>(n >> 32);
  }
  std::span<const std::byte> data_area() const { return block.bytes().subspan(kDataRootOffset, kDataRootBytes); }

  void Touch(WallTime now, bool modified);   // ctime and change, mtime too if modified
  // Writes core into the block. with_size: data up to `size` is on disk (or there is none to write).
  void Log(Transaction& tx, bool with_size);
  // Forgets what a failed operation did to core.
  void Reload();
  void DropNodes() { nodes.clear(); }
};

DiskTime ToDisk(WallTime time);
WallTime FromDisk(const DiskTime& time);
KernelInode NodeOf(InodeNo number, uint32_t generation, InodeNo root);
Attr AttrOf(const Inode& inode, InodeNo root);

// Checks a block of type kInode: number, type bits, both root nodes. kCorrupt with words.
Status CheckInode(std::span<const std::byte> block, InodeNo number);

// The blocks of one of an inode's trees (btree.h), outside or inside a transaction.
class InodeStore final : public TreeStore {
 public:
  InodeStore(MetaCache& cache, Inode& inode, NodeKind kind) : cache_(cache), inode_(inode), kind_(kind) {}
  // From here on in this transaction; nodes may be freed in these groups (nullptr: none).
  void Join(Transaction* tx, Reservation* reservation, Allocator* allocator = nullptr, GroupLocks* groups = nullptr) {
    tx_ = tx;
    reservation_ = reservation;
    allocator_ = allocator;
    groups_ = groups;
  }
  // The first thing that went wrong while freeing: the transaction must be aborted.
  const Status& error() const { return error_; }

  Result<std::span<const std::byte>> Node(BlockNo block) override;
  bool MayFree(BlockNo block) override;
  bool InMemory(BlockNo block) override;
  std::span<std::byte> Change(BlockNo block) override;
  Result<BlockNo> New() override;
  void Free(BlockNo block) override;

 private:
  size_t RootOffset() const { return kind_ == NodeKind::kXattrs ? kXattrRootOffset : kDataRootOffset; }
  size_t RootBytes() const { return kind_ == NodeKind::kXattrs ? kXattrRootBytes : kDataRootBytes; }
  MetaCache& cache_;
  Inode& inode_;
  NodeKind kind_;
  Transaction* tx_ = nullptr;
  Reservation* reservation_ = nullptr;
  GroupLocks* groups_ = nullptr;
  Allocator* allocator_ = nullptr;
  Status error_;
};

// A tree of an inode, made for one operation.
struct InodeTree {
  InodeTree(MetaCache& cache, Inode& inode, NodeKind kind) : store(cache, inode, kind), tree(store, kind, inode.owner()) {}
  InodeTree(const InodeTree&) = delete;
  InodeStore store;
  Tree tree;
};

class InodeTable {
 public:
  explicit InodeTable(size_t inodes_max) : inodes_max_(inodes_max) {}
  ~InodeTable();
  // Valid for this acquisition; else nullptr (a stale one is dropped).
  Inode* Find(InodeNo number, uint64_t acquisition);
  // REQUIRES: Find() returned nullptr.
  Inode* Add(InodeNo number, uint64_t acquisition, BlockRef block);
  // The lock was lost or the inode was freed. Users keep a dead one until they are done.
  void Drop(InodeNo number);
  Inode* Peek(InodeNo number);
  void Use(Inode* inode) { ++inode->users; }
  void Unuse(Inode* inode);
  size_t size() const { return map_.size(); }
  template <class F>
  void ForEach(F f) {
    for (auto& [number, inode] : map_) f(*inode);
  }

 private:
  void Link(Inode* inode);
  void Unlink(Inode* inode);
  void Trim();
  size_t inodes_max_;
  std::unordered_map<uint64_t, std::unique_ptr<Inode>> map_;
  std::vector<std::unique_ptr<Inode>> dead_;
  Inode* oldest_ = nullptr;
  Inode* newest_ = nullptr;
};

}  // namespace holdfast::fs
