// Vfs: extended attributes. An access ACL and the mode's permission bits are kept the same (acl.h).
#include <sys/stat.h>

#include "fs/acl.h"
#include "fs/vfs.h"
#include "fs/xattr.h"

namespace holdfast::fs {
namespace {

Status CheckXattrName(const std::string& name) {
  if (name.empty() || name.find('\0') != name.npos) return Errc::kInvalid;
  return name.size() > 255 ? Status(Errc::kRange) : Status();
}

Task<Status> ChangeXattr(VfsCore* core, KernelInode node, std::string name, const Bytes* value, XattrMode mode,
                         Interrupt* interrupt) {
  auto good = CheckXattrName(name);
  if (!good.ok()) co_return good;
  if (value != nullptr && value->size() > kXattrValueMax) co_return Errc::kRange;
  auto locked = co_await core->Lock(node, LockMode::kEx, Interruptible(interrupt));
  if (!locked.ok()) co_return locked.error();
  Inode* inode = &**locked;
  std::optional<uint32_t> permissions;
  bool minimal = false;
  if (value != nullptr && name == kAclAccess) {
    permissions = ModeOfAcl(*value, &minimal);
    if (!permissions) co_return Errc::kInvalid;
  }
  InodeTree t(*core->parts.cache, *inode, NodeKind::kXattrs);
  Xattrs xattrs(t.tree, core->parts.super->hash_key);
  HF_CO_LOAD(has, xattrs.Has(name), core, inode);
  if (*has && mode == XattrMode::kCreate) co_return Errc::kExists;
  bool remove = value == nullptr || minimal;
  if (!*has && (mode == XattrMode::kReplace || value == nullptr)) co_return Errc::kNoData;
  size_t bytes = value != nullptr ? value->size() : 0;
  HF_CO_LOAD(loaded, xattrs.Load(name, bytes), core, inode);
  Reservation reservation;
  if (!remove) {
    ReserveRequest request{static_cast<uint32_t>(xattrs.BlocksFor(name.size(), bytes)), 0, BlockNo(inode->number.v)};
    auto reserved = co_await core->Reserve(request, interrupt);
    if (!reserved.ok()) co_return reserved.error();
    reservation = std::move(*reserved);
  }
  // What was there may have had tree blocks of its own: they go if their groups can be locked.
  std::vector<Extent> places;
  GroupLocks groups;
  t.tree.NodesOfRange(0, UINT64_MAX, [&](BlockNo block) { core->AddGroup(&places, block); });
  if (*has && !places.empty()) {
    auto locked_groups = co_await core->parts.allocator->LockGroupsFor(places, interrupt);
    if (!locked_groups.ok()) co_return locked_groups.error();
    groups = std::move(*locked_groups);
  }
  uint32_t nodes = static_cast<uint32_t>(places.size() + xattrs.BlocksFor(name.size(), bytes));
  auto tx = co_await core->parts.journal->Begin(4 + nodes + TreeCredits(t.tree) + groups.credits());
  if (!tx.ok()) co_return tx.error();
  t.store.Join(&*tx, &reservation, core->parts.allocator, &groups);
  Status status;
  if (!remove) {
    status = xattrs.Set(name, *value);
  } else if (*has) {
    status = xattrs.Remove(name);
  }
  if (status.ok()) status = t.store.error();
  if (!status.ok()) {
    tx->Abort();
    inode->Reload();
    co_return status;
  }
  if (permissions) inode->core.mode = (inode->core.mode & ~0777u) | *permissions;
  inode->Touch(core->Now(), false);
  inode->Log(*tx, !inode->data.dirty());
  tx->Finish();
  co_return Status();
}

}  // namespace

Task<Result<Bytes>> Vfs::GetXattr(KernelInode node, std::string name, Interrupt* interrupt) {
  VfsCore* core = core_.get();
  auto good = CheckXattrName(name);
  if (!good.ok()) co_return good.error();
  auto locked = co_await core->Lock(node, LockMode::kPr, Interruptible(interrupt));
  if (!locked.ok()) co_return locked.error();
  Inode* inode = &**locked;
  InodeTree t(*core->parts.cache, *inode, NodeKind::kXattrs);
  Xattrs xattrs(t.tree, core->parts.super->hash_key);
  HF_CO_LOAD(value, xattrs.Get(name), core, inode);
  co_return std::move(*value);
}

Task<Status> Vfs::SetXattr(KernelInode node, std::string name, Bytes value, XattrMode mode, Interrupt* interrupt) {
  auto changed = co_await ChangeXattr(core_.get(), node, std::move(name), &value, mode, interrupt);
  co_return changed;
}

Task<Status> Vfs::RemoveXattr(KernelInode node, std::string name, Interrupt* interrupt) {
  auto changed = co_await ChangeXattr(core_.get(), node, std::move(name), nullptr, XattrMode::kSet, interrupt);
  co_return changed;
}

Task<Result<std::vector<std::string>>> Vfs::ListXattr(KernelInode node, Interrupt* interrupt) {
  VfsCore* core = core_.get();
  auto locked = co_await core->Lock(node, LockMode::kPr, Interruptible(interrupt));
  if (!locked.ok()) co_return locked.error();
  Inode* inode = &**locked;
  InodeTree t(*core->parts.cache, *inode, NodeKind::kXattrs);
  Xattrs xattrs(t.tree, core->parts.super->hash_key);
  HF_CO_LOAD(names, xattrs.List(), core, inode);
  co_return std::move(*names);
}

}  // namespace holdfast::fs
