// Vfs: attributes: getattr, setattr (truncation included), statfs.
#include <sys/stat.h>

#include "fs/acl.h"
#include "fs/vfs.h"
#include "fs/vfs_data.h"
#include "fs/xattr.h"

namespace holdfast::fs {
namespace {

// chmod: the access ACL follows the mode. Prepared before the transaction.
Task<Result<Bytes>> AclAfterChmod(VfsCore* core, Inode* inode, uint32_t mode) {
  InodeTree t(*core->parts.cache, *inode, NodeKind::kXattrs);
  auto none = t.tree.Empty();
  if (none.ok() && *none) co_return Bytes();
  Xattrs xattrs(t.tree, core->parts.super->hash_key);
  HF_CO_LOAD(has, xattrs.Has(kAclAccess), core, inode);
  if (!*has) co_return Bytes();
  HF_CO_LOAD(acl, xattrs.Get(kAclAccess), core, inode);
  HF_CO_LOAD(loaded, xattrs.Load(kAclAccess, acl->size()), core, inode);
  if (!ApplyModeToAcl(&*acl, mode)) co_return Bytes();
  co_return std::move(*acl);
}

void ApplyOwner(Inode& inode, const SetAttr& set) {
  DiskInode& c = inode.core;
  if ((set.which & kSetUid) != 0) c.uid = set.uid;
  if ((set.which & kSetGid) != 0) c.gid = set.gid;
  bool chown = (set.which & (kSetUid | kSetGid)) != 0;
  if ((chown && !inode.directory()) || set.kill_privileges) KillPrivileges(&inode);
}

void ApplyTimes(Inode& inode, const SetAttr& set, WallTime now) {
  DiskInode& c = inode.core;
  if ((set.which & kSetAtime) != 0) c.atime = ToDisk(set.atime);
  if ((set.which & kSetAtimeNow) != 0) c.atime = ToDisk(now);
  if ((set.which & kSetMtime) != 0) c.mtime = ToDisk(set.mtime);
  if ((set.which & kSetMtimeNow) != 0) c.mtime = ToDisk(now);
  if ((set.which & kSetCtime) != 0) c.ctime = ToDisk(set.ctime);
}

}  // namespace

Task<Result<Attr>> Vfs::GetAttr(KernelInode node, Interrupt* interrupt) {
  VfsCore* core = core_.get();
  auto locked = co_await core->Lock(node, LockMode::kPr, Interruptible(interrupt));
  if (!locked.ok()) co_return locked.error();
  co_return core->AttrOf(**locked);
}

Task<Result<Attr>> Vfs::Set(KernelInode node, SetAttr set, Interrupt* interrupt) {
  VfsCore* core = core_.get();
  auto locked = co_await core->Lock(node, LockMode::kEx, Interruptible(interrupt));
  if (!locked.ok()) co_return locked.error();
  Inode* inode = &**locked;
  if (set.which == 0) {
    if (set.caller != 0 && set.caller != inode->core.uid) co_return core->AttrOf(*inode);
    set.kill_privileges = !inode->directory();
  }
  if ((set.which & kSetSize) != 0) {
    if (inode->directory()) co_return Errc::kIsDirectory;
    if (!inode->regular()) co_return Errc::kInvalid;
    auto sized = co_await SetSize(core, inode, set.size);
    if (!sized.ok()) co_return sized.error();
  }
  Bytes acl;
  Reservation reservation;
  if ((set.which & kSetMode) != 0) {
    auto after = co_await AclAfterChmod(core, inode, set.mode);
    if (!after.ok()) co_return after.error();
    acl = std::move(*after);
  }
  InodeTree t(*core->parts.cache, *inode, NodeKind::kXattrs);
  Xattrs xattrs(t.tree, core->parts.super->hash_key);
  if (!acl.empty()) {
    ReserveRequest request{static_cast<uint32_t>(xattrs.BlocksFor(kAclAccess.size(), acl.size())), 0, BlockNo(inode->number.v)};
    auto reserved = co_await core->Reserve(request, interrupt);
    if (!reserved.ok()) co_return reserved.error();
    reservation = std::move(*reserved);
  }
  auto tx = co_await core->parts.journal->Begin(acl.empty() ? 1 : 8 + 2 * TreeCredits(t.tree));
  if (!tx.ok()) co_return tx.error();
  if (!acl.empty()) {
    t.store.Join(&*tx, &reservation);
    Status stored = xattrs.Set(kAclAccess, acl);
    if (!stored.ok()) {
      tx->Abort();
      inode->Reload();
      co_return stored.error();
    }
  }
  WallTime now = core->Now();
  ApplyOwner(*inode, set);
  if ((set.which & kSetMode) != 0) inode->core.mode = (inode->core.mode & S_IFMT) | (set.mode & 07777);
  if ((set.which & kSetFlags) != 0) inode->core.flags = set.flags;
  if ((set.which & kSetProject) != 0) inode->core.project = set.project;
  inode->Touch(now, (set.which & kSetSize) != 0);
  ApplyTimes(*inode, set, now);
  inode->Log(*tx, !inode->data.dirty());
  tx->Finish();
  co_return core->AttrOf(*inode);
}

Task<Result<StatFs>> Vfs::GetStatFs() {
  VfsCore* core = core_.get();
  SpaceTotals totals = core->parts.allocator->totals();
  StatFs s;
  s.blocks = totals.total;
  s.free = totals.free;
  s.available = totals.free;
  s.files = totals.total;
  s.files_free = totals.free;
  for (size_t i = 0; i < 8; ++i) s.id = s.id << 8 | core->parts.super->geometry.uuid[i];
  co_return s;
}

}  // namespace holdfast::fs
