// Checker: the invariants of a whole cluster, watched from outside, on what is seen of the register, of every lock that a
// mount believes to hold, and of every write that lands on the shared disk.
//   I1  nothing of a life lands after its fence token; a journal is written by its owner and by its one replayer only
//   I2  one chain of register values; no lease of an evicted life beyond lease + margin
//   I3  no two members hold incompatible modes; nothing that a dead EX holder held is granted before its replay, nothing
//       against a victim's cached reads before they have ended
//   I4  nothing of a lost session lands after the next session of its owner has written
// The first violation stays.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "cluster/engine.h"
#include "dlm/lockspace.h"
#include "tests/sim/disk.h"

namespace holdfast::whole {

class Cluster;
class DaemonLife;
class MountLife;

class Checker {
 public:
  explicit Checker(Cluster* cluster) : cluster_(cluster) {}
  const std::string& violation() const { return violation_; }
  void Violate(std::string what);

  void SawState(const DaemonLife& life, const cluster::StatePtr& state);
  void CheckLeases();
  void Wrote(const sim::DiskWrite& write);
  // The array has forgotten all reservations.
  void KeysLost() { keys_lost_ = true; }
  // A mount has its number; its executor's writes are that member's from now on.
  void Joined(const MountLife& mount);

  // What a member believes of one of its locks, after every change; kIV: gone.
  void Believes(const MemberId& member, dlm::LockId lock, const dlm::ResourceName& name, dlm::Mode mode);
  void Granted(const MemberId& member, dlm::LockId lock, const dlm::ResourceName& name, dlm::Mode mode, Generation asked_in, bool recovery);
  void HoldsNothing(const MemberId& member);

  const cluster::StatePtr& newest() const { return newest_; }
  const cluster::Lockspace* lockspace() const;
  // Is anything owed for a mount of that join nonce?
  bool Buried(uint64_t mount_nonce) const;
  uint64_t evictions() const { return evicted_at_.size(); }
  uint64_t replays() const { return replays_; }
  uint64_t grants() const { return grants_; }

 private:
  struct Facts {
    bool member = false, victim = false, fenced = false, replayed = false, readers_ended = false, known = false;
    uint64_t evicted_generation = 0;
    std::set<MemberId> replayers;
    MemberId replayer;
    MountNo mount;
  };
  using Holder = std::pair<MemberId, dlm::LockId>;
  void LearnLockspace(const cluster::ClusterState& state);
  void CheckReaders(const cluster::ClusterState& state);

  Cluster* cluster_;
  std::string violation_;
  std::map<uint64_t, std::string> chain_;
  cluster::StatePtr newest_;
  std::map<cluster::Life, Instant> evicted_at_;
  std::set<cluster::Life> fenced_;
  std::map<MemberId, Facts> facts_;
  std::map<uint64_t, MemberId> writers_;  // executor -> member
  std::map<uint64_t, MountNo> numbers_;   // executor -> mount number
  std::map<dlm::ResourceName, std::map<Holder, dlm::Mode>> held_;
  uint64_t replays_ = 0, grants_ = 0;
  bool keys_lost_ = false;
};

}  // namespace holdfast::whole
