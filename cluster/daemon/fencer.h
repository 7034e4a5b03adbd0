// Fencer: carries out what the register says of evicted lives. For each it asks FencerFor (engine.h); if that is this
// node, it enters its name (ClaimFencer), runs the fence domain, writes the token at the first sufficient proof, waits
// until no action runs any more, and closes the second gate when readers have ended. Every step is repeatable; another
// node takes over only when this one is evicted or resigns.
// A former life of this very node is proved gone without harming the present one: storage step and byte locks only.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/status_tree.h"
#include "cluster/daemon/parts.h"
#include "fence/domain.h"
#include "fence/local_fence.h"
#include "fence/pr_fence.h"

namespace holdfast::cluster {

class Fencer {
 public:
  Fencer(Parts* parts, fence::Domain* domain, fence::StorageFence* storage, fence::LocalFence* local)
      : parts_(parts), domain_(domain), storage_(storage), local_(local) {}

  // Looks at every life that is being fenced; starts what is ours to do. Called at each state and each second.
  void Look();
  // For status: one line per life in the register.
  void Show(StatusTree& list) const;
  // `holdfast fence ack`.
  Task<Status> Acknowledge(std::string node, std::string who);
  Task<StatusTree> Check();
  // `<unfence>` of this node. Errors are logged: the node then cannot write, which is safe.
  Task<void> Unfence();
  // Ends all runs, resigns. Before a clean leave.
  Task<void> Resign();

 private:
  struct Work {
    std::shared_ptr<fence::FenceRun> run;
    std::string doing;
    bool readers_ended = false;  // the proof says so
  };
  Task<void> Do(Life victim);
  Task<Status> Fence(Life victim, std::shared_ptr<Work> work);
  Task<Status> Prove(Life victim, std::shared_ptr<Work> work);
  Task<Status> EndActions(Life victim, std::shared_ptr<Work> work);
  Task<Status> EndReaders(Life victim, std::shared_ptr<Work> work);
  FenceArgs Args(Life victim);
  fence::Victim VictimOf(const Fencing& fencing) const;
  Task<Result<std::vector<FenceProof>>> ProveOther(Life victim, std::shared_ptr<Work> work);
  Task<Result<std::vector<FenceProof>>> ProveFormerSelf(Life victim, std::shared_ptr<Work> work);
  Task<Result<FenceProof>> ProveVolume(fence::Victim victim, fence::VictimVolume volume);
  // The victim's node is up again and about to prove its former life gone itself.
  bool NextLifeComes(const Fencing& fencing) const;
  bool Alive(NodeId node) const;
  NodeId FencerNow(const ClusterState& state, Life victim) const;
  void OnStep(Life victim, const fence::FenceStep& step);

  Parts* parts_;
  fence::Domain* domain_;
  fence::StorageFence* storage_;
  fence::LocalFence* local_;
  std::map<Life, std::shared_ptr<Work>> works_;
  bool resigning_ = false;
};

// cluster.conf's methods with each device's attributes over its fencedevice's.
std::vector<fence::FenceMethod> FenceMethods(const Config& config, const NodeConfig& node);
std::vector<fence::FenceDevice> UnfenceDevices(const Config& config, const NodeConfig& node);

}  // namespace holdfast::cluster
