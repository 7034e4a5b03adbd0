#include "fs/vfs_make.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>

#include "fs/acl.h"
#include "fs/orphans.h"

namespace holdfast::fs {

Task<Result<LockedInode>> LockDirectory(VfsCore* core, KernelInode node, LockMode mode, Interrupt* interrupt, bool renames) {
  LockOptions options = Interruptible(interrupt);
  // The request holds i_rwsem, which dropping the names waits for (rule 1): what is held while they are dropped suffices, and
  // the kernel keeps no name that it is given then. But a rename moves one that it has.
  options.page_io = !renames;
  auto locked = co_await core->Lock(node, mode, options);
  if (!locked.ok()) co_return locked.error();
  if (!(*locked)->directory()) co_return Errc::kNotDirectory;
  if (mode == LockMode::kEx && (*locked)->core.nlink == 0) co_return Errc::kNotFound;
  co_return std::move(*locked);
}

Task<Result<FoundName>> FindName(VfsCore* core, Inode* directory, const std::string* name) {
  InodeTree t(*core->parts.cache, *directory, NodeKind::kNames);
  Directory names(t.tree, core->parts.super->hash_key);
  HF_CO_LOAD(found, names.Find(*name), core, directory);
  if (!*found) co_return FoundName{};
  const NameRecord& r = **found;
  co_return FoundName{true, r.cookie, r.inode, r.generation, static_cast<FileType>(r.type)};
}

// ---- NameChange ----------------------------------------------------------------------------------------------------

Task<Status> NameChange::PrepareInsert(const std::string* name) {
  HF_CO_LOAD(cookie, names_.FreeCookie(*name), core_, directory_);
  insert_cookie_ = *cookie;
  HF_CO_LOAD(loaded, t_.tree.LoadPath(insert_cookie_), core_, directory_);
  co_return Status();
}

Task<Status> NameChange::PrepareRedirect(uint64_t cookie) {
  remove_cookie_ = cookie;
  HF_CO_LOAD(loaded, t_.tree.LoadPath(cookie), core_, directory_);
  co_return Status();
}

Task<Status> NameChange::PrepareRemove(uint64_t cookie, Interrupt* interrupt) {
  remove_cookie_ = cookie;
  HF_CO_LOAD(loaded, t_.tree.LoadPath(cookie), core_, directory_);
  std::vector<BlockNo> freed = t_.tree.FreedByRemove(cookie);
  if (freed.empty()) co_return Status();
  std::vector<Extent> places;
  for (BlockNo block : freed) core_->AddGroup(&places, block);
  auto groups = co_await core_->parts.allocator->LockGroupsFor(places, interrupt);
  if (!groups.ok()) co_return groups.error();
  groups_ = std::move(*groups);
  co_return Status();
}

Status NameChange::Insert(const std::string& name, const Inode& child) {
  NameRecord record{insert_cookie_, child.number, child.core.generation, static_cast<uint8_t>(child.type()), name};
  HF_TRY(names_.Insert(insert_cookie_, record));
  directory_->set_entries(directory_->entries() + 1);
  directory_->core.size = directory_->core.size + NameCost(name.size());
  return Status();
}

Status NameChange::Remove(const std::string& name) {
  HF_TRY(names_.Remove(remove_cookie_));
  HF_TRY(t_.store.error());
  directory_->set_entries(directory_->entries() - 1);
  directory_->core.size = directory_->core.size - NameCost(name.size());
  return Status();
}

Status NameChange::Redirect(const std::string& name, const Inode& child) {
  NameRecord record{remove_cookie_, child.number, child.core.generation, static_cast<uint8_t>(child.type()), name};
  return names_.Redirect(remove_cookie_, record);
}

// ---- MakeInode -----------------------------------------------------------------------------------------------------

namespace {

struct Identity {
  uint32_t mode = 0;
  uint32_t gid = 0;
};

Identity IdentityIn(const Inode& parent, const NewInode& spec, uint32_t mode) {
  Identity id{mode, spec.caller.gid};
  if ((parent.core.mode & S_ISGID) != 0) {
    id.gid = parent.core.gid;
    if (TypeOfMode(mode) == FileType::kDirectory) id.mode |= S_ISGID;
  }
  return id;
}

// Long symlink targets: pieces in the data tree.
Status InsertPieces(Tree& tree, const std::string& target) {
  for (size_t i = 0; i * kPieceBytesMax < target.size(); ++i) {
    std::string_view piece = std::string_view(target).substr(i * kPieceBytesMax, kPieceBytesMax);
    HF_TRY(tree.Insert(i, AsBytes(piece)));
  }
  return Status();
}

void FillInode(Inode& inode, const Inode& parent, const NewInode& spec, const Identity& id, WallTime now) {
  DiskInode& c = inode.core;
  c.mode = id.mode;
  c.uid = spec.caller.uid;
  c.gid = id.gid;
  c.project = parent.core.project;
  c.rdev = spec.rdev;
  c.atime = c.mtime = c.ctime = c.btime = ToDisk(now);
  c.change = 1;
  FileType type = TypeOfMode(id.mode);
  c.nlink = type == FileType::kDirectory ? 2 : 1;
  if (type == FileType::kDirectory) {
    c.parent = parent.number.v;
    c.parent_generation = parent.core.generation;
  } else if (type == FileType::kRegular || (type == FileType::kSymlink && spec.target.size() <= kInlineDataMax)) {
    c.state = kInodeInlineData;
  }
  if (type == FileType::kSymlink) c.size = spec.target.size();
}

NodeKind DataKind(FileType type) {
  return type == FileType::kDirectory ? NodeKind::kNames
         : type == FileType::kSymlink ? NodeKind::kPieces
                                      : NodeKind::kExtents;
}

}  // namespace

Task<Result<Entry>> MakeInode(VfsCore* core, LockedInode* parent, const std::string* name, NewInode spec) {
  Inode* dir = &**parent;
  bool named = !name->empty();
  auto acls = co_await InheritAcl(core, dir, spec.mode, spec.caller.umask);
  if (!acls.ok()) co_return acls.error();
  Identity id = IdentityIn(*dir, spec, acls->mode);
  NameChange change(core, dir);
  if (named) {
    auto prepared = co_await change.PrepareInsert(name);
    if (!prepared.ok()) co_return prepared.error();
  }
  if (TypeOfMode(spec.mode) == FileType::kDirectory && dir->core.nlink >= kLinkMax) co_return Errc::kTooManyLinks;
  ReserveRequest request{1 + (named ? change.meta() : 0) + acls->meta + (spec.target.size() > kInlineDataMax ? 3u : 0u), 0,
                         BlockNo(dir->number.v)};
  auto reserved = co_await core->Reserve(request, spec.caller.interrupt);
  if (!reserved.ok()) co_return reserved.error();
  BlockNo block = reserved->TakeMeta(BlockNo(dir->number.v));
  InodeNo number(block.v);
  if (number == dir->number) co_return Error(Errc::kCorrupt, "the bitmap called the directory's own block " + std::to_string(block.v) + " free");
  auto guard = co_await core->parts.locks->Lock(ResourceOf(number), LockMode::kEx, Interruptible(spec.caller.interrupt));
  if (!guard.ok()) co_return guard.error();  // the reservation gives the block back
  core->table.Drop(number);
  auto tx = co_await core->parts.journal->Begin(8 + change.credits() + acls->meta);
  if (!tx.ok()) co_return tx.error();
  if (core->parts.cache->Dirty(block)) co_return Error(Errc::kCorrupt, "the bitmap called block " + std::to_string(block.v) + " free, which is in use");
  BlockRef ref = reserved->New(*tx, block, BlockType::kInode, ResourceOf(number));
  auto bytes = tx->Change(ref);
  DiskInode& disk = *reinterpret_cast<DiskInode*>(bytes.data() + kInodeOffset);
  disk.number = number.v;
  // Grows with each use of the block, because the block's version does.
  uint32_t generation = static_cast<uint32_t>(ref.version() + 1);
  disk.generation = generation != 0 ? generation : 1;
  NodeOwner owner{number.v, disk.generation};
  Node(bytes.subspan(kXattrRootOffset, kXattrRootBytes)).Init(NodeKind::kXattrs, 0, owner);
  Inode* inode = core->table.Add(number, guard->acquisition(), ref);
  LockedInode made(std::move(*guard), inode, &core->table);
  WallTime now = core->Now();
  FillInode(*inode, *dir, spec, id, now);
  FileType type = inode->type();
  if (!inode->inline_data()) {
    Node(bytes.subspan(kDataRootOffset, kDataRootBytes)).Init(DataKind(type), 0, owner);
  } else if (!spec.target.empty()) {
    std::memcpy(bytes.data() + kDataRootOffset, spec.target.data(), spec.target.size());
  }
  Status status;
  if (spec.target.size() > kInlineDataMax) {
    InodeTree t(*core->parts.cache, *inode, NodeKind::kPieces);
    t.store.Join(&*tx, &*reserved);
    status = InsertPieces(t.tree, spec.target);
  }
  if (status.ok()) status = StoreInheritedAcl(core, inode, *acls, &*tx, &*reserved);
  if (named && status.ok()) {
    change.Join(&*tx, &*reserved);
    status = change.Insert(*name, *inode);
    if (type == FileType::kDirectory) dir->core.nlink = dir->core.nlink + 1;
    dir->Touch(now, true);
    dir->Log(*tx, true);
  } else if (status.ok()) {
    inode->core.nlink = 0;
    inode->core.state = inode->core.state | kInodeTmpFile;
    core->orphans->Push(*tx, *inode);
  }
  if (!status.ok()) {
    tx->Abort();
    dir->Reload();
    core->table.Drop(number);
    co_return status.error();
  }
  inode->Log(*tx, true);
  tx->Finish();
  Entry entry{core->AttrOf(*inode), parent->guard().acquisition()};
  if (spec.open) {
    auto opened = co_await core->parts.open_locks->Opened(number);
    if (!opened.ok()) co_return opened.error();
  }
  co_return entry;
}

}  // namespace holdfast::fs
