#include "fs/inode.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace holdfast::fs {

DiskTime ToDisk(WallTime time) {
  DiskTime disk;
  disk.seconds = static_cast<uint64_t>(time.seconds);
  disk.nanoseconds = time.nanoseconds;
  return disk;
}

WallTime FromDisk(const DiskTime& time) {
  return {static_cast<int64_t>(uint64_t{time.seconds}), std::min<uint32_t>(time.nanoseconds, 999'999'999)};
}

KernelInode NodeOf(InodeNo number, uint32_t generation, InodeNo root) {
  return number == root ? kRootNode : uint64_t{generation & 0xffff} << 48 | number.v;
}

Attr AttrOf(const Inode& inode, InodeNo root) {
  const DiskInode& c = inode.core;
  Attr a;
  a.node = NodeOf(inode.number, c.generation, root);
  a.number = inode.number;
  a.generation = c.generation;
  a.mode = c.mode;
  a.nlink = c.nlink;
  a.uid = c.uid;
  a.gid = c.gid;
  a.rdev = c.rdev;
  a.size = inode.directory() ? uint64_t{c.size} + kBlockSize : uint64_t{c.size};
  a.blocks = (c.blocks + inode.data.promised() + (inode.inline_data() && c.size > 0 ? 1 : 0)) * (kBlockSize / 512);
  a.atime = FromDisk(c.atime);
  a.mtime = FromDisk(c.mtime);
  a.ctime = FromDisk(c.ctime);
  a.btime = FromDisk(c.btime);
  a.change = c.change;
  a.project = c.project;
  a.flags = c.flags;
  a.acquisition = inode.acquisition;
  return a;
}

void Inode::Touch(WallTime now, bool modified) {
  core.ctime = ToDisk(now);
  if (modified) core.mtime = core.ctime;
  core.change = core.change + 1;
}

void Inode::Log(Transaction& tx, bool with_size) {
  if (with_size && core.size > disk_size) tx.OrderAfterData();
  if (with_size) disk_size = core.size;
  DiskInode& on_disk = *reinterpret_cast<DiskInode*>(tx.Change(block).data() + kInodeOffset);
  on_disk = core;
  on_disk.size = disk_size;
  dirty_core = disk_size != core.size;
}

void Inode::Reload() {
  uint64_t size = core.size;
  bool ahead = data.dirty() && size != disk_size;
  std::memcpy(&core, block.bytes().data() + kInodeOffset, sizeof(core));
  disk_size = core.size;
  if (ahead) core.size = size;
  DropNodes();
}

Status CheckInode(std::span<const std::byte> block, InodeNo number) {
  const DiskInode& d = *reinterpret_cast<const DiskInode*>(block.data() + kInodeOffset);
  if (d.number != number.v || d.generation == 0) return Error(Errc::kCorrupt, "inode with a wrong number or generation");
  NodeOwner owner{number.v, d.generation};
  auto xattrs = block.subspan(kXattrRootOffset, kXattrRootBytes);
  auto data = block.subspan(kDataRootOffset, kDataRootBytes);
  HF_TRY(NodeView::Check(xattrs, NodeKind::kXattrs, owner));
  bool in_line = (d.state & kInodeInlineData) != 0;
  switch (TypeOfMode(d.mode)) {
    case FileType::kDirectory:
      if (in_line) return Error(Errc::kCorrupt, "directory with inline data");
      return NodeView::Check(data, NodeKind::kNames, owner);
    case FileType::kRegular:
    case FileType::kSymlink:
      if (d.size > kFileSizeMax) return Error(Errc::kCorrupt, "inode with an impossible size");
      if (in_line && d.size > kInlineDataMax) return Error(Errc::kCorrupt, "inline data longer than its area");
      if (in_line) return Status();
      return NodeView::Check(data, TypeOfMode(d.mode) == FileType::kSymlink ? NodeKind::kPieces : NodeKind::kExtents,
                             owner);
    case FileType::kFifo:
    case FileType::kSocket:
    case FileType::kCharDevice:
    case FileType::kBlockDevice:
      return Status();
    default:
      return Error(Errc::kCorrupt, "inode of an unknown type");
  }
}

// ---- InodeStore ----------------------------------------------------------------------------------------------------

Result<std::span<const std::byte>> InodeStore::Node(BlockNo block) {
  if (block == kRootNodeBlock) return inode_.block.bytes().subspan(RootOffset(), RootBytes());
  auto it = inode_.nodes.find(block.v);
  if (it != inode_.nodes.end()) return it->second.bytes().subspan(kTreeNodeOffset, kTreeNodeBytes);
  if (!cache_.geometry().ValidTarget(block)) return Error(Errc::kCorrupt, "a tree points outside the groups");
  BlockRef ref = cache_.Find(block);
  if (!ref) {
    inode_.missing = block.v;
    return Errc::kWouldBlock;
  }
  if (ref.type() != BlockType::kTree || ref.resource() != inode_.resource())
    return Error(Errc::kCorrupt, "a tree points to a block that is not its own");
  auto bytes = ref.bytes().subspan(kTreeNodeOffset, kTreeNodeBytes);
  HF_TRY(NodeView::Check(bytes, kind_, inode_.owner()));
  inode_.nodes.emplace(block.v, std::move(ref));
  return bytes;
}

