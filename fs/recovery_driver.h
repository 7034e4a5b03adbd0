// RecoveryDriver: buries the dead. For each victim of the view that is fenced and owes its journal: claim the replay in
// the register, take its journal lock under RECOVERY, check that the journal's header names the victim that the fence
// token names, replay what the lock manager reports frozen, adopt orphans and claims, tell the register. The first
// gate opens when nothing is owed any more; the frozen resources follow by themselves.
// Steps (each may be repeated; a failure or a newer view starts over):
//   wait for fenced -> claim -> locks rebuilt -> journal lock -> check owner -> replay -> done, and beside it: adopt
// INVARIANT I1: no step past `claim` without the register saying fenced. One replay at a time per mount.
// Threading: one executor. Reports its steps for `holdfast history`.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "base/block_device.h"
#include "base/sync.h"
#include "dlm/cluster_link.h"
#include "dlm/lockspace.h"
#include "fs/geometry.h"
#include "fs/interrupt.h"
#include "fs/journal_header.h"

namespace holdfast::fs {

class RecoveryDriver {
 public:
  struct Parts {
    BlockDevice* device = nullptr;
    dlm::LockSpace* space = nullptr;
    dlm::ClusterLink* link = nullptr;
    Executor* executor = nullptr;
    Geometry geometry;
    OwnerStamp self;
    std::function<void(Error)> fatal;
  };
  explicit RecoveryDriver(Parts parts);
  ~RecoveryDriver();

  void OnView(const dlm::View& view);
  // Completes when nothing is owed in the newest view, or that journal no longer is.
  Task<Status> NothingOwed();
  // This mount is up: adoption is possible; journals replayed before are adopted now.
  // kInterrupted: it has let the journal's lock go and is called again when nothing is owed.
  using AdoptFn = std::function<Task<Status>(MountNo, Interrupt*)>;
  void SetAdopt(AdoptFn adopt);
  // Before this mount's own journal closes: no adoption is under way or begun any more. Burying goes on: a leave waits for
  // what is owed, and we may be the only one left to replay it.
  Task<void> StopAdopting();
  void Stop();
  Task<void> Join();
  // What it does and waits for, for status.
  std::vector<dlm::Waiting> Waits() const;

 private:
  Task<void> Run();
  Task<Status> Bury(dlm::Victim victim);
  Task<Status> ReplayLocked(dlm::Victim victim, dlm::ReplayClaim claim);
  void StartAdopting();
  Task<void> AdoptAll();
  bool AnyOwed() const;
  bool MayAdopt(MountNo journal) const;
  void InterruptAdoption();
  void Step(std::string what);
  bool Owed(const MemberId& victim) const;

  Parts parts_;
  AdoptFn adopt_;
  std::set<MountNo> to_adopt_;
  std::set<MemberId> others_;  // claimed by another living member, in this view
  dlm::View view_;
  std::string step_ = "idle";
  Instant step_since_;
  bool running_ = false;
  bool adopting_ = false;
  MountNo adopting_journal_;
  std::unique_ptr<Interrupt> interrupt_;  // of the adoption under way
  bool again_ = false;
  bool stopped_ = false;
  WaitList changed_;
  Scope scope_;
};

}  // namespace holdfast::fs
