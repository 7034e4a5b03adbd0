// Domain: fencing as this node performs it. Fence() starts the storage step and the configured methods together; the
// run's proofs are complete for the fence token when the first sufficient one is there, the rest goes on behind it.
// The caller (holdfastd) has written its name into the register before it calls, writes the token afterwards, and
// cancels when another node takes over. Every step is repeatable: a run may be started again from nothing.
// INVARIANT: unknown or timed out is not fenced; a run without a sufficient proof goes on through its methods until
// it is cancelled. A proof other than storage counts only after what the array had accepted has landed (barrier).
// Threading: one executor. Injected: FenceSeams. docs/protocols/fencing.md.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/executor.h"
#include "base/kv_store.h"
#include "base/processes.h"
#include "base/result.h"
#include "base/status_tree.h"
#include "base/sync.h"
#include "base/task.h"
#include "fence/types.h"

namespace holdfast::fence {

class StorageFence;  // fence/pr_fence.h
class LocalFence;    // fence/local_fence.h
class History;       // fence/history.h
class Agents;        // fence/agent.h

struct FenceSeams {
  Executor* executor = nullptr;
  Processes* processes = nullptr;   // null: external agents fail
  StorageFence* storage = nullptr;  // null: no storage step (no volume with reservations)
  LocalFence* local = nullptr;      // null: fence_local fails
  History* history = nullptr;       // null: ports seen ON are remembered only for this life
};

// Ports seen ON, by device and plug: in the history where there is one, else for this life.
class SeenPorts {
 public:
  explicit SeenPorts(History* history) : history_(history) {}
  bool Has(const FenceDevice& device) const;
  Task<void> Mark(FenceDevice device, WallTime at);

 private:
  History* history_;
  std::set<std::string> here_;
};

// One fencing of one victim. Shared by the domain and whoever waits.
class FenceRun {
 public:
  explicit FenceRun(Victim victim) : victim_(std::move(victim)) {}
  const Victim& victim() const { return victim_; }
  // The proofs so far, as soon as one is sufficient; kCancelled when cancelled before that. Any number of waiters.
  Task<Result<std::vector<FenceProof>>> AwaitProof();
  // When nothing acts on the victim any more (a join of a newer incarnation waits for this).
  Task<void> AwaitEnd();
  // No further step begins; a running agent is awaited. `why` goes into the steps.
  void Cancel(std::string why);
  bool proven() const { return proven_.set(); }
  bool ended() const { return ended_.set(); }
  const std::vector<FenceProof>& proofs() const { return proofs_; }
  // What it is doing now, for status: "method power device bmc2 off, round 1".
  const std::string& doing() const { return doing_; }

 private:
  friend class Domain;
  struct Worker;
  Victim victim_;
  std::vector<FenceProof> proofs_;
  Event proven_, ended_, over_;  // over_: proven, cancelled or ended
  bool cancelled_ = false;
  std::string why_, doing_;
};

struct CheckResult {
  std::string method, device;
  bool ok = false;
  std::string details;  // "status ON", "port 7 is not in the agent's list", ...
};

class Domain {
 public:
  Domain(FenceSeams seams, FencePolicy policy);
  ~Domain();  // REQUIRES: Close() has completed, or the process ends (Abandon)

  void SetPolicy(const FencePolicy& policy) { policy_ = policy; }
  const FencePolicy& policy() const { return policy_; }

  // Starts fencing, or returns the run that is at it already for this incarnation. `on_step` is called on the executor,
  // for every step's start and end, and must outlive the run.
  std::shared_ptr<FenceRun> Fence(Victim victim, std::vector<FenceMethod> methods, StepSink on_step);
  // The run for this node's incarnation, or null.
  std::shared_ptr<FenceRun> Find(NodeId node, Incarnation incarnation) const;
  // A human has seen to it that the node is isolated (`holdfast fence ack`): ends the run's wait with a manual proof.
  // kNotFound without a run.
  Status Acknowledge(NodeId node, Incarnation incarnation, std::string who);

  // `holdfast fence check`, and at every join: monitor, list, status ON of each device of a node that runs. Remembers
  // ports seen ON; without that a port that does not exist would read OFF and be a false success.
  Task<std::vector<CheckResult>> Check(std::string node_name, std::vector<FenceMethod> methods);
  // <unfence>: `on` for each device, by the node itself at start. The first error.
  Task<Status> Unfence(std::string node_name, std::vector<FenceDevice> devices, StepSink on_step);

  StatusTree Dump() const;
  // Cancels all runs and waits for their ends.
  Task<void> Close();
  void Abandon() { scope_.Abandon(); }

 private:
  Task<void> Run(std::shared_ptr<FenceRun> run, std::vector<FenceMethod> methods, StepSink on_step);
  Task<void> AcknowledgeRun(std::shared_ptr<FenceRun> run, std::string who);
  Task<CheckResult> CheckDevice(std::string node_name, std::string method, FenceDevice device);

  FenceSeams seams_;
  FencePolicy policy_;
  std::unique_ptr<Agents> agents_;
  SeenPorts seen_;
  std::map<std::pair<NodeId, Incarnation>, std::shared_ptr<FenceRun>> runs_;  // the newest of each node stay for status
  Scope scope_;
};

}  // namespace holdfast::fence
