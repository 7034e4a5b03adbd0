// StateWatch: what changed from one decided state to the next, for the timeline, the log and the list of waits. Only
// looks; decides nothing.
#pragma once

#include <map>
#include <set>
#include <string>

#include "cluster/daemon/parts.h"

namespace holdfast::cluster {

class StateWatch {
 public:
  explicit StateWatch(Parts* parts) : parts_(parts) {}
  void OnState(const StatePtr& state);
  // Suspects and things that wait; called several times a second.
  void Tick();

 private:
  void NodeChanges(const ClusterState& state);
  void FencingChanges(const ClusterState& state);
  void VictimChanges(const ClusterState& state);
  void Waits(const ClusterState& state);

  Parts* parts_;
  StatePtr last_;
  std::map<Life, Instant> suspected_;  // when, by our own reading
  std::set<std::string> waits_;        // keys that we set
};

}  // namespace holdfast::cluster
