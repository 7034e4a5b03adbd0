// POSIX ACLs as the kernel stores them in xattrs (linux/posix_acl_xattr.h): inheriting a directory's default ACL, and
// keeping an access ACL and the mode's permission bits the same thing.
#pragma once

#include <string_view>

#include "fs/vfs_core.h"

namespace holdfast::fs {

inline constexpr std::string_view kAclAccess = "system.posix_acl_access";
inline constexpr std::string_view kAclDefault = "system.posix_acl_default";

struct InheritedAcl {
  uint32_t mode = 0;        // the new inode's, umask or ACL applied
  Bytes access;             // to be stored, empty: none
  Bytes default_acl;        // for new directories
  uint32_t meta = 0;        // blocks that storing them may take
};

Task<Result<InheritedAcl>> InheritAcl(VfsCore* core, Inode* parent, uint32_t mode, uint32_t umask);
// In the transaction that makes the inode.
Status StoreInheritedAcl(VfsCore* core, Inode* inode, const InheritedAcl& acl, Transaction* tx, Reservation* reserved);

// The permission bits that an access ACL stands for; nullopt: not a valid ACL. *minimal: it says no more than a mode.
std::optional<uint32_t> ModeOfAcl(std::span<const std::byte> acl, bool* minimal);
// The ACL after chmod; false: not a valid ACL.
bool ApplyModeToAcl(Bytes* acl, uint32_t mode);

}  // namespace holdfast::fs
