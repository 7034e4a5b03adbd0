// Shared by the transitions_*.cc files: finding things in a mutable state, the bookkeeping of a change, what an eviction
// does to lockspaces. Not for users; see transitions.h.
#pragma once

#include <functional>
#include <string>

#include "cluster/transitions.h"

namespace holdfast::cluster::transitions_internal {

Node* FindNode(ClusterState& state, NodeId id);
Fencing* FindFencing(ClusterState& state, Life life);
Lockspace* FindLockspace(ClusterState& state, const std::string& name);
LockspaceMember* FindMember(Lockspace& space, const MemberId& id);
LockspaceVictim* FindVictim(Lockspace& space, const MemberId& id);
MemberId IdOf(const LockspaceMember& member);
MemberId IdOf(const LockspaceVictim& victim);

// Runs `edit` on a copy. Applied ids and edits that change nothing give the state back as it is.
Result<ClusterState> Apply(const ClusterState& state, ChangeId change, const std::function<Status(ClusterState&)>& edit);

// kFenced / kConflict unless this life is a member of the cluster.
Status RequireMember(const ClusterState& state, Life life);

// A life that was a member becomes a victim: a fencing entry, and a victim in every lockspace it was in.
void EvictLife(ClusterState& state, Node& node, NodeId by, const std::string& reason);
void AddVictim(Lockspace& space, const LockspaceMember& member, bool mount_only, const std::string& reason);
// Removes what both gates, or all fencing, have done with; frees replays claimed by those who are gone.
void Tidy(ClusterState& state);

}  // namespace holdfast::cluster::transitions_internal