bool InodeStore::InMemory(BlockNo block) { return Node(block).ok(); }

bool InodeStore::MayFree(BlockNo block) { return groups_ != nullptr && groups_->Covers(block); }

std::span<std::byte> InodeStore::Change(BlockNo block) {
  if (block == kRootNodeBlock) return tx_->Change(inode_.block).subspan(RootOffset(), RootBytes());
  auto it = inode_.nodes.find(block.v);
  HF_CHECK(it != inode_.nodes.end(), "tree block %llu is changed but was not read",
           static_cast<unsigned long long>(block.v));
  return tx_->Change(it->second).subspan(kTreeNodeOffset, kTreeNodeBytes);
}

Result<BlockNo> InodeStore::New() {
  if (reservation_ == nullptr || reservation_->meta_left() == 0) return Errc::kNoSpace;
  BlockNo taken = reservation_->TakeMeta(BlockNo(inode_.number.v));
  if (cache_.Dirty(taken)) return Error(Errc::kCorrupt, "the bitmap called block " + std::to_string(taken.v) + " free, which is in use");
  BlockRef ref = reservation_->New(*tx_, taken, BlockType::kTree, inode_.resource());
  BlockNo number = ref.number();
  inode_.nodes.insert_or_assign(number.v, std::move(ref));
  inode_.core.blocks = inode_.core.blocks + 1;
  return number;
}

void InodeStore::Free(BlockNo block) {
  auto it = inode_.nodes.find(block.v);
  HF_CHECK(it != inode_.nodes.end(), "tree block %llu is freed but was not read",
           static_cast<unsigned long long>(block.v));
  Status freed = allocator_->FreeMeta(*tx_, *groups_, it->second);
  if (!freed.ok() && error_.ok()) error_ = freed;
  inode_.nodes.erase(block.v);
  inode_.core.blocks = inode_.core.blocks - 1;
}

// ---- InodeTable ----------------------------------------------------------------------------------------------------

InodeTable::~InodeTable() = default;

Inode* InodeTable::Peek(InodeNo number) {
  auto it = map_.find(number.v);
  return it == map_.end() ? nullptr : it->second.get();
}

Inode* InodeTable::Find(InodeNo number, uint64_t acquisition) {
  Inode* inode = Peek(number);
  if (inode == nullptr) return nullptr;
  if (inode->acquisition != acquisition || !inode->block.attached()) {
    HF_CHECK(!inode->data.dirty(), "inode %llu lost its lock with dirty data",
             static_cast<unsigned long long>(number.v));
    Drop(number);
    return nullptr;
  }
  if (inode != newest_) {
    Unlink(inode);
    Link(inode);
  }
  return inode;
}

Inode* InodeTable::Add(InodeNo number, uint64_t acquisition, BlockRef block) {
  auto inode = std::make_unique<Inode>();
  inode->number = number;
  inode->acquisition = acquisition;
  inode->block = std::move(block);
  std::memcpy(&inode->core, inode->block.bytes().data() + kInodeOffset, sizeof(DiskInode));
  inode->disk_size = inode->core.size;
  Inode* p = inode.get();
  Drop(number);
  map_[number.v] = std::move(inode);
  Link(p);
  Trim();
  return p;
}

void InodeTable::Drop(InodeNo number) {
  auto it = map_.find(number.v);
  if (it == map_.end()) return;
  Inode* inode = it->second.get();
  Unlink(inode);
  if (inode->users > 0) {
    inode->dead = true;
    dead_.push_back(std::move(it->second));
  }
  map_.erase(it);
}

void InodeTable::Unuse(Inode* inode) {
  --inode->users;
  if (inode->users == 0 && inode->dead)
    std::erase_if(dead_, [inode](const std::unique_ptr<Inode>& d) { return d.get() == inode; });
}

void InodeTable::Link(Inode* inode) {
  inode->older = newest_;
  inode->newer = nullptr;
  (newest_ ? newest_->newer : oldest_) = inode;
  newest_ = inode;
}

void InodeTable::Unlink(Inode* inode) {
  (inode->older ? inode->older->newer : oldest_) = inode->newer;
  (inode->newer ? inode->newer->older : newest_) = inode->older;
}

void InodeTable::Trim() {
  Inode* inode = oldest_;
  // A few candidates per call: pinned and dirty inodes are passed over.
  for (int i = 0; inode != nullptr && map_.size() > inodes_max_ && i < 16; ++i) {
    Inode* next = inode->newer;
    if (inode != newest_ && inode->users == 0 && !inode->data.dirty() && !inode->dirty_core) Drop(inode->number);
    inode = next;
  }
}

}  // namespace holdfast::fs
