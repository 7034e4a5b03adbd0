// View: what the cluster register says of one lockspace, as every member must see it. The daemon builds it from
// ClusterState and hands it to each mount; the lock manager and recovery act on nothing else.
// INVARIANT: members and victims are the same on every node that has the same register version.
// Threading: a value. See docs/protocols/dlm.md.
#pragma once

#include <vector>

#include "base/ids.h"
#include "base/transport.h"

namespace holdfast::dlm {

struct Member {
  MemberId id;
  MountNo mount;
  Endpoint endpoint;  // where its lock manager listens
  auto operator<=>(const Member&) const = default;
};

// A former member that ended without a clean leave and is not yet fully buried. It stays listed until both gates
// (decided.md, "Locks") are open, across any number of generations.
struct Victim {
  MemberId id;
  MountNo mount;
  bool fenced = false;         // the fence token (or the byte-lock proof for a mount) is in the register
  bool replayed = false;       // gate 1: its journal is replayed and adopted; nothing is owed
  bool readers_ended = false;  // gate 2: power proof, or lease + margin passed
  MemberId replayer;           // who has claimed the replay; default: nobody yet
  auto operator<=>(const Victim&) const = default;
};

struct View {
  RegisterVersion version;   // grows with every change below
  Generation generation;     // grows only when the set of members changes
  std::vector<Member> members;  // ordered by id
  std::vector<Victim> victims;  // ordered by id
  bool operator==(const View&) const = default;
};

}  // namespace holdfast::dlm
