// RangeLocks: fcntl, OFD and flock locks of this mount's processes over the lock manager's range locks.
// Owners: the kernel's lock owner id (a hash of the process's file table, or of the open file for OFD and flock).
// FLUSH names the process and drops its fcntl locks; OFD locks are named by neither FLUSH nor RELEASE's owner [m], so every
// lock remembers the open file that set it and RELEASE drops what is left of that.
// Threading: one executor.
#pragma once

#include <map>
#include <optional>

#include "base/ids.h"
#include "base/sync.h"
#include "dlm/lockspace.h"

namespace holdfast::fs {

class RangeLocks {
 public:
  struct Lock {
    InodeNo inode;
    dlm::RangeSpace space = dlm::RangeSpace::kFcntl;
    uint64_t owner = 0;
    uint64_t handle = 0;  // the open file
    uint32_t pid = 0;
    uint64_t start = 0;
    uint64_t end = UINT64_MAX;  // inclusive
    dlm::RangeType type = dlm::RangeType::kShared;
    bool wait = false;
  };

  explicit RangeLocks(dlm::LockSpace& space) : space_(space) {}

  // A number for Cancel, unique in this mount's life.
  uint64_t NextToken() { return next_token_++; }
  // Errors: kWouldBlock, kInterrupted, kFenced. Requests of one owner after one that was abandoned wait until that is decided: a
  // late grant is undone, which must not undo a later one.
  Task<Status> Set(Lock lock, uint64_t token);
  Task<Result<std::optional<dlm::RangeConflict>>> Test(Lock lock);
  // Ends a waiting Set with kInterrupted when the lock manager has decided; a grant that comes late is undone.
  void Cancel(uint64_t token) { space_.RangeCancel(token); }
  // The same, and nobody waits for it any more.
  void Abandon(uint64_t token);
  // Without a message: does this mount hold any lock on it?
  bool Holds(InodeNo inode) const;
  // close(2) by a process; and the last close of an open file.
  Task<Status> Flushed(InodeNo inode, uint64_t owner);
  Task<Status> Released(InodeNo inode, uint64_t handle);

 private:
  static dlm::RangeRequest ToRequest(const Lock& lock, uint64_t token);
  struct Running {
    InodeNo inode;
    uint64_t owner = 0;
    bool abandoned = false;
  };
  bool BehindAbandoned(const Lock& lock) const;

  dlm::LockSpace& space_;
  uint64_t next_token_ = 1;
  std::map<uint64_t, Running> running_;  // by token
  WaitList abandoned_done_;
};

}  // namespace holdfast::fs
