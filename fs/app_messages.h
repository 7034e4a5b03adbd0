// AppMessages: what the mounts of a lockspace tell each other beside locks, over the lock manager's application messages:
// "an orphan of yours may be free now", "checkpoint, please" and "give back unused space, please" and their answers,
// changes of the free space (about once a second; filesystem.md, "statfs"). Everything here is a hint but the checkpoint's
// answer; all bytes are checked.
// Threading: one executor.
#pragma once

#include <functional>
#include <map>
#include <set>

#include "base/sync.h"
#include "dlm/lockspace.h"

namespace holdfast::fs {

class AppMessages {
 public:
  struct Handlers {
    std::function<void(InodeNo)> reap_again;
    std::function<Task<Status>()> checkpoint;  // without taking any lock: who asks holds one
    std::function<Task<Status>()> shrink;      // gives unused space back
    std::function<void(int64_t)> free_delta;
    std::function<int64_t()> take_delta;
  };
  AppMessages(dlm::LockSpace& space, Handlers handlers);
  ~AppMessages();

  void Start();
  void Stop();
  Task<void> Idle();  // after Stop: what others had asked for is done
  void ReapAgain(InodeNo inode);
  // Every other live mount has checkpointed its journal. Errors: kBusy (a journal is owed), kTimeout, theirs.
  Task<Status> CheckpointOthers();
  // Every other live mount has given back the space that it does not use, or had long enough to.
  Task<void> ShrinkOthers();

 private:
  void OnMessage(MemberId from, std::span<const std::byte> message);
  enum class Favour { kCheckpoint, kShrink };
  struct Pending;
  Task<void> Ask(Favour favour, std::shared_ptr<Pending> pending, Duration patience);
  Task<void> Do(Favour favour, MemberId from, uint64_t id);
  Task<void> Beat();
  void SendAll(const Bytes& message);
  bool SomethingOwed(const std::set<MemberId>* of) const;

  struct Pending {
    std::set<MemberId> left;
    Status result;
    WaitList changed;
  };
  dlm::LockSpace& space_;
  Handlers handlers_;
  std::map<uint64_t, std::shared_ptr<Pending>> pending_;
  uint64_t next_id_ = 1;
  bool stopped_ = false;
  size_t doing_ = 0;
  WaitList done_;
  Scope scope_;
};

}  // namespace holdfast::fs
