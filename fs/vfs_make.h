// Making inodes: what create, mknod, mkdir, symlink and tmpfile share (vfs_make.cc; internal to vfs_*.cc).
#pragma once

#include <string>

#include "fs/vfs_core.h"

namespace holdfast::fs {

struct NewInode {
  uint32_t mode = 0;  // with the format bits
  uint64_t rdev = 0;
  std::string target;  // of a symlink
  Caller caller;
  bool open = false;  // the caller gets it opened
};

// REQUIRES: parent is an EX-locked directory that lives and has no such name (empty name: no name at all, the inode
// starts as an orphan). `name` and the parent outlive the call.
Task<Result<Entry>> MakeInode(VfsCore* core, LockedInode* parent, const std::string* name, NewInode spec);

// The living directory behind a node id. Errors: kNotDirectory, kStale; kNotFound when it was removed and mode is EX.
Task<Result<LockedInode>> LockDirectory(VfsCore* core, KernelInode node, LockMode mode, Interrupt* interrupt,
                                        bool renames = false);

// A name in a locked directory.
struct FoundName {
  bool found = false;
  uint64_t cookie = 0;
  InodeNo inode;
  uint32_t generation = 0;
  FileType type = FileType::kUnknown;
};
Task<Result<FoundName>> FindName(VfsCore* core, Inode* directory, const std::string* name);

inline uint64_t NameCost(size_t length) { return length + 24; }

// One change of names in a directory, prepared before the transaction.
class NameChange {
 public:
  NameChange(VfsCore* core, Inode* directory)
      : core_(core), directory_(directory), t_(*core->parts.cache, *directory, NodeKind::kNames),
        names_(t_.tree, core->parts.super->hash_key) {}
  // For Insert(): finds the cookie and loads the path.
  Task<Status> PrepareInsert(const std::string* name);
  // For Redirect(): loads the path.
  Task<Status> PrepareRedirect(uint64_t cookie);
  // For Remove(): also locks groups if nodes may go away. Comes after every reservation.
  Task<Status> PrepareRemove(uint64_t cookie, Interrupt* interrupt);
  uint32_t meta() { return static_cast<uint32_t>(t_.tree.InsertBlocks()); }
  uint32_t credits() { return TreeCredits(t_.tree) + groups_.credits(); }

  // Inside the transaction.
  void Join(Transaction* tx, Reservation* reservation) {
    t_.store.Join(tx, reservation, core_->parts.allocator, &groups_);
  }
  Status Insert(const std::string& name, const Inode& child);
  Status Remove(const std::string& name);
  Status Redirect(const std::string& name, const Inode& child);

 private:
  VfsCore* core_;
  Inode* directory_;
  InodeTree t_;
  Directory names_;
  GroupLocks groups_;
  uint64_t insert_cookie_ = 0;
  uint64_t remove_cookie_ = 0;
};

}  // namespace holdfast::fs
