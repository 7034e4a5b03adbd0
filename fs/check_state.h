// Checker: the state of one check (check.h); check_*.cc only.
// Passes: journals -> groups (bitmaps as they are) -> names from the root -> orphans -> claims -> link counts -> bitmaps
// against what was found -> repair.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <set>
#include <unordered_map>

#include "fs/alloc_claims.h"
#include "fs/check.h"
#include "fs/disk_inode.h"
#include "fs/format.h"
#include "fs/meta_block.h"
#include "fs/node.h"
#include "fs/replay.h"

namespace holdfast::fs {

class Checker {
 public:
  Checker(BlockDevice& device, CheckOptions options) : device_(device), options_(std::move(options)) {}
  Task<Result<CheckReport>> Run();

 private:
  struct Known {  // of one inode
    uint32_t generation = 0;
    uint32_t nlink = 0;
    uint32_t names = 0;     // that lead to it
    uint32_t children = 0;  // directories in it
    uint64_t parent = 0;
    uint8_t type = 0;
    bool orphan = false;
    bool bad = false;
  };
  struct GroupState {
    bool good = false;
    bool unwritten = false;
    bool lost = false;                    // its header or a bitmap is damaged: -y makes them again from what was found
    DiskGroup header;
    std::vector<DiskBitmap> bitmaps;      // as on disk; empty when unwritten
    std::vector<bool> bitmap_good;
    std::unique_ptr<uint8_t[]> found;     // a BlockState per block that something uses; kFree: nothing
  };
  struct Directory {
    uint64_t number;
    uint32_t generation;
  };
  // What the walk over one tree collects.
  struct TreeWalk {
    uint64_t inode = 0;
    NodeOwner owner;
    NodeKind kind = NodeKind::kExtents;
    uint64_t blocks = 0;
    bool bad = false;
    std::vector<std::pair<uint64_t, std::vector<std::byte>>> records;  // of a leaf, taken by the visitor
  };

  // check_volume.cc
  Task<Status> LoadSuper();
  Task<Status> LoadJournals();
  Task<Status> LoadGroups();
  void CheckGroup(uint64_t number, GroupState& group);
  void CompareBitmaps();
  void CompareGroup(uint64_t number, GroupState& group);
  void CountLinks();
  Resource LockOf(BlockNo at, BlockType type, uint64_t inode) const;
  Task<Result<bool>> ReadBlock(BlockNo at, BlockType type, std::span<std::byte> out, const char* who, uint64_t inode,
                               RepairKind repair = RepairKind::kNone);
  void Add(Finding finding);
  void Error(std::string code, std::string text, uint64_t block = 0, uint64_t inode = 0, RepairKind repair = RepairKind::kNone);
  // Marks blocks as used. False (and a finding) when they are out of range or used already.
  bool Use(BlockNo start, uint64_t count, BlockState state, uint64_t inode, const char* what);
  BlockState FoundAt(BlockNo at) const;
  void Progress();

  // check_inode.cc
  Task<Status> VisitInode(uint64_t number, uint32_t generation, uint8_t type, uint64_t named_by, Known** out);
  Task<Status> CheckContents(std::shared_ptr<AlignedBuffer> block, uint64_t number, Known* known);
  Task<Status> WalkTree(std::shared_ptr<AlignedBuffer> block, size_t offset, size_t size, TreeWalk* walk);
  Task<Status> WalkNode(std::vector<std::byte> node, uint64_t low, uint64_t high, unsigned level, TreeWalk* walk, bool root);
  void TakeLeaf(const NodeView& node, TreeWalk* walk);
  void CheckExtents(const DiskInode& inode, TreeWalk& walk);
  void CheckXattrs(TreeWalk& walk);
  void CheckPieces(const DiskInode& inode, TreeWalk& walk);

  // check_names.cc
  Task<Status> WalkNames();
  Task<Status> CheckDirectory(uint64_t number, const DiskInode& inode, TreeWalk& walk);
  Task<Status> CheckOrphans();
  Task<Status> Prefetch(std::vector<uint64_t> blocks);

  // check_repair.cc
  Task<Status> Repair();
  Task<Status> RepairOrphans();
  Task<Status> RepairClaims();
  Task<Status> RepairJournals();
  Task<Status> RepairLinks();
  Task<Status> RebuildGroup(uint64_t number, GroupState& group);
  Task<Status> RebuildStates(uint64_t number, GroupState& group, uint32_t first, uint32_t count, bool lost);
  Task<Status> RepairGroup(uint64_t number, GroupState& group);
  Task<Status> WriteSealed(BlockNo at, std::span<std::byte> block);
  void MarkRepaired(RepairKind kind, uint64_t inode, uint64_t group_first, uint64_t group_end);

  BlockDevice& device_;
  CheckOptions options_;
  CheckReport report_;
  Geometry geometry_;
  std::map<uint64_t, LogImage> overlay_;  // newest image of each block in dirty journals
  std::vector<GroupState> groups_;
  std::unordered_map<uint64_t, Known> inodes_;
  std::deque<Directory> directories_;
  std::unordered_map<uint64_t, std::shared_ptr<AlignedBuffer>> fetched_;
  struct JournalState {
    bool good = false;
    std::vector<uint64_t> orphans;
    std::vector<ClaimExtent> claims;
  };
  std::vector<JournalState> journals_;
  std::unordered_map<uint64_t, uint32_t> pending_names_;  // of directories, which are entered later
  struct Used {
    uint64_t start, count, inode;
  };
  std::vector<Used> used_by_orphans_;  // filled while orphans are visited
  bool in_orphans_ = false;
  std::set<uint64_t> freed_inodes_;
  std::vector<uint64_t> groups_to_repair_;
  bool super_copy_bad_ = false;
  uint64_t done_ = 0, total_ = 0;
};

}  // namespace holdfast::fs
