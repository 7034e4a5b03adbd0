// Changes of nodes: join, admission, cold start, leave, eviction. See transitions.h.
#include <algorithm>

#include "cluster/transitions.h"
#include "cluster/transitions_internal.h"

namespace holdfast::cluster {
namespace transitions_internal {

void AddVictim(Lockspace& space, const LockspaceMember& member, bool mount_only, const std::string& reason) {
  LockspaceVictim victim;
  victim.set_node(member.node());
  victim.set_incarnation(member.incarnation());
  victim.set_nonce(member.nonce());
  victim.set_mount(member.mount());
  victim.set_mount_only(mount_only);
  victim.set_reason(reason);
  MemberId id = IdOf(member);
  auto* list = space.mutable_victims();
  int at = 0;
  while (at < list->size() && IdOf(list->Get(at)) < id) ++at;
  *list->Add() = victim;
  for (int i = list->size() - 1; i > at; --i) list->SwapElements(i, i - 1);
}

// Takes every member of that life out of the lockspaces; each concerned gets a new generation.
static void EvictFromLockspaces(ClusterState& state, Fencing& entry, Life life, const std::string& reason) {
  for (auto& space : *state.mutable_lockspaces()) {
    bool changed = false;
    for (int i = 0; i < space.members_size();) {
      const auto& member = space.members(i);
      if (member.node() != life.node.v || member.incarnation() != life.incarnation.v) {
        ++i;
        continue;
      }
      auto* mount = entry.add_mounts();
      mount->set_lockspace(space.name());
      mount->set_nonce(member.nonce());
      mount->set_mount(member.mount());
      mount->set_volume_uuid(space.volume_uuid());
      mount->set_volume_url(space.volume_url());
      AddVictim(space, member, false, reason);
      space.mutable_members()->DeleteSubrange(i, 1);
      changed = true;
    }
    // A mount that had died before its node did: its proof is now the node's.
    for (auto& victim : *space.mutable_victims()) {
      if (victim.node() != life.node.v || victim.incarnation() != life.incarnation.v || !victim.mount_only()) continue;
      if (!victim.fenced()) {
        victim.set_mount_only(false);
        auto* mount = entry.add_mounts();
        mount->set_lockspace(space.name());
        mount->set_nonce(victim.nonce());
        mount->set_mount(victim.mount());
        mount->set_volume_uuid(space.volume_uuid());
        mount->set_volume_url(space.volume_url());
      }
    }
    if (changed) space.set_generation(space.generation() + 1);
  }
}

void EvictLife(ClusterState& state, Node& node, NodeId by, const std::string& reason) {
  Life life = LifeOf(node);
  Fencing entry;
  entry.set_node(node.id());
  entry.set_incarnation(node.incarnation());
  entry.set_nonce(node.nonce());
  entry.set_boot_id(node.boot_id());
  *entry.mutable_keys() = node.keys();
  entry.set_evicted_version(state.version() + 1);
  entry.set_evicted_by(by.v);
  entry.set_reason(reason);
  EvictFromLockspaces(state, entry, life, reason);
  node.set_state(EVICTED);
  node.set_since_version(state.version() + 1);
  node.clear_keys();
  auto* list = state.mutable_fencing();
  int at = 0;
  while (at < list->size() && Life{NodeId(list->Get(at).node()), Incarnation(list->Get(at).incarnation())} < life) ++at;
  *list->Add() = entry;
  for (int i = list->size() - 1; i > at; --i) list->SwapElements(i, i - 1);
}

// A fencer that is gone makes room for another. Was it evicted, its agents may still run until it is fenced itself.
static void TidyFencer(ClusterState& state, Fencing& entry) {
  Life fencer{NodeId(entry.fencer_node()), Incarnation(entry.fencer_incarnation())};
  if (fencer.node.v != 0 && !IsMember(state, fencer) && !IsJoining(state, fencer)) {
    auto* former = entry.add_former_fencers();
    former->set_node(fencer.node.v);
    former->set_incarnation(fencer.incarnation.v);
    entry.clear_fencer_node();
    entry.clear_fencer_incarnation();
    if (entry.has_token()) entry.set_actions_ended(true);
  }
  for (int i = 0; i < entry.former_fencers_size();) {
    Life former{NodeId(entry.former_fencers(i).node()), Incarnation(entry.former_fencers(i).incarnation())};
    const Fencing* its = FindFencing(state, former);
    if (its == nullptr || its->has_token())
      entry.mutable_former_fencers()->DeleteSubrange(i, 1);
    else
      ++i;
  }
}

void Tidy(ClusterState& state) {
  for (auto& entry : *state.mutable_fencing()) TidyFencer(state, entry);
  auto* fencing = state.mutable_fencing();
  for (int i = 0; i < fencing->size();) {
    const auto& entry = fencing->Get(i);
    if (entry.has_token() && entry.actions_ended() && entry.readers_ended() && entry.former_fencers().empty())
      fencing->DeleteSubrange(i, 1);
    else
      ++i;
  }
  for (auto& space : *state.mutable_lockspaces()) {
    for (int i = 0; i < space.victims_size();) {
      auto& victim = *space.mutable_victims(i);
      if (victim.fenced() && victim.replayed() && victim.readers_ended()) {
        space.mutable_victims()->DeleteSubrange(i, 1);
        continue;
      }
      MemberId replayer{NodeId(victim.replayer_node()), Incarnation(victim.replayer_incarnation()), victim.replayer_nonce()};
      if (!victim.replayed() && replayer.node.v != 0 && FindMember(space, replayer) == nullptr) {
        victim.clear_replayer_node();
        victim.clear_replayer_incarnation();
        victim.clear_replayer_nonce();
      }
      ++i;
    }
  }
}

}  // namespace transitions_internal

using transitions_internal::Apply;
using transitions_internal::EvictLife;
using transitions_internal::RequireMember;

Result<ClusterState> BeginJoin(const ClusterState& state, const BeginJoinArgs& args) {
  if (args.cluster_name != state.cluster_name())
    return Error(Errc::kInvalid, "the register is cluster '" + state.cluster_name() + "', not '" + args.cluster_name + "'");
  if (args.config_version != state.config_version() || args.config_hash != state.config_hash())
    return Error(Errc::kStale, "cluster.conf differs: the cluster has config_version " +
                                   std::to_string(state.config_version()) + ", this node " +
                                   std::to_string(args.config_version));
  return Apply(state, args.change, [&](ClusterState& next) -> Status {
    Node* node = transitions_internal::FindNode(next, args.node);
    if (node == nullptr) return Error(Errc::kInvalid, "node " + std::to_string(args.node.v) + " is not configured");
    if (args.nonce == 0) return Error(Errc::kInvalid, "no start nonce");
    if (node->nonce() == args.nonce) {
      if (node->state() == JOINING || node->state() == MEMBER) return {};
      return Error(Errc::kFenced, "this life of the node is over");
    }
    if (node->state() == MEMBER) EvictLife(next, *node, args.node, "the node started again");
    node->set_state(JOINING);
    node->set_incarnation(node->incarnation() + 1);
    node->set_nonce(args.nonce);
    node->set_boot_id(args.boot_id);
    node->set_endpoint(args.endpoint);
    node->clear_keys();
    node->add_keys(ReservationKeyOf(args.node, args.nonce, 0));
    node->set_since_version(state.version() + 1);
    return {};
  });
}

// Those of the list that wait to join and whose former lives have ended become members. Returns how many.
static int Admit(ClusterState& next, const std::vector<std::pair<Life, uint64_t>>& joiners, uint64_t version) {
  int admitted = 0;
  for (const auto& [life, nonce] : joiners) {
    Node* node = transitions_internal::FindNode(next, life.node);
    if (node == nullptr || !IsJoining(next, life) || node->nonce() != nonce) continue;
    if (!FormerLivesEnded(next, life.node)) continue;
    node->set_state(MEMBER);
    node->set_since_version(version);
    ++admitted;
  }
  return admitted;
}

Result<ClusterState> AdmitJoin(const ClusterState& state, const AdmitJoinArgs& args) {
  return Apply(state, args.change, [&](ClusterState& next) -> Status {
    HF_TRY(RequireMember(state, args.by));
    if (Admit(next, args.joiners, state.version() + 1) == 0) return Error(Errc::kConflict, "no joiner fits any more");
    return {};
  });
}

Result<ClusterState> ColdStart(const ClusterState& state, const ColdStartArgs& args) {
  return Apply(state, args.change, [&](ClusterState& next) -> Status {
    if (!IsJoining(state, args.by)) return Error(Errc::kConflict, "only a joining node starts a cluster");
    auto victims = args.victims;
    std::sort(victims.begin(), victims.end());
    if (victims != Members(state)) return Error(Errc::kConflict, "the members are others than expected");
    for (const auto& victim : victims)
      EvictLife(next, *transitions_internal::FindNode(next, victim.node), args.by.node, "not there at the cold start");
    bool self = std::any_of(args.joiners.begin(), args.joiners.end(), [&](const auto& j) { return j.first == args.by; });
    if (!self || Admit(next, args.joiners, state.version() + 1) == 0 || !IsMember(next, args.by))
      return Error(Errc::kConflict, "the starting node cannot be admitted yet");
    return {};
  });
}

Result<ClusterState> CleanLeave(const ClusterState& state, const CleanLeaveArgs& args) {
  return Apply(state, args.change, [&](ClusterState& next) -> Status {
    if (!IsJoining(state, args.node)) HF_TRY(RequireMember(state, args.node));
    for (const auto& space : state.lockspaces())
      for (const auto& member : space.members())
        if (member.node() == args.node.node.v && member.incarnation() == args.node.incarnation.v)
          return Error(Errc::kBusy, "the node still has '" + space.name() + "' mounted");
    // A mount that died here is proven gone, and its readers are proven ended, by this node alone: it does not leave before.
    for (const auto& space : state.lockspaces())
      for (const auto& victim : space.victims())
        if (victim.node() == args.node.node.v && victim.incarnation() == args.node.incarnation.v && victim.mount_only() &&
            !(victim.fenced() && victim.readers_ended()))
          return Error(Errc::kBusy, "a dead mount of '" + space.name() + "' is not proven gone yet");
    for (const auto& entry : state.fencing())
      if (entry.fencer_node() == args.node.node.v && entry.fencer_incarnation() == args.node.incarnation.v &&
          !entry.actions_ended())
        return Error(Errc::kBusy, "the node is fencing n" + std::to_string(entry.node()));
    Node* node = transitions_internal::FindNode(next, args.node.node);
    node->set_state(LEFT);
    node->clear_keys();
    node->set_since_version(state.version() + 1);
    return {};
  });
}

Result<ClusterState> Evict(const ClusterState& state, const EvictArgs& args) {
  return Apply(state, args.change, [&](ClusterState& next) -> Status {
    HF_TRY(RequireMember(state, args.by));
    int evicted = 0;
    for (const auto& victim : args.victims) {
      if (victim == args.by) return Error(Errc::kInvalid, "a node does not evict itself");
      if (!IsMember(next, victim)) continue;
      EvictLife(next, *transitions_internal::FindNode(next, victim.node), args.by.node, args.reason);
      ++evicted;
    }
    if (evicted == 0) return Error(Errc::kConflict, "no victim is a member any more");
    return {};
  });
}

}  // namespace holdfast::cluster
