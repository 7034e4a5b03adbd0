// Orphans: inodes without names that this mount has to free: on a list headed in its journal's owner block and linked
// through the inodes, so that it has no size; whoever replays the journal inherits it.
//
// Life of one: unlinked (nlink 0, pushed, one transaction with the unlink) -> nobody has it open (open-lock EX,
// NOQUEUE) -> marked dead, committed, in place on disk -> its blocks freed, off the list, its block freed.
// Dead comes first and is in place before the block is free, because a freed block keeps its bytes: whoever comes
// with an old node id must not find something that looks alive. An inode that got a link again (O_TMPFILE + link) is
// taken off the list in the same passes.
// LOCKS: inodes with NOQUEUE only (a busy one is left for later); groups; nothing waits for anybody.
#pragma once

#include <list>
#include <unordered_map>
#include <vector>

#include "base/sync.h"
#include "fs/inode.h"

namespace holdfast::fs {

class VfsCore;
class LockedInode;

class Orphans {
 public:
  explicit Orphans(VfsCore* core) : core_(core) {}

  // Reads the list from our journal's owner block.
  Task<Status> Load();
  // Takes over the list of a dead mount's journal. REQUIRES: its journal lock is held, it has been replayed.
  Task<Status> Adopt(MountNo journal, Interrupt* interrupt);

  // In the transaction that takes the last link; the caller logs the inode. One changed block beside the inode.
  void Push(Transaction& tx, Inode& inode);
  bool empty() const { return list_.empty(); }
  size_t size() const { return list_.size(); }
  // It may be free now: closed here or elsewhere.
  void MayReap(InodeNo number);
  // Looks at all of them again in the next pass.
  void ForgetBusy() { busy_.clear(); }
  // Passes until one makes no progress.
  Task<void> ReapNow();
  Task<void> ReaperLoop();

 private:
  struct Victim;
  Task<Result<size_t>> Pass();
  Task<Result<std::vector<Victim>>> Gather();
  Task<Status> MarkDead(std::vector<Victim>* victims);
  Task<Status> FreeOne(Victim* victim);
  Task<Status> FreeTree(Victim* victim);
  Task<Status> TakeOff(Victim* victim, bool free_block);
  Task<Result<std::vector<InodeNo>>> Walk(InodeNo head, InodeNo* tail, Interrupt* interrupt);
  InodeNo Before(InodeNo number) const;
  void Forget(InodeNo number);

  VfsCore* core_;
  std::list<InodeNo> list_;  // as on disk, head first
  std::unordered_map<uint64_t, std::list<InodeNo>::iterator> where_;
  std::unordered_map<uint64_t, bool> busy_;  // open somewhere at the last pass: skipped until MayReap or the retry
  Mutex pass_;
  Instant last_retry_;
  bool pending_ = false;
};

}  // namespace holdfast::fs
