// DaemonLife: one life of a node's holdfastd in the simulator: the production DaemonCore over simulated seams, and the other
// end of the mounts' lines. A life is never destroyed while its world runs.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/lease_page.h"
#include "cluster/daemon/core.h"
#include "fence/local_fence.h"
#include "tests/sim/disk.h"
#include "tests/sim/kv_store.h"
#include "tests/sim/network.h"
#include "tests/whole/line.h"
#include "tests/whole/sessions.h"

namespace holdfast::whole {

class Cluster;

class DaemonLife {
 public:
  DaemonLife(Cluster* cluster, NodeId node);

  // As the socket's: a process of this node connects.
  Result<std::shared_ptr<ControlLine>> Connect(sim::SimExecutor* client, std::shared_ptr<SimLine>* line);
  // kill -9 of this process alone.
  void Die();
  bool alive() const { return executor->alive(); }
  int32_t pid() const { return static_cast<int32_t>(executor->id()); }
  cluster::Life life() const { return core->engine() ? core->engine()->self() : cluster::Life{node, Incarnation(0)}; }

  Cluster* cluster;
  NodeId node;
  sim::SimExecutor* executor;
  std::unique_ptr<sim::SimKvStore> store;
  LeasePage page;
  std::unique_ptr<cluster::LeaseWriter> lease;
  std::unique_ptr<Processes> processes;
  std::unique_ptr<SimReservationSessions> sessions;
  std::unique_ptr<fence::LocalFence> local;
  std::unique_ptr<cluster::Network> network;
  std::unique_ptr<cluster::DaemonCore> core;
  Instant lease_end;  // world time

 private:
  Task<void> Run();
  std::vector<std::shared_ptr<SimLine>> lines_;
};

}  // namespace holdfast::whole
