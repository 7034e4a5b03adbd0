// Status: the tree that `holdfast status` shows: members, votes, quorum, register version, lockspaces, journals owed,
// fencing, lease, this node's mounts, and whatever waits: on what and since when.
#pragma once

#include "base/status_tree.h"
#include "cluster/daemon/parts.h"

namespace holdfast::cluster {

class Fencer;
class Mounts;

struct StatusSources {
  Parts* parts = nullptr;
  const Mounts* mounts = nullptr;
  const Fencer* fencer = nullptr;
  std::vector<std::string> notes;  // standing remarks: no real-time priority, a volatile reservation, …
};

StatusTree BuildStatus(const StatusSources& sources);

}  // namespace holdfast::cluster
