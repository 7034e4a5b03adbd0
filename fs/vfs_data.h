// What the operations on file data share (vfs_data.cc, vfs_space.cc; internal to vfs_*.cc).
#pragma once

#include "fs/vfs_core.h"

namespace holdfast::fs {

// write and chown: no suid, and no sgid where it means a group's rights.
void KillPrivileges(Inode* inode);

// Truncates or extends. REQUIRES: the inode's lock EX. Logs the new size; the caller logs times.
Task<Status> SetSize(VfsCore* core, Inode* inode, uint64_t size);

// Zeroes bytes in place as a write would; the range must lie within one page's mapping rules of a file that is not inline.
Task<Status> ZeroBytes(VfsCore* core, Inode* inode, uint64_t offset, uint64_t length);

}  // namespace holdfast::fs
