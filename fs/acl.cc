#include "fs/acl.h"

#include <cstring>

#include "fs/xattr.h"

namespace holdfast::fs {
namespace {

// linux/posix_acl_xattr.h and linux/posix_acl.h.
inline constexpr uint32_t kAclVersion = 2;
enum Tag : uint16_t { kUserObj = 1, kUser = 2, kGroupObj = 4, kGroup = 8, kMask = 16, kOther = 32 };
struct AclEntry {
  Le16 tag;
  Le16 perm;
  Le32 id;
};
static_assert(sizeof(AclEntry) == 8);

struct AclParts {
  std::span<AclEntry> entries;
  AclEntry* user = nullptr;
  AclEntry* group = nullptr;
  AclEntry* mask = nullptr;
  AclEntry* other = nullptr;
  bool valid() const { return user != nullptr && group != nullptr && other != nullptr; }
};

AclParts Parse(std::span<std::byte> acl) {
  AclParts p;
  if (acl.size() < 4 || (acl.size() - 4) % sizeof(AclEntry) != 0) return p;
  if (*reinterpret_cast<const Le32*>(acl.data()) != kAclVersion) return p;
  p.entries = {reinterpret_cast<AclEntry*>(acl.data() + 4), (acl.size() - 4) / sizeof(AclEntry)};
  for (AclEntry& e : p.entries) {
    if (e.tag == kUserObj) p.user = &e;
    if (e.tag == kGroupObj) p.group = &e;
    if (e.tag == kMask) p.mask = &e;
    if (e.tag == kOther) p.other = &e;
  }
  return p;
}

}  // namespace

std::optional<uint32_t> ModeOfAcl(std::span<const std::byte> acl, bool* minimal) {
  Bytes copy(acl.begin(), acl.end());
  AclParts p = Parse(copy);
  if (!p.valid()) return std::nullopt;
  *minimal = p.entries.size() == 3;
  AclEntry* group = p.mask != nullptr ? p.mask : p.group;
  return (p.user->perm & 7u) << 6 | (group->perm & 7u) << 3 | (p.other->perm & 7u);
}

bool ApplyModeToAcl(Bytes* acl, uint32_t mode) {
  AclParts p = Parse(*acl);
  if (!p.valid()) return false;
  AclEntry* group = p.mask != nullptr ? p.mask : p.group;
  p.user->perm = static_cast<uint16_t>(mode >> 6 & 7);
  group->perm = static_cast<uint16_t>(mode >> 3 & 7);
  p.other->perm = static_cast<uint16_t>(mode & 7);
  return true;
}

Task<Result<InheritedAcl>> InheritAcl(VfsCore* core, Inode* parent, uint32_t mode, uint32_t umask) {
  InheritedAcl result;
  result.mode = TypeOfMode(mode) == FileType::kSymlink ? mode : mode & ~umask;
  InodeTree t(*core->parts.cache, *parent, NodeKind::kXattrs);
  auto none = t.tree.Empty();
  if (none.ok() && *none) co_return result;
  if (TypeOfMode(mode) == FileType::kSymlink) co_return result;
  Xattrs xattrs(t.tree, core->parts.super->hash_key);
  HF_CO_LOAD(has, xattrs.Has(kAclDefault), core, parent);
  if (!*has) co_return result;
  HF_CO_LOAD(stored, xattrs.Get(kAclDefault), core, parent);
  Bytes acl = *stored;
  AclParts p = Parse(acl);
  if (!p.valid()) co_return result;
  // posix_acl_create: the caller's mode narrows the ACL, and what comes out is the new mode.
  AclEntry* group = p.mask != nullptr ? p.mask : p.group;
  p.user->perm = static_cast<uint16_t>(p.user->perm & (mode >> 6 & 7));
  group->perm = static_cast<uint16_t>(group->perm & (mode >> 3 & 7));
  p.other->perm = static_cast<uint16_t>(p.other->perm & (mode & 7));
  result.mode = (mode & ~0777u) | (p.user->perm & 7u) << 6 | (group->perm & 7u) << 3 | (p.other->perm & 7u);
  if (TypeOfMode(mode) == FileType::kDirectory) result.default_acl = *stored;
  if (p.entries.size() > 3) result.access = acl;
  result.meta = static_cast<uint32_t>(6 + Xattrs::Pieces(kAclAccess.size(), result.access.size()) +
                                      Xattrs::Pieces(kAclDefault.size(), result.default_acl.size()));
  co_return result;
}

Status StoreInheritedAcl(VfsCore* core, Inode* inode, const InheritedAcl& acl, Transaction* tx, Reservation* reserved) {
  if (acl.access.empty() && acl.default_acl.empty()) return Status();
  InodeTree t(*core->parts.cache, *inode, NodeKind::kXattrs);
  t.store.Join(tx, reserved);
  Xattrs xattrs(t.tree, core->parts.super->hash_key);
  if (!acl.access.empty()) HF_TRY(xattrs.Set(kAclAccess, acl.access));
  if (!acl.default_acl.empty()) HF_TRY(xattrs.Set(kAclDefault, acl.default_acl));
  return Status();
}

}  // namespace holdfast::fs
