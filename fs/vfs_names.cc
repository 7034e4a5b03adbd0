// Vfs: lookup, making, linking and removing names. Rename is in vfs_rename.cc.
#include <sys/stat.h>

#include "base/mutants.h"
#include "fs/orphans.h"
#include "fs/vfs.h"
#include "fs/vfs_make.h"

namespace holdfast::fs {
namespace {

bool IsDots(const std::string& name) { return name == "." || name == ".."; }

Task<Result<Entry>> LookupSelf(VfsCore* core, KernelInode node, Interrupt* interrupt) {
  auto locked = co_await core->Lock(node, LockMode::kPr, Interruptible(interrupt));
  if (!locked.ok()) co_return locked.error();
  co_return Entry{core->AttrOf(**locked), locked->guard().acquisition()};
}

// The parent is locked after the child has been let go: upwards there is no order.
Task<Result<Entry>> LookupParent(VfsCore* core, KernelInode node, Interrupt* interrupt) {
  auto locked = co_await LockDirectory(core, node, LockMode::kPr, interrupt);
  if (!locked.ok()) co_return locked.error();
  if ((*locked)->number == core->root()) co_return Entry{core->AttrOf(**locked), locked->guard().acquisition()};
  InodeNo number((*locked)->core.parent);
  uint32_t generation = (*locked)->core.parent_generation;
  locked->Release();
  auto entry = co_await LookupSelf(core, NodeOf(number, generation, core->root()), interrupt);
  co_return entry;
}

Task<Result<Entry>> MakeNamed(VfsCore* core, KernelInode parent, std::string name, NewInode spec) {
  auto good = CheckName(name);
  if (!good.ok()) co_return good.error();
  if (IsDots(name)) co_return Errc::kExists;
  auto dir = co_await LockDirectory(core, parent, LockMode::kEx, spec.caller.interrupt);
  if (!dir.ok()) co_return dir.error();
  auto made = co_await MakeInode(core, &*dir, &name, std::move(spec));
  co_return made;
}

}  // namespace

Task<Result<Entry>> Vfs::Lookup(KernelInode parent, std::string name, Interrupt* interrupt) {
  VfsCore* core = core_.get();
  if (name == ".") {
    auto self = co_await LookupSelf(core, parent, interrupt);
    co_return self;
  }
  if (name == "..") {
    auto up = co_await LookupParent(core, parent, interrupt);
    co_return up;
  }
  auto good = CheckName(name);
  if (!good.ok()) co_return good.error();
  auto dir = co_await LockDirectory(core, parent, LockMode::kPr, interrupt);
  if (!dir.ok()) co_return dir.error();
  auto found = co_await FindName(core, &**dir, &name);
  if (!found.ok()) co_return found.error();
  Entry entry;
  entry.parent_acquisition = dir->guard().acquisition();
  if (!found->found) co_return entry;
  LockOptions options = Interruptible(interrupt);
  auto child = co_await core->LockNumber(found->inode, found->generation, LockMode::kPr, options);
  if (!child.ok()) co_return child.error();
  entry.attr = core->AttrOf(**child);
  co_return entry;
}

Task<Result<Entry>> Vfs::MakeNode(KernelInode parent, std::string name, uint32_t mode, uint64_t rdev, Caller caller) {
  FileType type = TypeOfMode(mode);
  switch (type) {
    case FileType::kUnknown: mode |= S_IFREG; break;
    case FileType::kFifo: case FileType::kCharDevice: case FileType::kBlockDevice: case FileType::kRegular: case FileType::kSocket: break;
    default: co_return Errc::kInvalid;  // also what is no type at all
  }
  NewInode spec{mode, rdev, {}, caller, false};
  auto made = co_await MakeNamed(core_.get(), parent, std::move(name), std::move(spec));
  co_return made;
}

Task<Result<Entry>> Vfs::MakeDir(KernelInode parent, std::string name, uint32_t mode, Caller caller) {
  NewInode spec{(mode & 07777) | S_IFDIR, 0, {}, caller, false};
  auto made = co_await MakeNamed(core_.get(), parent, std::move(name), std::move(spec));
  co_return made;
}

Task<Result<Entry>> Vfs::Symlink(KernelInode parent, std::string name, std::string target, Caller caller) {
  if (target.empty() || target.size() > kSymlinkMax)
    co_return target.empty() ? Errc::kNotFound : Errc::kNameTooLong;
  NewInode spec{0777 | S_IFLNK, 0, std::move(target), caller, false};
  auto made = co_await MakeNamed(core_.get(), parent, std::move(name), std::move(spec));
  co_return made;
}

Task<Result<Entry>> Vfs::Create(KernelInode parent, std::string name, uint32_t mode, bool exclusive, Caller caller,
                                OpenOptions options) {
  VfsCore* core = core_.get();
  auto good = CheckName(name);
  if (!good.ok()) co_return good.error();
  if (IsDots(name)) co_return Errc::kExists;
  for (;;) {
    auto dir = co_await LockDirectory(core, parent, LockMode::kEx, caller.interrupt);
    if (!dir.ok()) co_return dir.error();
    NewInode spec{(mode & 07777) | S_IFREG, 0, {}, caller, true};
    auto made = co_await MakeInode(core, &*dir, &name, std::move(spec));
    if (made.code() != Errc::kExists || exclusive) co_return made;
    auto found = co_await FindName(core, &**dir, &name);
    if (!found.ok()) co_return found.error();
    uint64_t acquisition = dir->guard().acquisition();
    KernelInode node = NodeOf(found->inode, found->generation, core->root());
    dir->Release();
    // The kernel did not see this name when it asked. A directory cannot be opened so; for anything else that is no file
    // the VFS must walk the path again.
    if (found->type == FileType::kDirectory && !HF_MUTANT(kCreateOpensAll)) co_return Errc::kIsDirectory;
    if (found->type != FileType::kRegular && !HF_MUTANT(kCreateOpensAll)) co_return Errc::kStale;
    auto opened = co_await Open(node, options);
    if (opened.code() == Errc::kStale) continue;  // removed meanwhile: make it after all
    if (!opened.ok()) co_return opened.error();
    co_return Entry{opened->attr, acquisition};
  }
}

Task<Result<Entry>> Vfs::TmpFile(KernelInode parent, uint32_t mode, Caller caller) {
  VfsCore* core = core_.get();
  auto dir = co_await LockDirectory(core, parent, LockMode::kEx, caller.interrupt);
  if (!dir.ok()) co_return dir.error();
  std::string none;
  NewInode spec{(mode & 07777) | S_IFREG, 0, {}, caller, true};
  auto made = co_await MakeInode(core, &*dir, &none, std::move(spec));
  co_return made;
}

Task<Result<Entry>> Vfs::Link(KernelInode node, KernelInode new_parent, std::string new_name,
                              Interrupt* interrupt) {
  VfsCore* core = core_.get();
  auto good = CheckName(new_name);
  if (!good.ok()) co_return good.error();
  if (IsDots(new_name)) co_return Errc::kExists;
  auto dir = co_await LockDirectory(core, new_parent, LockMode::kEx, interrupt);
  if (!dir.ok()) co_return dir.error();
  if (node == new_parent) co_return Errc::kPermission;
  auto inode = co_await core->Lock(node, LockMode::kEx, Interruptible(interrupt));
  if (!inode.ok()) co_return inode.error();
  Inode& i = **inode;
  if (i.directory()) co_return Errc::kPermission;
  // Without links only a file that never had a name may get one; a removed one stays removed (as the kernel has it).
  if (i.core.nlink == 0 && (i.core.state & kInodeTmpFile) == 0) co_return Errc::kNotFound;
  if (i.core.nlink >= kLinkMax) co_return Errc::kTooManyLinks;
  NameChange change(core, &**dir);
  auto prepared = co_await change.PrepareInsert(&new_name);
  if (!prepared.ok()) co_return prepared.error();
  ReserveRequest request{change.meta(), 0, BlockNo((*dir)->number.v)};
  auto reserved = co_await core->Reserve(request, interrupt);
  if (!reserved.ok()) co_return reserved.error();
  auto tx = co_await core->parts.journal->Begin(4 + change.credits());
  if (!tx.ok()) co_return tx.error();
  change.Join(&*tx, &*reserved);
  Status status = change.Insert(new_name, i);
  if (!status.ok()) {
    tx->Abort();
    (*dir)->Reload();
    co_return status.error();
  }
  WallTime now = core->Now();
  i.core.nlink = i.core.nlink + 1;
  i.core.state = i.core.state & ~kInodeTmpFile;  // stays on the orphan list until the reaper comes by
  i.Touch(now, false);
  i.Log(*tx, false);
  (*dir)->Touch(now, true);
  (*dir)->Log(*tx, true);
  tx->Finish();
  core->orphans->MayReap(i.number);
  co_return Entry{core->AttrOf(i), dir->guard().acquisition()};
}

namespace {

Task<Result<RemoveResult>> RemoveName(VfsCore* core, KernelInode parent, std::string name, bool directory,
                                      Interrupt* interrupt) {
  auto good = CheckName(name);
  if (!good.ok()) co_return good.error();
  auto dir = co_await LockDirectory(core, parent, LockMode::kEx, interrupt);
  if (!dir.ok()) co_return dir.error();
  auto found = co_await FindName(core, &**dir, &name);
  if (!found.ok()) co_return found.error();
  if (!found->found) co_return Errc::kNotFound;
  LockOptions options = Interruptible(interrupt);
  auto child = co_await core->LockNumber(found->inode, found->generation, LockMode::kEx, options);
  if (!child.ok()) co_return child.error();
  Inode& c = **child;
  if (directory && !c.directory()) co_return Errc::kNotDirectory;
  if (!directory && c.directory()) co_return Errc::kIsDirectory;
  if (directory && c.entries() > 0) co_return Errc::kNotEmpty;
  if ((c.core.flags & (kFlagImmutable | kFlagAppend)) != 0) co_return Errc::kPermission;
  NameChange change(core, &**dir);
  auto prepared = co_await change.PrepareRemove(found->cookie, interrupt);
  if (!prepared.ok()) co_return prepared.error();
  auto tx = co_await core->parts.journal->Begin(4 + change.credits());
  if (!tx.ok()) co_return tx.error();
  change.Join(&*tx, nullptr);
  Status status = change.Remove(name);
  if (!status.ok()) {
    tx->Abort();
    (*dir)->Reload();
    co_return status.error();
  }
  WallTime now = core->Now();
  if (directory) {
    (*dir)->core.nlink = (*dir)->core.nlink - 1;
    c.core.nlink = 0;
  } else {
    c.core.nlink = c.core.nlink - 1;
  }
  c.Touch(now, false);
  if (c.core.nlink == 0 && (c.core.state & kInodeOrphan) == 0) core->orphans->Push(*tx, c);
  c.Log(*tx, false);
  (*dir)->Touch(now, true);
  (*dir)->Log(*tx, true);
  tx->Finish();
  co_return RemoveResult{core->Node(c), c.core.nlink, dir->guard().acquisition()};
}

}  // namespace

Task<Result<RemoveResult>> Vfs::Unlink(KernelInode parent, std::string name, Interrupt* interrupt) {
  if (IsDots(name)) co_return Errc::kIsDirectory;
  auto removed = co_await RemoveName(core_.get(), parent, std::move(name), false, interrupt);
  co_return removed;
}

Task<Result<RemoveResult>> Vfs::RemoveDir(KernelInode parent, std::string name, Interrupt* interrupt) {
  if (IsDots(name)) co_return name == "." ? Errc::kInvalid : Errc::kNotEmpty;
  auto removed = co_await RemoveName(core_.get(), parent, std::move(name), true, interrupt);
  co_return removed;
}

Task<Result<std::string>> Vfs::ReadLink(KernelInode node, Interrupt* interrupt) {
  VfsCore* core = core_.get();
  auto locked = co_await core->Lock(node, LockMode::kPr, Interruptible(interrupt));
  if (!locked.ok()) co_return locked.error();
  Inode* inode = &**locked;
  if (inode->type() != FileType::kSymlink) co_return Errc::kInvalid;
  size_t size = inode->core.size;
  if (size > kSymlinkMax) co_return Error(Errc::kCorrupt, "symlink too long");
  std::string target;
  if (inode->inline_data()) {
    target = AsText(inode->data_area().first(size));
    co_return target;
  }
  InodeTree t(*core->parts.cache, *inode, NodeKind::kPieces);
  for (uint64_t i = 0; target.size() < size; ++i) {
    HF_CO_LOAD(piece, t.tree.Get(i), core, inode);
    if (!*piece || (*piece)->value.empty()) co_return Error(Errc::kCorrupt, "a symlink lacks a piece");
    target += AsText((*piece)->value);
  }
  if (target.size() != size) co_return Error(Errc::kCorrupt, "symlink of the wrong length");
  co_return target;
}

}  // namespace holdfast::fs
