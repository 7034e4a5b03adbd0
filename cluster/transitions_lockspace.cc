// Changes of lockspaces: members, dead mounts, owed journals; and the view that members get. See transitions.h.
#include <algorithm>

#include "cluster/lockspace_view.h"
#include "base/probe.h"
#include "cluster/transitions.h"
#include "cluster/transitions_internal.h"

namespace holdfast::cluster {

using transitions_internal::Apply;
using transitions_internal::FindMember;
using transitions_internal::FindVictim;
using transitions_internal::IdOf;
using transitions_internal::RequireMember;

static Life NodeOf(const MemberId& id) { return {id.node, id.incarnation}; }

static void EditKey(ClusterState& state, const MemberId& id, uint32_t mount, bool add) {
  Node* node = transitions_internal::FindNode(state, id.node);
  if (node == nullptr) return;
  uint64_t key = ReservationKeyOf(id.node, node->nonce(), mount + 1);
  std::vector<uint64_t> keys(node->keys().begin(), node->keys().end());
  std::erase(keys, key);
  if (add) keys.push_back(key);
  std::sort(keys.begin(), keys.end());
  *node->mutable_keys() = {keys.begin(), keys.end()};
}

static Result<uint32_t> FreeMount(const Lockspace& space, uint32_t mounts_max) {
  for (uint32_t number = 0; number < std::min(mounts_max, kMountsMax); ++number) {
    bool used = std::any_of(space.members().begin(), space.members().end(),
                            [number](const auto& m) { return m.mount() == number; }) ||
                std::any_of(space.victims().begin(), space.victims().end(),
                            [number](const auto& v) { return v.mount() == number; });
    if (!used) return number;
  }
  return Error(Errc::kNoSpace, "all " + std::to_string(mounts_max) + " journals are in use or owed");
}

// Nobody lives who could replay, and every journal is used or owed (all mounts died at once): the first who comes back
// takes over an owed one whose dead owners are all fenced, and replays it with the rest before it goes on.
static Result<uint32_t> OwedMount(const Lockspace& space, uint32_t mounts_max) {
  for (uint32_t number = 0; number < std::min(mounts_max, kMountsMax); ++number) {
    bool fenced = std::all_of(space.victims().begin(), space.victims().end(),
                              [number](const auto& v) { return v.mount() != number || v.fenced(); });
    if (fenced) HF_PROBE("lockspace: an owed number is given out");
    if (fenced) return number;
  }
  return Error(Errc::kNoSpace, "all " + std::to_string(mounts_max) + " journals are owed by mounts that are not fenced yet");
}

static Result<Lockspace*> FindOrAdd(ClusterState& state, const LockspaceJoinArgs& args) {
  Lockspace* space = transitions_internal::FindLockspace(state, args.name);
  if (space == nullptr) {
    if (state.lockspaces_size() >= kLockspacesMax) {
      // The names of filesystems that nobody uses or owes any more make room.
      auto* list = state.mutable_lockspaces();
      for (int i = 0; i < list->size(); ++i)
        if (list->Get(i).members().empty() && list->Get(i).victims().empty()) {
          list->DeleteSubrange(i, 1);
          break;
        }
      if (list->size() >= kLockspacesMax) return Error(Errc::kNoSpace, "too many lockspaces");
    }
    auto* list = state.mutable_lockspaces();
    list->Add()->set_name(args.name);
    int at = list->size() - 1;
    for (; at > 0 && list->Get(at).name() < list->Get(at - 1).name(); --at) list->SwapElements(at, at - 1);
    space = list->Mutable(at);
    // Generations of a name that was forgotten stay below: the register's version only grows.
    space->set_generation(state.version());
  }
  bool unused = space->members().empty() && space->victims().empty();
  if (unused) {
    space->set_volume_uuid(args.volume_uuid);
    space->set_volume_url(args.volume_url);
  } else if (space->volume_uuid() != args.volume_uuid) {
    return Error(Errc::kInvalid, "lockspace '" + args.name + "' is used by another volume, " + space->volume_uuid());
  }
  return space;
}

Result<ClusterState> LockspaceJoin(const ClusterState& state, const LockspaceJoinArgs& args) {
  return Apply(state, args.change, [&](ClusterState& next) -> Status {
    HF_TRY(RequireMember(state, args.by));
    if (args.name.empty() || args.name.size() > 64 || args.nonce == 0) return Error(Errc::kInvalid, "no lockspace name or nonce");
    auto found = FindOrAdd(next, args);
    if (!found.ok()) return found.error();
    Lockspace& space = **found;
    MemberId id{args.by.node, args.by.incarnation, args.nonce};
    if (FindMember(space, id) != nullptr) return {};
    if (FindVictim(space, id) != nullptr) HF_PROBE("lockspace: join of an evicted mount");
    if (FindVictim(space, id) != nullptr) return Error(Errc::kFenced, "this mount has been evicted");
    auto number = FreeMount(space, args.mounts_max);
    if (!number.ok() && space.members().empty()) number = OwedMount(space, args.mounts_max);
    if (!number.ok()) return number.error();
    auto* list = space.mutable_members();
    auto* member = list->Add();
    member->set_node(id.node.v);
    member->set_incarnation(id.incarnation.v);
    member->set_nonce(id.nonce);
    member->set_mount(*number);
    member->set_address(args.address);
    for (int at = list->size() - 1; at > 0 && IdOf(list->Get(at)) < IdOf(list->Get(at - 1)); --at)
      list->SwapElements(at, at - 1);
    space.set_generation(space.generation() + 1);
    EditKey(next, id, *number, true);
    return {};
  });
}

Result<ClusterState> LockspaceLeave(const ClusterState& state, const LockspaceArgs& args) {
  return Apply(state, args.change, [&](ClusterState& next) -> Status {
    HF_TRY(RequireMember(state, NodeOf(args.member)));
    Lockspace* space = transitions_internal::FindLockspace(next, args.name);
    LockspaceMember* member = space == nullptr ? nullptr : FindMember(*space, args.member);
    if (member == nullptr) return Error(Errc::kConflict, ToString(args.member) + " is not a member of '" + args.name + "'");
    EditKey(next, args.member, member->mount(), false);
    int at = 0;
    while (IdOf(space->members(at)) != args.member) ++at;
    space->mutable_members()->DeleteSubrange(at, 1);
    space->set_generation(space->generation() + 1);
    return {};
  });
}

Result<ClusterState> MountDied(const ClusterState& state, const LockspaceArgs& args, const std::string& reason) {
  return Apply(state, args.change, [&](ClusterState& next) -> Status {
    HF_TRY(RequireMember(state, NodeOf(args.member)));
    Lockspace* space = transitions_internal::FindLockspace(next, args.name);
    if (space == nullptr) return Error(Errc::kConflict, "no lockspace '" + args.name + "'");
    if (FindVictim(*space, args.member) != nullptr) return {};
    for (int at = 0; at < space->members_size(); ++at) {
      if (IdOf(space->members(at)) != args.member) continue;
      LockspaceMember member = space->members(at);
      space->mutable_members()->DeleteSubrange(at, 1);
      transitions_internal::AddVictim(*space, member, true, reason.substr(0, 200));
      space->set_generation(space->generation() + 1);
      return {};
    }
    return Error(Errc::kConflict, ToString(args.member) + " is not a member of '" + args.name + "'");
  });
}

Result<ClusterState> MountProof(const ClusterState& state, const MountProofArgs& args) {
  return Apply(state, args.change, [&](ClusterState& next) -> Status {
    HF_TRY(RequireMember(state, args.by));
    Lockspace* space = transitions_internal::FindLockspace(next, args.name);
    LockspaceVictim* victim = space == nullptr ? nullptr : FindVictim(*space, args.victim);
    if (victim == nullptr) return Error(Errc::kConflict, ToString(args.victim) + " is not a victim of '" + args.name + "'");
    if (!victim->mount_only()) return Error(Errc::kConflict, "its node was evicted: the node's token counts");
    if (!victim->fenced()) {
      victim->set_fenced(true);
      victim->set_proof(args.proof.substr(0, 200));
      victim->set_fenced_version(state.version() + 1);
      EditKey(next, args.victim, victim->mount(), false);
    }
    if (args.readers_ended) victim->set_readers_ended(true);
    return {};
  });
}

// The victim, if the claimer may touch it.
static Result<LockspaceVictim*> ReplayOf(ClusterState& next, const ReplayArgs& args) {
  HF_TRY(RequireMember(next, NodeOf(args.by)));
  Lockspace* space = transitions_internal::FindLockspace(next, args.name);
  if (space == nullptr || FindMember(*space, args.by) == nullptr)
    return Error(Errc::kFenced, ToString(args.by) + " is not a member of '" + args.name + "'");
  LockspaceVictim* victim = FindVictim(*space, args.victim);
  if (victim == nullptr) return Error(Errc::kNotFound, "nothing is owed by " + ToString(args.victim));
  return victim;
}

static bool IsReplayer(const LockspaceVictim& victim, const MemberId& id) {
  return victim.replayer_node() == id.node.v && victim.replayer_incarnation() == id.incarnation.v &&
         victim.replayer_nonce() == id.nonce;
}

Result<ClusterState> ClaimReplay(const ClusterState& state, const ReplayArgs& args) {
  return Apply(state, args.change, [&](ClusterState& next) -> Status {
    auto found = ReplayOf(next, args);
    if (!found.ok()) return found.error();
    LockspaceVictim& victim = **found;
    if (victim.replayed()) return Error(Errc::kNotFound, "its journal is replayed");
    if (!victim.fenced()) return Error(Errc::kConflict, ToString(args.victim) + " is not fenced yet");
    if (victim.replayer_node() != 0 && !IsReplayer(victim, args.by))  // Tidy has freed those of dead replayers
      return Error(Errc::kBusy, "n" + std::to_string(victim.replayer_node()) + " replays it");
    victim.set_replayer_node(args.by.node.v);
    victim.set_replayer_incarnation(args.by.incarnation.v);
    victim.set_replayer_nonce(args.by.nonce);
    return {};
  });
}

Result<ClusterState> ReplayDone(const ClusterState& state, const ReplayArgs& args) {
  return Apply(state, args.change, [&](ClusterState& next) -> Status {
    auto found = ReplayOf(next, args);
    if (!found.ok()) return found.error();
    LockspaceVictim& victim = **found;
    if (victim.replayed()) return {};
    if (!victim.fenced() || !IsReplayer(victim, args.by))
      return Error(Errc::kConflict, ToString(args.by) + " has not claimed this replay");
    victim.set_replayed(true);
    return {};
  });
}

LockspaceView ViewOf(const ClusterState& state, const std::string& name) {
  LockspaceView view;
  view.version = RegisterVersion(state.version());
  const Lockspace* space = FindLockspace(state, name);
  if (space == nullptr) return view;
  view.generation = Generation(space->generation());
  for (const auto& m : space->members())
    view.members.push_back({IdOf(m), MountNo(m.mount()), Endpoint{NodeId(m.node()), m.address(), ""}});
  for (const auto& v : space->victims())
    view.victims.push_back({IdOf(v), MountNo(v.mount()), v.fenced(), v.replayed(), v.readers_ended(),
                            MemberId{NodeId(v.replayer_node()), Incarnation(v.replayer_incarnation()), v.replayer_nonce()}});
  return view;
}

}  // namespace holdfast::cluster
