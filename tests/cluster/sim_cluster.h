// SimCluster: whole nodes (Engine over the simulated network, disk and store) with a fencing driver, and the checkers that
// watch them. One per seed. A life is never destroyed while its world runs.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "cluster/engine.h"
#include "tests/sim/disk.h"
#include "tests/sim/kv_store.h"
#include "tests/sim/network.h"
#include "tests/sim/world.h"

namespace holdfast::cluster {

class SimCluster;

// One life of a node's daemon.
class SimLife final : public EngineHandler, public PeerSender {
 public:
  SimLife(SimCluster* cluster, NodeId node, uint64_t nonce, std::string boot_id);

  void OnState(StatePtr state) override;
  void OnLease(Incarnation incarnation, Instant deadline) override;
  void OnEvicted(std::string why) override;
  void Send(NodeId to, std::string message) override;

  Task<void> Run();
  Task<void> FenceLoop();
  Task<void> Fence(Life victim);

  SimCluster* cluster;
  NodeId node;
  uint64_t nonce;
  sim::SimExecutor* executor;
  std::unique_ptr<sim::SimTransport> transport;
  std::unique_ptr<sim::SimDiskSession> device;
  std::unique_ptr<sim::SimKvStore> store;
  std::unique_ptr<Engine> engine;
  Status started;
  bool evicted = false;
  bool fencing = false;
  Instant lease_end;  // world time
};

struct SimClusterOptions {
  uint32_t nodes = 3;
  bool disk = true;             // the disk is an acceptor with nodes - 1 votes
  sim::NetworkKnobs network;
  sim::DiskKnobs disk_knobs;
  EngineTiming timing;
  Mutants mutants;
  bool restart_evicted = true;
};

class SimCluster {
 public:
  SimCluster(sim::World* world, SimClusterOptions options);

  // quorum init, all nodes up; true when all are members.
  bool Bring();
  void StartNode(NodeId node);
  void Kill(NodeId node);
  bool up(NodeId node) const;
  SimLife* life(NodeId node) { return lives_.at(node.v); }
  // Everything that was cut is healed, everybody is up.
  void Heal();
  // A second quorum init: another world begins.
  void ForgetHistory() {
    chain_.clear();
    newest_.reset();
    evicted_at.clear();
  }
  bool AllMembers() const;
  bool Settled() const;         // all members, all know the newest version
  std::string Dump() const;
  uint64_t newest_version() const { return chain_.empty() ? 0 : chain_.rbegin()->first; }
  StatePtr newest() const { return newest_; }

  // Checkers. "" while all is well.
  const std::string& violation() const { return violation_; }
  void Violate(std::string what);
  void SawState(const SimLife& life, const StatePtr& state);
  void CheckLeases();

  sim::World& world;
  SimClusterOptions options;
  sim::SimNetwork network;
  std::unique_ptr<sim::SimDisk> disk;
  std::map<uint32_t, std::unique_ptr<sim::SimKvMedium>> media;
  std::map<NodeId, std::string> addresses;
  uint64_t evictions = 0, fenced = 0;
  std::map<Life, Instant> evicted_at;  // first seen anywhere, world time
  SimLife* FindLife(uint64_t nonce) const;

 private:
  InitClusterArgs InitArgs() const;
  std::map<uint32_t, SimLife*> lives_;              // newest of each node
  std::vector<SimLife*> all_;                       // never destroyed: a world's frames refer to them to the end
  std::map<uint64_t, std::string> chain_;           // version -> bytes, as told to anybody
  StatePtr newest_;
  std::string violation_;
};

}  // namespace holdfast::cluster
