// Cluster: whole nodes under one seed, in one process: per machine a holdfastd (daemon_life.h) and a mount (mount_life.h) of
// one volume on a simulated array, with the network between them and power switches that fencing uses. Everything in them
// is production code over the seams. It also plays the service managers: a daemon that ended starts again, a mount that
// ended is mounted again, while they are wanted.
// Threading: the world's. Nothing is destroyed while the world runs.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "cluster/config.h"
#include "fs/superblock.h"
#include "tests/sim/disk.h"
#include "tests/sim/kv_store.h"
#include "tests/sim/network.h"
#include "tests/sim/world.h"
#include "tests/whole/checker.h"
#include "tests/whole/clients.h"
#include "tests/whole/daemon_life.h"
#include "tests/whole/image_locks.h"
#include "tests/whole/mount_life.h"
#include "tests/whole/register_users.h"

namespace holdfast::whole {

// How a machine's power switch answers.
enum class Switch : uint8_t { kWorks, kFails, kHangs, kLate };

struct ClusterOptions {
  uint32_t nodes = 3;
  uint32_t spare_journals = 0;
  uint32_t data_mib = 64;       // of the volume, beside quorum area and journals
  bool power = true;            // every node has a power switch in its fence methods
  bool disk_votes = true;
  ArrayKnobs array;             // array.image: byte locks and fence_local instead of reservations
  sim::NetworkKnobs network;
  sim::DiskKnobs disk;
  cluster::Timing timing;
  cluster::Mutants mutants;
  Duration restart_delay = Milliseconds(500);
  Duration boot_time = Milliseconds(1500);
};

struct Machine {
  Machine(sim::World* world) : medium(world) {}
  sim::SimKvMedium medium;
  bool on = false;
  bool want_daemon = true, want_mount = true;
  bool stays_off = false;       // power on by the fence agent does not bring it back (until healed)
  uint64_t boots = 0;
  Switch power = Switch::kWorks;
  DaemonLife* daemon = nullptr;
  MountLife* mount = nullptr;
  Instant start_daemon_at, start_mount_at, boot_at;
  std::vector<uint64_t> dead_mounts;  // join nonces of mounts that died and may be owed
  bool recovered_told = true;
};

class Cluster {
 public:
  Cluster(sim::World* world, ClusterOptions options, Clients* clients);

  // mkfs and quorum init (once per process, then copied), all machines on; true when everybody has mounted.
  bool Form(Duration limit);

  void PowerOn(NodeId node);
  void PowerOff(NodeId node);  // everything on it dies; unsynced state of its store may be lost
  void KillDaemon(NodeId node);
  void KillMount(NodeId node);
  void Pause(NodeId node) { world.PauseNode(node); }
  void Resume(NodeId node);
  void Unmount(NodeId node);
  void Leave(NodeId node);     // clean: unmount, then leave the cluster

  Machine& machine(NodeId node) { return machines_.at(node.v); }
  const Machine& machine(NodeId node) const { return machines_.at(node.v); }
  std::vector<NodeId> nodes() const;
  bool AllMounted() const;
  bool ProcessAlive(int32_t pid) const;
  bool NothingOwed() const;    // nobody is being fenced, no victim in the lockspace
  bool MountUp(NodeId node) const { return machine(node).mount && machine(node).mount->state == MountLife::State::kUp; }
  std::string Dump() const;

  // Called by lives.
  void DaemonEnded(DaemonLife& life);
  void MountGone(MountLife& life);
  void AfterReplay(const MemberId& victim);

  const cluster::Config& config() const { return config_; }
  const fs::Geometry& geometry() const { return super_.geometry; }
  const char* volume_url() const { return options.array.image ? kImageUrl : kArrayUrl; }
  const std::string& lockspace_name() const { return lockspace_name_; }
  Checker& checker() { return checker_; }
  RegisterUsers& register_users() { return register_users_; }
  const Checker& checker() const { return checker_; }
  const std::vector<DaemonLife*>& daemons() const { return daemons_; }

  sim::World& world;
  ClusterOptions options;
  Clients* clients;
  sim::SimNetwork network;
  std::unique_ptr<sim::SimDisk> disk;
  ImageLocks image_locks;
  uint64_t crashes = 0;
  std::function<void()> after_replay;  // may be empty

 private:
  void MakeConfig();
  bool Initialize();
  void Tick();
  void Care(NodeId node, Machine& m);
  void TellRecovered(NodeId node, Machine& m);

  std::map<uint32_t, Machine> machines_;
  cluster::Config config_;
  fs::Superblock super_;
  std::string lockspace_name_ = "vol";
  Checker checker_;
  RegisterUsers register_users_;
  std::vector<DaemonLife*> daemons_;
  std::vector<MountLife*> mounts_;
};

// The fence agents of this cluster, as a daemon's process runs them.
std::unique_ptr<Processes> MakeAgents(Cluster* cluster, sim::SimExecutor* executor);

std::string ToText(const StatusTree& tree, int depth);

}  // namespace holdfast::whole
