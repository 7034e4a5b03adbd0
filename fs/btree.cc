#include "fs/btree.h"

#include "base/check.h"

namespace holdfast::fs {
namespace {

std::span<const std::byte> PointerBytes(const Le64& pointer) {
  return {reinterpret_cast<const std::byte*>(&pointer), sizeof(pointer)};
}

// Where a full node is cut so that both halves have about the same bytes.
unsigned SplitPoint(const NodeView& node) {
  size_t half = node.UsedBytes() / 2, sum = 0;
  unsigned i = 0;
  while (i + 1 < node.count() && sum + node.BytesOf(i) <= half) sum += node.BytesOf(i++);
  return i == 0 ? 1 : i;
}

}  // namespace

Result<NodeView> Tree::At(BlockNo block) {
  auto bytes = store_.Node(block);
  if (!bytes.ok()) return bytes.error();
  return NodeView(*bytes);
}

Status Tree::Descend(uint64_t key, Path* path) {
  BlockNo block = kRootNodeBlock;
  unsigned above = kTreeLevelMax + 1;
  uint64_t low = 0, last = UINT64_MAX;  // what the nodes above allow
  for (path->depth = 0;; ++path->depth) {
    auto node = At(block);
    if (!node.ok()) return node.error();
    if (node->level() >= above || (path->depth > 0 && node->level() + 1 != above))
      return Error(Errc::kCorrupt, "tree levels do not descend one by one");
    // A first slot's own key is not exact above the leaves.
    bool outside = node->count() > 0 && ((node->level() == 0 && node->key(0) < low) || node->key(node->count() - 1) > last ||
                                         (node->level() > 0 && node->count() > 1 && node->key(1) <= low));
    if (outside) return Error(Errc::kCorrupt, "tree keys outside what their parent says");
    above = node->level();
    path->step[path->depth] = {block, 0};
    if (node->level() == 0) return Status();
    unsigned slot = node->ChildFor(key);
    path->step[path->depth].slot = slot;
    if (slot > 0) low = node->key(slot);
    if (slot + 1 < node->count()) last = node->key(slot + 1) - 1;
    block = BlockNo(node->child(slot));
  }
}

Status Tree::LoadPath(uint64_t key) {
  Path path;
  return Descend(key, &path);
}

unsigned Tree::Height() {
  auto root = At(kRootNodeBlock);
  return root.ok() ? root->level() : 0;
}

// One split per level, the root pushed down, and one more: the record may be as large as a node's half.
size_t Tree::InsertBlocks() { return Height() + 2; }

Result<bool> Tree::Empty() {
  auto root = At(kRootNodeBlock);
  if (!root.ok()) return root.error();
  return root->count() == 0;
}

Result<std::optional<TreeRecord>> Tree::Get(uint64_t key) {
  Path path;
  HF_TRY(Descend(key, &path));
  NodeView leaf = *At(path.leaf().block);
  auto i = leaf.Find(key);
  if (!i) return std::optional<TreeRecord>();
  return std::optional<TreeRecord>(TreeRecord{key, leaf.value(*i)});
}

Result<std::optional<TreeRecord>> Tree::AtOrAfter(uint64_t key) {
  Path path;
  HF_TRY(Descend(key, &path));
  NodeView leaf = *At(path.leaf().block);
  unsigned i = leaf.LowerBound(key);
  if (i < leaf.count()) return std::optional<TreeRecord>(TreeRecord{leaf.key(i), leaf.value(i)});
  auto next = Neighbour(path, true);
  if (next.ok() && *next && (*next)->key <= key) return Error(Errc::kCorrupt, "tree keys out of order");
  return next;
}

Result<std::optional<TreeRecord>> Tree::AtOrBefore(uint64_t key) {
  Path path;
  HF_TRY(Descend(key, &path));
  NodeView leaf = *At(path.leaf().block);
  unsigned i = leaf.LowerBound(key);
  if (i < leaf.count() && leaf.key(i) == key) return std::optional<TreeRecord>(TreeRecord{key, leaf.value(i)});
  if (i > 0) return std::optional<TreeRecord>(TreeRecord{leaf.key(i - 1), leaf.value(i - 1)});
  auto previous = Neighbour(path, false);
  if (previous.ok() && *previous && (*previous)->key >= key) return Error(Errc::kCorrupt, "tree keys out of order");
  return previous;
}

// The first record of the leaves after the path's leaf, or the last of those before it. Leaves below inner nodes are
// never empty, but a damaged volume may have some: they are passed over.
Result<std::optional<TreeRecord>> Tree::Neighbour(Path path, bool after) {
  unsigned depth = path.depth;
  while (depth > 0) {
    --depth;
    NodeView parent = *At(path.step[depth].block);
    unsigned slot = path.step[depth].slot;
    if (after ? slot + 1 >= parent.count() : slot == 0) continue;
    path.step[depth].slot = after ? slot + 1 : slot - 1;
    while (depth < path.depth) {
      NodeView inner = *At(path.step[depth].block);
      BlockNo child(inner.child(path.step[depth].slot));
      auto node = At(child);
      if (!node.ok()) return node.error();
      if (node->level() + 1 != inner.level()) return Error(Errc::kCorrupt, "tree levels do not descend one by one");
      path.step[++depth] = {child, after || node->count() == 0 ? 0 : node->count() - 1};
    }
    NodeView leaf = *At(path.leaf().block);
    if (leaf.count() == 0) continue;
    unsigned i = after ? 0 : leaf.count() - 1;
    return std::optional<TreeRecord>(TreeRecord{leaf.key(i), leaf.value(i)});
  }
  return std::optional<TreeRecord>();
}

Status Tree::Insert(uint64_t key, std::span<const std::byte> value) {
  HF_CHECK(value.size() <= kRecordBytesMax, "a tree record of %zu bytes", value.size());
  Path path;
  HF_TRY(Descend(key, &path));
  if (At(path.leaf().block)->Find(key)) return Errc::kExists;
  return InsertAt(path, path.depth, key, value);
}

Status Tree::InsertAt(Path& path, unsigned depth, uint64_t key, std::span<const std::byte> value) {
  BlockNo block = path.step[depth].block;
  holdfast::fs::Node node(store_.Change(block));
  // The split child was the first one, whose slot key may be higher than what came below it since.
  if (node.level() > 0 && key <= node.key(0)) node.SetKey(0, LowBound(path, depth));
  if (node.Insert(key, value)) return Status();
  if (depth == 0) {
    HF_TRY(PushRootDown(path));
    return InsertAt(path, 1, key, value);
  }
  auto right_block = store_.New();
  if (!right_block.ok()) return right_block.error();
  holdfast::fs::Node right(store_.Change(*right_block));
  right.Init(kind_, node.level(), owner_);
  // Appending in order (extents of a file written from its start) leaves full nodes behind, not half-full ones.
  bool append = key > node.key(node.count() - 1);
  // Pieces of one value come in ascending order in the middle of others: cut where they go.
  bool pieces = node.level() == 0 && (kind_ == NodeKind::kXattrs || kind_ == NodeKind::kPieces);
  unsigned cut = pieces ? node.LowerBound(key) : SplitPoint(node);
  if (!append) node.MoveTail(cut, right);
  bool goes_right = append || key >= right.key(0) || (pieces && node.FreeBytes() < NodeView::Cost(value.size()));
  uint64_t separator = append || (goes_right && key < right.key(0)) ? key : right.key(0);
  bool fits = goes_right ? right.Insert(key, value) : node.Insert(key, value);
  HF_CHECK(fits, "one half of a split node takes %zu bytes", value.size());
  Le64 pointer(right_block->v);
  return InsertAt(path, depth - 1, separator, PointerBytes(pointer));
}

// The exact lower bound of what may be below the path's node at `depth`.
uint64_t Tree::LowBound(const Path& path, unsigned depth) {
  while (depth > 0) {
    --depth;
    if (path.step[depth].slot > 0) return At(path.step[depth].block)->key(path.step[depth].slot);
  }
  return 0;
}

// Everything in the root moves into a new block, of which the root becomes the parent.
Status Tree::PushRootDown(Path& path) {
  if (path.depth >= kTreeLevelMax) return Error(Errc::kCorrupt, "a tree as deep as none can be");
  auto child_block = store_.New();
  if (!child_block.ok()) return child_block.error();
  holdfast::fs::Node root(store_.Change(kRootNodeBlock));
  holdfast::fs::Node child(store_.Change(*child_block));
  child.Init(kind_, root.level(), owner_);
  child.AppendAll(root);
  root.Init(kind_, child.level() + 1, owner_);
  Le64 pointer(child_block->v);
  HF_CHECK(root.Append(0, PointerBytes(pointer)), "an empty root takes a pointer");
  for (unsigned i = path.depth + 1; i > 0; --i) path.step[i] = path.step[i - 1];
  path.step[0] = {kRootNodeBlock, 0};
  path.step[1].block = *child_block;
  ++path.depth;
  return Status();
}

Status Tree::Replace(uint64_t key, std::span<const std::byte> value) {
  Path path;
  HF_TRY(Descend(key, &path));
  auto i = At(path.leaf().block)->Find(key);
  if (!i) return Errc::kNotFound;
  holdfast::fs::Node leaf(store_.Change(path.leaf().block));
  if (leaf.Replace(*i, value)) return Status();
  leaf.Remove(*i);
  return InsertAt(path, path.depth, key, value);
}

Status Tree::Remove(uint64_t key) {
  Path path;
  HF_TRY(Descend(key, &path));
  auto i = At(path.leaf().block)->Find(key);
  if (!i) return Errc::kNotFound;
  RemoveSlot(path, path.depth, *i);
  CollapseRoot();
  return Status();
}

std::vector<BlockNo> Tree::FreedByRemove(uint64_t key) {
  std::vector<BlockNo> blocks;
  Path path;
  if (!Descend(key, &path).ok() || path.depth == 0) return blocks;
  NodeView leaf = *At(path.leaf().block);
  auto i = leaf.Find(key);
  if (!i || leaf.UsedBytes() - leaf.BytesOf(*i) > leaf.size() / 3) return blocks;
  for (unsigned depth = path.depth; depth > 0; --depth) {
    NodeView parent = *At(path.step[depth - 1].block);
    unsigned slot = path.step[depth - 1].slot;
    blocks.push_back(path.step[depth].block);
    if (slot + 1 < parent.count()) blocks.push_back(BlockNo(parent.child(slot + 1)));
    if (slot > 0) blocks.push_back(BlockNo(parent.child(slot - 1)));
  }
  return blocks;
}

void Tree::RemoveSlot(Path& path, unsigned depth, unsigned slot) {
  holdfast::fs::Node node(store_.Change(path.step[depth].block));
  node.Remove(slot);
  if (depth > 0) {
    Shrink(path, depth);
  } else if (node.count() == 0 && node.level() > 0) {
    node.Init(kind_, 0, owner_);
  }
}

// A node that lost a record goes when it is empty, and joins a neighbour when both are sparse.
void Tree::Shrink(Path& path, unsigned depth) {
  BlockNo block = path.step[depth].block;
  NodeView node = *At(block);
  if (node.count() == 0) {
    if (!store_.MayFree(block)) return;
    store_.Free(block);
    RemoveSlot(path, depth - 1, path.step[depth - 1].slot);
    return;
  }
  if (node.UsedBytes() > node.size() / 3) return;
  unsigned slot = path.step[depth - 1].slot;
  BlockNo parent = path.step[depth - 1].block;
  bool merged = TryMerge(parent, slot);
  if (merged) {
    ++slot;
  } else if (slot > 0) {
    merged = TryMerge(parent, slot - 1);
  }
  if (merged) RemoveSlot(path, depth - 1, slot);
}

// Joins child left_slot + 1 into child left_slot if that neighbour is in memory and both fit well. The caller removes
// the slot.
bool Tree::TryMerge(BlockNo parent_block, unsigned left_slot) {
  NodeView parent = *At(parent_block);
  if (left_slot + 1 >= parent.count()) return false;
  BlockNo left_block(parent.child(left_slot)), right_block(parent.child(left_slot + 1));
  if (!store_.InMemory(left_block) || !store_.InMemory(right_block) || !store_.MayFree(right_block)) return false;
  auto left = At(left_block);
  auto right = At(right_block);
  if (!left.ok() || !right.ok() || left->level() + 1 != parent.level() || right->level() + 1 != parent.level()) return false;
  // Keys that do not fit their parent (damage) are not spread further.
  uint64_t border = parent.key(left_slot + 1);
  bool below = left->count() == 0 || left->key(left->count() - 1) < border;
  bool above = right->count() == 0 || (right->level() == 0 ? right->key(0) >= border : right->count() == 1 || right->key(1) > border);
  if (!below || !above) return false;
  if (left->UsedBytes() + right->UsedBytes() > left->size() * 3 / 4) return false;
  holdfast::fs::Node merged(store_.Change(left_block));
  for (unsigned i = 0; i < right->count(); ++i) {
    // A first slot's own key is not exact; the parent's is.
    uint64_t key = i == 0 && right->level() > 0 ? parent.key(left_slot + 1) : right->key(i);
    HF_CHECK(merged.Append(key, right->value(i)), "a merged node has room for %u records", right->count());
  }
  store_.Free(right_block);
  return true;
}

// A root with one small child takes its content back.
void Tree::CollapseRoot() {
  for (;;) {
    NodeView root = *At(kRootNodeBlock);
    if (root.level() == 0 || root.count() != 1) return;
    BlockNo child_block(root.child(0));
    if (!store_.InMemory(child_block) || !store_.MayFree(child_block)) return;
    auto child = At(child_block);
    if (!child.ok() || child->level() + 1 != root.level() || child->UsedBytes() > root.size() / 2) return;
    holdfast::fs::Node writable(store_.Change(kRootNodeBlock));
    writable.Init(kind_, child->level(), owner_);
    writable.AppendAll(*child);
    store_.Free(child_block);
  }
}

}  // namespace holdfast::fs
