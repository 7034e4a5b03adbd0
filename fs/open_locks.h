// OpenLocks: who has an inode open, cluster-wide. Every mount with the inode open holds PR on its open-lock (cached
// after the last close, given back when somebody asks); the reaper of an unlinked inode tries EX with NOQUEUE, never
// queues it: a queued EX would keep new openers waiting for days (filesystem.md, "Unlinked but open").
// LOCKS: after inodes and groups. Threading: one executor.
#pragma once

#include <cstdint>
#include <functional>
#include <unordered_map>

#include "base/ids.h"
#include "fs/lock_table.h"

namespace holdfast::fs {

class OpenLocks {
 public:
  explicit OpenLocks(LockTable& locks);

  // At OPEN and CREATE, with the inode's own lock held (so that nobody is freeing it). The first one takes PR.
  // Errors: kStale (being freed), kInterrupted, kFenced.
  Task<Status> Opened(InodeNo inode, Interrupt* interrupt = nullptr);
  // At RELEASE (not FLUSH: mappings live longer). True when it was the last one of this mount.
  bool Released(InodeNo inode);
  bool OpenHere(InodeNo inode) const { return counts_.contains(inode.v); }

  // EX with NOQUEUE: a guard when no mount has the inode open, an empty guard when some mount has. Keep it until the
  // inode is freed. Errors: as Lock().
  Task<Result<LockGuard>> TryReap(InodeNo inode);

  // Called after the last close on this mount when another member asked for the open-lock meanwhile: tell the
  // orphan's owner (an application message) that it may try again.
  void SetLastClose(std::function<void(InodeNo)> callback) { last_close_ = std::move(callback); }

 private:
  struct Open {
    size_t count = 0;
    LockGuard guard;
  };
  LockTable& locks_;
  std::unordered_map<uint64_t, Open> counts_;
  std::function<void(InodeNo)> last_close_;
};

}  // namespace holdfast::fs
