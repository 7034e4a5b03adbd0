// RegisterUsers: on every node somebody reads the cluster register and changes it, through the engine, beside all that the
// cluster itself decides. The history is checked for linearizability as it happens. A value carries its version and the
// ids of its changes, and the checker has seen to it that there is one value of each version and one chain of them, so
// the order of versions is the only order there can be, and it must agree with real time:
//   a read, or a change that was told done, is not older than anything that anybody had been told when it began;
//   a change that was told done is in the chain, once, at a place after its beginning; one without an answer may come or not.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "cluster/engine.h"
#include "tests/sim/world.h"

namespace holdfast::whole {

class DaemonLife;

class RegisterUsers {
 public:
  explicit RegisterUsers(sim::World* world) : world_(world) {}
  // A daemon runs: its user begins.
  void Start(DaemonLife* life);
  // A decided value became known to somebody, now.
  void Told(const cluster::ClusterState& state);
  void Quiesce() { quiet_ = true; }
  const std::string& violation() const { return violation_; }
  uint64_t operations() const { return operations_; }

 private:
  struct Op {
    uint64_t id = 0;       // of a change; 0: a read
    uint64_t newest = 0;   // version that somebody had been told when it began
    std::string who;
  };
  Task<void> Use(DaemonLife* life);
  void Ended(const Op& op, const Result<cluster::StatePtr>& result);
  void Violate(std::string what);

  sim::World* world_;
  uint64_t newest_ = 0;
  std::map<uint64_t, uint64_t> version_of_;  // change -> the version that brought it
  std::map<uint64_t, uint64_t> change_of_;   // and back
  std::string violation_;
  uint64_t operations_ = 0;
  bool quiet_ = false;
};

}  // namespace holdfast::whole
