// LockspaceView: what the register says of one lockspace; field by field what dlm/view.h's View has (cluster does not
// know dlm; the control protocol carries it). INVARIANT: equal on all nodes that have the same register version.
#pragma once

#include <string>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "base/transport.h"
#include "cluster/state.pb.h"

namespace holdfast::cluster {

struct LockspaceView {
  struct Member {
    MemberId id;
    MountNo mount;
    Endpoint endpoint;  // without the public key: that is in cluster.conf
    auto operator<=>(const Member&) const = default;
  };
  struct Victim {
    MemberId id;
    MountNo mount;
    bool fenced = false;
    bool replayed = false;
    bool readers_ended = false;
    MemberId replayer;  // default: nobody yet
    auto operator<=>(const Victim&) const = default;
  };
  RegisterVersion version;
  Generation generation;
  std::vector<Member> members;
  std::vector<Victim> victims;
  bool operator==(const LockspaceView&) const = default;
};

// A lockspace that the register does not know: generation 0, nobody.
LockspaceView ViewOf(const ClusterState& state, const std::string& name);

}  // namespace holdfast::cluster
