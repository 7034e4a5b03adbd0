// Check: one inode, its trees and what is in them.
#include <cstring>

#include "fs/check_state.h"
#include "fs/inode.h"
#include "fs/siphash.h"
#include "fs/xattr.h"

namespace holdfast::fs {
namespace {

std::string Name(uint64_t number) { return "inode " + std::to_string(number); }

}  // namespace

// Looks at an inode the first time that a name or a list leads to it. *out: nullptr when there is no such inode.
Task<Status> Checker::VisitInode(uint64_t number, uint32_t generation, uint8_t type, uint64_t named_by, Known** out) {
  *out = nullptr;
  auto it = inodes_.find(number);
  if (it == inodes_.end()) {
    Known& known = inodes_[number];
    auto block = std::make_shared<AlignedBuffer>(kBlockSize);
    if (!Use(BlockNo(number), 1, BlockState::kMeta, number, "inode")) {
      known.bad = true;
      co_return Status();
    }
    auto good = co_await ReadBlock(BlockNo(number), BlockType::kInode, block->span(), "inode", number);
    if (!good.ok()) co_return good.error();
    Known& mine = inodes_[number];
    auto bytes = std::as_const(*block).span();
    Status valid = *good ? CheckInode(bytes, InodeNo(number)) : Status();
    if (!*good || !valid.ok()) {
      if (*good) Error("inode", Name(number) + ": " + valid.error().message, number, number);
      mine.bad = true;
      co_return Status();
    }
    const auto& inode = *reinterpret_cast<const DiskInode*>(block->data() + kInodeOffset);
    mine.generation = inode.generation;
    mine.nlink = inode.nlink;
    mine.type = static_cast<uint8_t>((inode.mode >> 12) & 15);
    mine.parent = inode.parent;
    ++report_.counts.inodes;
    ++done_;
    Progress();
    HF_CO_TRY(co_await CheckContents(block, number, &mine));
    it = inodes_.find(number);
  }
  Known& known = it->second;
  if (known.bad) co_return Status();
  if (named_by != 0 && (known.generation != generation || known.type != type)) {
    Error("name-target", "directory " + std::to_string(named_by) + ": a name points to " + Name(number) + " with another " +
                             (known.generation != generation ? "generation" : "type"), number, named_by);
    co_return Status();
  }
  *out = &known;
  co_return Status();
}

Task<Status> Checker::CheckContents(std::shared_ptr<AlignedBuffer> block, uint64_t number, Known* known) {
  const DiskInode inode = *reinterpret_cast<const DiskInode*>(block->data() + kInodeOffset);
  uint8_t type = known->type;
  TreeWalk xattrs, data;
  xattrs.inode = data.inode = number;
  xattrs.owner = data.owner = {number, inode.generation};
  xattrs.kind = NodeKind::kXattrs;
  HF_CO_TRY(co_await WalkTree(block, kXattrRootOffset, kXattrRootBytes, &xattrs));
  if (!xattrs.bad) CheckXattrs(xattrs);
  bool in_line = (inode.state & kInodeInlineData) != 0;
  if (type == 4) {
    data.kind = NodeKind::kNames;
    HF_CO_TRY(co_await WalkTree(block, kDataRootOffset, kDataRootBytes, &data));
    ++report_.counts.directories;
    HF_CO_TRY(co_await CheckDirectory(number, inode, data));
  } else if (type == 8 && !in_line) {
    data.kind = NodeKind::kExtents;
    HF_CO_TRY(co_await WalkTree(block, kDataRootOffset, kDataRootBytes, &data));
    CheckExtents(inode, data);
  } else if (type == 10 && !in_line) {
    data.kind = NodeKind::kPieces;
    HF_CO_TRY(co_await WalkTree(block, kDataRootOffset, kDataRootBytes, &data));
    CheckPieces(inode, data);
  }
  if (type != 4) ++report_.counts.files;
  bool dead = (inode.state & kInodeDead) != 0;  // being freed: its counts may be behind
  if (!data.bad && !xattrs.bad && !dead && inode.blocks != data.blocks + xattrs.blocks)
    Error("inode-blocks", Name(number) + ": says " + std::to_string(uint64_t{inode.blocks}) + " blocks, has " +
                              std::to_string(data.blocks + xattrs.blocks), number, number);
  co_return Status();
}

Task<Status> Checker::WalkTree(std::shared_ptr<AlignedBuffer> block, size_t offset, size_t size, TreeWalk* walk) {
  auto root = std::as_const(*block).span().subspan(offset, size);
  std::vector<std::byte> copy(root.begin(), root.end());
  unsigned level = NodeView(root).level();
  auto done = co_await WalkNode(std::move(copy), 0, UINT64_MAX, level, walk, true);
  co_return done;
}

// low, high: bounds of the keys that its parent allows; the first child may hold lower ones.
Task<Status> Checker::WalkNode(std::vector<std::byte> bytes, uint64_t low, uint64_t high, unsigned level, TreeWalk* walk, bool root) {
  auto problem = [&](const std::string& what) {
    walk->bad = true;
    Error("tree", Name(walk->inode) + ": " + what, walk->inode, walk->inode);
  };
  auto checked = NodeView::Check(bytes, walk->kind, walk->owner);
  if (!checked.ok()) {
    problem(checked.error().message);
    co_return Status();
  }
  NodeView node(bytes);
  if (node.level() != level) {
    problem("a tree node is on the wrong level");
    co_return Status();
  }
  if (node.count() > 0 && !root && (node.level() == 0 && node.key(0) < low)) problem("tree keys below their parent's bound");
  if (node.count() > 0 && node.key(node.count() - 1) > high) problem("tree keys above their parent's bound");
  if (level == 0) {
    TakeLeaf(node, walk);
    co_return Status();
  }
  for (unsigned i = 0; i < node.count(); ++i) {
    BlockNo child(node.child(i));
    if (!Use(child, 1, BlockState::kMeta, walk->inode, "a tree node")) {
      walk->bad = true;
      continue;
    }
    ++walk->blocks;
    ++done_;
    AlignedBuffer buffer(kBlockSize);
    auto good = co_await ReadBlock(child, BlockType::kTree, buffer.span(), "tree node", walk->inode);
    if (!good.ok()) co_return good.error();
    if (!*good) {
      walk->bad = true;
      continue;
    }
    auto below = std::as_const(buffer).span().subspan(kTreeNodeOffset, kTreeNodeBytes);
    std::vector<std::byte> copy(below.begin(), below.end());
    uint64_t child_low = i == 0 ? low : node.key(i);
    uint64_t child_high = i + 1 < node.count() ? node.key(i + 1) - 1 : high;
    HF_CO_TRY(co_await WalkNode(std::move(copy), child_low, child_high, level - 1, walk, false));
  }
  co_return Status();
}

void Checker::TakeLeaf(const NodeView& node, TreeWalk* walk) {
  for (unsigned i = 0; i < node.count(); ++i) {
    auto value = node.value(i);
    walk->records.emplace_back(node.key(i), std::vector<std::byte>(value.begin(), value.end()));
  }
}

void Checker::CheckExtents(const DiskInode& inode, TreeWalk& walk) {
  uint64_t end = 0;
  for (auto& [key, value] : walk.records) {
    if (value.size() != sizeof(DiskExtent)) {
      Error("extent", Name(walk.inode) + ": an extent of the wrong size", walk.inode, walk.inode);
      walk.bad = true;
      return;
    }
    const auto& e = *reinterpret_cast<const DiskExtent*>(value.data());
    if (e.count == 0 || key < end || key + e.count > (kFileSizeMax >> 12) + 1 || e.device != 0 ||
        (e.flags & ~(kExtentUnwritten | kExtentShared | kExtentChecksummed)) != 0) {
      Error("extent", Name(walk.inode) + ": extents overlap or are impossible at file block " + std::to_string(key), walk.inode, walk.inode);
      walk.bad = true;
      return;
    }
    end = key + e.count;
    if (Use(BlockNo(e.start), e.count, BlockState::kData, walk.inode, "data")) {
      walk.blocks += e.count;
    } else {
      walk.bad = true;
    }
  }
  (void)inode;
}

void Checker::CheckPieces(const DiskInode& inode, TreeWalk& walk) {
  uint64_t bytes = 0, next = 0;
  bool bad = false;
  for (auto& [key, value] : walk.records) {
    bad |= key != next++ || value.empty() || value.size() > kPieceBytesMax;
    bytes += value.size();
  }
  if (bad || bytes != inode.size) Error("symlink", Name(walk.inode) + ": its target is damaged", walk.inode, walk.inode);
}

// Every attribute: piece 0 with a name whose hash is in the key, then pieces up to its length.
void Checker::CheckXattrs(TreeWalk& walk) {
  auto bad = [&](const char* what) { Error("xattr", Name(walk.inode) + ": " + what, walk.inode, walk.inode); };
  uint64_t current = 0, expected = 0, have = 0, pieces = 0;
  bool open = false;
  auto end = [&] {
    if (open && have != expected) bad("an extended attribute has not its length");
    open = false;
  };
  for (auto& [key, value] : walk.records) {
    uint64_t piece = key & ((1u << kXattrPieceBits) - 1);
    uint64_t attribute = key >> kXattrPieceBits;
    if (piece == 0) {
      end();
      if (value.size() < sizeof(DiskXattr)) return bad("an extended attribute is too short");
      const auto& x = *reinterpret_cast<const DiskXattr*>(value.data());
      if (x.name_bytes == 0 || x.name_bytes > 255 || sizeof(DiskXattr) + x.name_bytes > value.size()) return bad("an extended attribute has no name");
      std::string_view name(reinterpret_cast<const char*>(value.data()) + sizeof(DiskXattr), x.name_bytes);
      if (attribute >> kXattrCollisionBits != (SipHash(report_.super.hash_key, name) & kXattrHashMask)) return bad("an extended attribute is under another's hash");
      current = attribute;
      expected = x.value_bytes;
      have = value.size() - sizeof(DiskXattr) - x.name_bytes;
      pieces = 1;
      open = true;
    } else {
      if (!open || attribute != current || piece != pieces) return bad("a piece of no extended attribute");
      have += value.size();
      ++pieces;
    }
  }
  end();
}

}  // namespace holdfast::fs
