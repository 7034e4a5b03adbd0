// Tree: the B+tree of one inode for extents, names, xattrs and pieces. The root node lives in the inode's block, so a
// small tree is just that node; other nodes are blocks of their own. All operations are synchronous on nodes in
// memory: a node that is not there ends the operation with kWouldBlock before anything has changed; the caller loads
// it (TreeStore::missing) and starts again (LoadPath loads all that a change at a key can need).
// Removal frees empty nodes and merges neighbours that are in memory; a tree whose neighbours are not stays a little
// emptier than it could be. Worst case of new blocks for one insertion: InsertBlocks().
// INVARIANT: an inner slot's key is the exact lower bound of what is below it; the first slot's alone may be higher,
// is never looked at, and is corrected when something is inserted before it or its node is merged.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "fs/node.h"

namespace holdfast::fs {

inline constexpr BlockNo kRootNodeBlock{0};  // names the root area of the inode

// The blocks of one tree: those of an inode under its lock, in a transaction where they change.
class TreeStore {
 public:
  virtual ~TreeStore() = default;
  // The node's bytes, checked (NodeView::Check) and pinned for the operation. kWouldBlock: not in memory; missing()
  // names it. Other errors: kCorrupt, a pointer out of range.
  virtual Result<std::span<const std::byte>> Node(BlockNo block) = 0;
  virtual bool InMemory(BlockNo block) = 0;
  // Writable bytes; REQUIRES an open transaction and that Node(block) succeeded in it.
  virtual std::span<std::byte> Change(BlockNo block) = 0;
  // A new block from the reservation; its bytes are zero.
  virtual Result<BlockNo> New() = 0;
  // May Free(block) be called (its group is locked)? If not, the tree keeps a node emptier than it should be.
  virtual bool MayFree(BlockNo block) = 0;
  virtual void Free(BlockNo block) = 0;
};

struct TreeRecord {
  uint64_t key = 0;
  std::span<const std::byte> value;  // valid until the next change
};

class Tree {
 public:
  Tree(TreeStore& store, NodeKind kind, NodeOwner owner) : store_(store), kind_(kind), owner_(owner) {}

  Result<std::optional<TreeRecord>> Get(uint64_t key);
  // The first record with a key >= key / the last with a key <= key.
  Result<std::optional<TreeRecord>> AtOrAfter(uint64_t key);
  Result<std::optional<TreeRecord>> AtOrBefore(uint64_t key);
  Result<bool> Empty();
  const NodeOwner& owner() const { return owner_; }

  // REQUIRES for changes: LoadPath(key) has succeeded since the last change at another key.
  // Errors: kExists; kNoSpace only if the reservation was too small (a bug of ours).
  Status Insert(uint64_t key, std::span<const std::byte> value);
  Status Replace(uint64_t key, std::span<const std::byte> value);
  Status Remove(uint64_t key);

  // All nodes on the way to key are in memory.
  Status LoadPath(uint64_t key);
  // New blocks that one insertion may take now. REQUIRES: the root is in memory.
  size_t InsertBlocks();
  unsigned Height();  // 0: the root alone
  // Node blocks that removing the record at key may free; empty in the common case. REQUIRES: LoadPath(key).
  std::vector<BlockNo> FreedByRemove(uint64_t key);

  // The node blocks in memory on the way to keys of [first, last].
  template <class Visit>
  void NodesOfRange(uint64_t first, uint64_t last, Visit visit) {
    RangeBelow(kRootNodeBlock, kTreeLevelMax + 1, first, last, visit);
  }

  // Visits every node block (not the root), children before their parents; stops at the first error.
  template <class Visit>
  Status VisitBlocks(Visit visit) {
    return VisitBelow(kRootNodeBlock, kTreeLevelMax + 1, visit);
  }

 private:
  struct Step {
    BlockNo block;
    unsigned slot = 0;  // followed in this node
  };
  struct Path {
    std::array<Step, kTreeLevelMax + 2> step;
    unsigned depth = 0;  // of the leaf
    Step& leaf() { return step[depth]; }
  };
  Result<NodeView> At(BlockNo block);
  Status Descend(uint64_t key, Path* path);
  Result<std::optional<TreeRecord>> Neighbour(Path path, bool after);
  Status InsertAt(Path& path, unsigned depth, uint64_t key, std::span<const std::byte> value);
  uint64_t LowBound(const Path& path, unsigned depth);
  Status PushRootDown(Path& path);
  void RemoveSlot(Path& path, unsigned depth, unsigned slot);
  void Shrink(Path& path, unsigned depth);
  bool TryMerge(BlockNo parent, unsigned left_slot);
  void CollapseRoot();

  template <class Visit>
  void RangeBelow(BlockNo block, unsigned above, uint64_t first, uint64_t last, Visit& visit) {
    if (block != kRootNodeBlock && !store_.InMemory(block)) return;
    auto node = At(block);
    if (!node.ok() || node->level() == 0 || node->level() >= above) return;
    for (unsigned i = node->ChildFor(first); i < node->count() && (i == 0 || node->key(i) <= last); ++i) {
      visit(BlockNo(node->child(i)));
      RangeBelow(BlockNo(node->child(i)), node->level(), first, last, visit);
    }
  }
  template <class Visit>
  Status VisitBelow(BlockNo block, unsigned above, Visit& visit) {
    auto node = At(block);
    if (!node.ok()) return node.error();
    if (node->level() >= above) return Error(Errc::kCorrupt, "tree levels do not descend");
    if (node->level() == 0) return Status();
    for (unsigned i = 0; i < node->count(); ++i) {
      BlockNo child(node->child(i));
      HF_TRY(VisitBelow(child, node->level(), visit));
      HF_TRY(visit(child));
    }
    return Status();
  }

  TreeStore& store_;
  NodeKind kind_;
  NodeOwner owner_;
};

}  // namespace holdfast::fs
