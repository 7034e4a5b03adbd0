// The bookkeeping of every change, reading helpers, and the changes of the cluster's frame: init, config, acceptors. See
// transitions.h. The others: transitions_nodes.cc, transitions_fence.cc, transitions_lockspace.cc.
#include "cluster/transitions.h"

#include <algorithm>

#include "cluster/transitions_internal.h"

namespace holdfast::cluster {

std::string ToString(const Life& life) {
  return "n" + std::to_string(life.node.v) + "." + std::to_string(life.incarnation.v);
}

const Node* FindNode(const ClusterState& state, NodeId id) {
  for (const auto& node : state.nodes())
    if (node.id() == id.v) return &node;
  return nullptr;
}

const Lockspace* FindLockspace(const ClusterState& state, const std::string& name) {
  for (const auto& space : state.lockspaces())
    if (space.name() == name) return &space;
  return nullptr;
}

const Fencing* FindFencing(const ClusterState& state, Life life) {
  for (const auto& entry : state.fencing())
    if (entry.node() == life.node.v && entry.incarnation() == life.incarnation.v) return &entry;
  return nullptr;
}

const LockspaceMember* FindLockspaceMember(const ClusterState& state, const std::string& name, const MemberId& id) {
  const Lockspace* space = FindLockspace(state, name);
  if (space == nullptr) return nullptr;
  for (const auto& member : space->members())
    if (transitions_internal::IdOf(member) == id) return &member;
  return nullptr;
}

Life LifeOf(const Node& node) { return {NodeId(node.id()), Incarnation(node.incarnation())}; }

static bool HasState(const ClusterState& state, Life life, NodeState wanted) {
  const Node* node = FindNode(state, life.node);
  return node != nullptr && life.incarnation.v != 0 && node->incarnation() == life.incarnation.v && node->state() == wanted;
}
bool IsMember(const ClusterState& state, Life life) { return HasState(state, life, MEMBER); }
bool IsJoining(const ClusterState& state, Life life) { return HasState(state, life, JOINING); }

std::vector<Life> Members(const ClusterState& state) {
  std::vector<Life> out;
  for (const auto& node : state.nodes())
    if (node.state() == MEMBER) out.push_back(LifeOf(node));
  return out;
}

bool FormerLivesEnded(const ClusterState& state, NodeId node) {
  return std::none_of(state.fencing().begin(), state.fencing().end(), [node](const Fencing& entry) {
    return entry.node() == node.v && (!entry.has_token() || !entry.actions_ended() || !entry.former_fencers().empty());
  });
}

uint64_t ReservationKeyOf(NodeId node, uint64_t nonce, uint32_t process) {
  return (uint64_t{node.v & 0xffff} << 48) | ((nonce & 0xffff'ffff) << 16) | (process & 0xffff);
}

std::string StateName(NodeState state) {
  switch (state) {
    case CONFIGURED: return "configured";
    case JOINING: return "joining";
    case MEMBER: return "member";
    case EVICTED: return "evicted";
    case FENCED: return "fenced";
    case LEFT: return "left";
    default: return "unknown";
  }
}

std::string ProofName(ProofKind kind) {
  switch (kind) {
    case NO_PROOF: return "none";
    case POWER: return "power";
    case STORAGE: return "storage";
    case LOCAL: return "local";
    case REBOOT: return "reboot";
    case MANUAL: return "manual";
    default: return "unknown";
  }
}

namespace transitions_internal {

Node* FindNode(ClusterState& state, NodeId id) {
  return const_cast<Node*>(cluster::FindNode(static_cast<const ClusterState&>(state), id));
}
Fencing* FindFencing(ClusterState& state, Life life) {
  return const_cast<Fencing*>(cluster::FindFencing(static_cast<const ClusterState&>(state), life));
}
Lockspace* FindLockspace(ClusterState& state, const std::string& name) {
  return const_cast<Lockspace*>(cluster::FindLockspace(static_cast<const ClusterState&>(state), name));
}
LockspaceMember* FindMember(Lockspace& space, const MemberId& id) {
  for (auto& member : *space.mutable_members())
    if (IdOf(member) == id) return &member;
  return nullptr;
}
LockspaceVictim* FindVictim(Lockspace& space, const MemberId& id) {
  for (auto& victim : *space.mutable_victims())
    if (IdOf(victim) == id) return &victim;
  return nullptr;
}
MemberId IdOf(const LockspaceMember& member) {
  return {NodeId(member.node()), Incarnation(member.incarnation()), member.nonce()};
}
MemberId IdOf(const LockspaceVictim& victim) {
  return {NodeId(victim.node()), Incarnation(victim.incarnation()), victim.nonce()};
}

Result<ClusterState> Apply(const ClusterState& state, ChangeId change, const std::function<Status(ClusterState&)>& edit) {
  if (change == 0) return Error(Errc::kInvalid, "a change needs an id");
  if (std::find(state.applied().begin(), state.applied().end(), change) != state.applied().end()) return state;
  ClusterState next = state;
  auto status = edit(next);
  if (!status.ok()) return status.error();
  Tidy(next);
  if (next.SerializeAsString() == state.SerializeAsString()) return state;
  next.set_version(state.version() + 1);
  next.add_applied(change);
  if (next.applied_size() > kAppliedMax)
    next.mutable_applied()->ExtractSubrange(0, next.applied_size() - kAppliedMax, nullptr);
  return next;
}

Status RequireMember(const ClusterState& state, Life life) {
  if (IsMember(state, life)) return {};
  if (IsJoining(state, life)) return Error(Errc::kConflict, ToString(life) + " is not a member yet");
  return Error(Errc::kFenced, ToString(life) + " is not a member: it may only ask to join");
}

}  // namespace transitions_internal

Result<ClusterState> InitCluster(const InitClusterArgs& args) {
  if (args.cluster_name.empty() || args.cluster_uuid.size() != 16) return Error(Errc::kInvalid, "no cluster name or uuid");
  if (args.nodes.empty() || args.nodes.size() > 256) return Error(Errc::kInvalid, "1 to 256 nodes");
  if (args.disk_votes > 0 && args.area_id == 0) return Error(Errc::kInvalid, "disk votes need a quorum area");
  auto nodes = args.nodes;
  std::sort(nodes.begin(), nodes.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
  ClusterState state;
  state.set_version(1);
  state.set_cluster_name(args.cluster_name);
  state.set_cluster_uuid(args.cluster_uuid);
  state.set_config_version(args.config_version);
  state.set_config_hash(args.config_hash);
  auto add = [&state](uint32_t node, uint32_t votes, uint64_t storage) {
    auto* acceptor = state.mutable_acceptors()->add_acceptors();
    acceptor->set_node(node);
    acceptor->set_votes(votes);
    acceptor->set_storage(storage);
  };
  if (args.disk_votes > 0) add(0, args.disk_votes, args.area_id);
  for (size_t i = 0; i < nodes.size(); ++i) {
    const auto& node = nodes[i];
    if (node.id.v < 1 || node.id.v > 256 || (i > 0 && nodes[i - 1].id == node.id))
      return Error(Errc::kInvalid, "node ids are 1 to 256, each once");
    add(node.id.v, node.votes, node.storage);
    auto* out = state.add_nodes();
    out->set_id(node.id.v);
    out->set_name(node.name);
    out->set_state(CONFIGURED);
    out->set_since_version(1);
  }
  return state;
}

Result<ClusterState> ConfigVersion(const ClusterState& state, const ConfigVersionArgs& args) {
  return transitions_internal::Apply(state, args.change, [&](ClusterState& next) -> Status {
    if (!(IsJoining(state, args.by) && Members(state).empty()))
      HF_TRY(transitions_internal::RequireMember(state, args.by));
    if (state.config_version() != args.expected_version)
      return Error(Errc::kConflict, "the config is at version " + std::to_string(state.config_version()));
    if (args.version <= state.config_version()) return Error(Errc::kInvalid, "a config version only grows");
    next.set_config_version(args.version);
    next.set_config_hash(args.hash);
    return {};
  });
}

Result<ClusterState> ReadmitStorage(const ClusterState& state, const ReadmitStorageArgs& args) {
  return transitions_internal::Apply(state, args.change, [&](ClusterState& next) -> Status {
    if (args.new_storage == 0) return Error(Errc::kInvalid, "no storage id");
    bool found = false;
    for (auto* set : {next.mutable_acceptors(), next.has_acceptors_next() ? next.mutable_acceptors_next() : nullptr}) {
      if (set == nullptr) continue;
      for (auto& acceptor : *set->mutable_acceptors()) {
        if (acceptor.node() != args.node.v || acceptor.node() == 0) continue;
        if (acceptor.storage() == args.new_storage) {
          found = true;
        } else if (acceptor.storage() == args.old_storage) {
          acceptor.set_storage(args.new_storage);
          found = true;
        }
      }
    }
    if (!found) return Error(Errc::kConflict, "the acceptor's storage is another one");
    return {};
  });
}

}  // namespace holdfast::cluster
