// Workload: applications on the nodes of a simulated cluster, each behind a model of its kernel (kernel_model.h), and the
// models that judge what they saw (I4, I6). The cluster around it (daemons, lock manager, faults) is the caller's: it says
// which mounts exist, what died, and when the survivors have replayed it.
//
//   Workload w(&world, WorkloadKnobs::Random(random));
//   w.Attach(node, mount, executor)      mount->Start() has ended well; applications begin
//   w.NodeDied(node) / w.MountDied(node) at the instant of the crash; later w.Recovered(node)
//   w.Violation()                        asked after each step: "" or the first thing that was wrong
//   w.Quiesce(); until w.Idle(); co_await w.FinalCheck(node); w.Verify()
//
// Kinds of work: names in a few directories (checked for linearizability), cells of a few files (every read against every
// write), counters under range locks, logs appended from all nodes, O_EXCL races, unlinked open files, mapped files.
// Threading: one thread, as all of the simulation. Determinism: everything random comes from the world's seed.
#pragma once

#include <memory>
#include <string>

#include "base/ids.h"
#include "base/result.h"
#include "base/task.h"
#include "fs/mount.h"
#include "tests/sim/world.h"
#include "tests/whole/clients.h"
#include "tests/whole/model/knobs.h"

namespace holdfast::whole {

class Workload final : public Clients {
 public:
  explicit Workload(sim::World* world, WorkloadKnobs knobs = {});
  ~Workload() override;

  // A mount of this node has started (AttachKernel is called here). The first one makes the files that all use and syncs
  // them; applications elsewhere wait for that. A node may be attached again after Detach, MountDied or NodeDied.
  void Attach(NodeId node, fs::Mount* mount, sim::SimExecutor* executor) override;
  // umount(8): its applications end, files are closed, the kernel forgets all. Then the caller runs mount->Stop().
  // Awaited on any executor that lives.
  Task<void> Detach(NodeId node) override;

  // The machine is gone, its kernel and its applications with it.
  void NodeDied(NodeId node) override;
  // The mount process alone is gone: kernel and applications live on; its supervisor empties the kernel's caches and ends
  // the connection within knobs.supervisor_delay_max.
  void MountDied(NodeId node) override;
  // Instead of mount->Withdraw(why) (it is called inside): requests are refused, the kernel's caches emptied, the connection
  // ended, as fs/fuse/program.cc does. For Mount::SetOnFatal. Ends when nothing of the mount is in flight or cached.
  Task<void> Withdraw(NodeId node, Error why) override;
  // What that mount has not made durable may be lost from now on, although it may not know yet that it is out.
  void Replayed(const MemberId& victim) override;
  // Every life of this node that has ended is fenced and replayed: what it had not finished never happens any more.
  void Recovered(NodeId node) override;

  // No new operations; those under way go on.
  void Quiesce() override;
  bool Idle() const override;
  // All that should be there, read through this node's mount. REQUIRES: quiet; every dead life was Recovered.
  Task<void> FinalCheck(NodeId node) override;

  // The first violation found so far, or "" (cheap: to be asked often).
  const std::string& Violation() const override;
  // Also what can only be judged at the end (linearizability of the names). "" or all violations.
  std::string Verify() override;

  // Operations under way and what they wait for; counts of what was done. For a failed run's report.
  std::string Dump() const override;
  uint64_t operations() const override;

 private:
  friend class User;
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace holdfast::whole
