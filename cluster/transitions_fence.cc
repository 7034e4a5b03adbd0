// Changes of fencing: who fences, what was proven, when the victim's cached reads have ended. See transitions.h.
#include <algorithm>

#include "cluster/transitions.h"
#include "cluster/transitions_internal.h"

namespace holdfast::cluster {

using transitions_internal::Apply;
using transitions_internal::RequireMember;

// A member may fence anybody; a joining node former lives of itself, and anybody where there is no member.
static Status RequireFencing(const ClusterState& state, const FenceArgs& args) {
  if (FindFencing(state, args.victim) == nullptr)
    return Error(Errc::kConflict, ToString(args.victim) + " is not waiting for fencing");
  bool own = args.by.node == args.victim.node && args.victim.incarnation < args.by.incarnation;
  if (IsJoining(state, args.by) && (own || Members(state).empty())) return {};
  return RequireMember(state, args.by);
}

static bool IsFencer(const Fencing& entry, Life life) {
  return entry.fencer_node() == life.node.v && entry.fencer_incarnation() == life.incarnation.v;
}

// Of the victim's mounts in every lockspace.
static void MarkVictims(ClusterState& state, Life life, const std::function<void(LockspaceVictim&)>& mark) {
  for (auto& space : *state.mutable_lockspaces())
    for (auto& victim : *space.mutable_victims())
      if (victim.node() == life.node.v && victim.incarnation() == life.incarnation.v) mark(victim);
}

static void EndReaders(ClusterState& state, Fencing& entry, Life life) {
  entry.set_readers_ended(true);
  MarkVictims(state, life, [](LockspaceVictim& victim) { victim.set_readers_ended(true); });
}

static void Token(ClusterState& state, Fencing& entry, Life life, ProofKind kind, const std::vector<FenceProof>& proofs,
                  const std::string& who) {
  auto* token = entry.mutable_token();
  token->set_kind(kind);
  for (const auto& proof : proofs) *token->add_proofs() = proof;
  token->set_version(state.version() + 1);
  token->set_who(who);
  std::string text = ProofName(kind);
  if (!proofs.empty() && !proofs.front().by().empty()) text += ": " + proofs.front().by();
  if (!who.empty()) text += " by " + who;
  MarkVictims(state, life, [&](LockspaceVictim& victim) {
    if (victim.fenced()) return;  // a mount that had its own proof keeps it
    victim.set_fenced(true);
    victim.set_proof(text);
    victim.set_fenced_version(state.version() + 1);
  });
  Node* node = transitions_internal::FindNode(state, life.node);
  if (node != nullptr && node->incarnation() == life.incarnation.v && node->state() == EVICTED) {
    node->set_state(FENCED);
    node->set_since_version(state.version() + 1);
  }
}

Result<ClusterState> ClaimFencer(const ClusterState& state, const FenceArgs& args) {
  return Apply(state, args.change, [&](ClusterState& next) -> Status {
    HF_TRY(RequireFencing(state, args));
    auto* entry = transitions_internal::FindFencing(next, args.victim);
    if (IsFencer(*entry, args.by)) return {};
    Life other{NodeId(entry->fencer_node()), Incarnation(entry->fencer_incarnation())};
    if (other.node.v != 0 && (IsMember(state, other) || IsJoining(state, other)))
      return Error(Errc::kBusy, ToString(other) + " is fencing " + ToString(args.victim));
    if (entry->has_token() && entry->actions_ended()) return Error(Errc::kConflict, "it is fenced");
    entry->set_fencer_node(args.by.node.v);
    entry->set_fencer_incarnation(args.by.incarnation.v);
    return {};
  });
}

Result<ClusterState> ResignFencer(const ClusterState& state, const FenceArgs& args) {
  return Apply(state, args.change, [&](ClusterState& next) -> Status {
    HF_TRY(RequireFencing(state, args));
    auto* entry = transitions_internal::FindFencing(next, args.victim);
    if (!IsFencer(*entry, args.by)) return Error(Errc::kConflict, ToString(args.by) + " is not the fencer");
    entry->clear_fencer_node();
    entry->clear_fencer_incarnation();
    return {};
  });
}

Result<ClusterState> RecordFenceStep(const ClusterState& state, const FenceArgs& args, const FenceStep& step) {
  return Apply(state, args.change, [&](ClusterState& next) -> Status {
    HF_TRY(RequireFencing(state, args));
    auto* entry = transitions_internal::FindFencing(next, args.victim);
    if (!IsFencer(*entry, args.by)) return Error(Errc::kConflict, ToString(args.by) + " is not the fencer");
    auto* added = entry->add_steps();
    added->set_what(step.what().substr(0, 80));
    added->set_ok(step.ok());
    added->set_detail(step.detail().substr(0, 200));
    if (entry->steps_size() > kFenceStepsMax)
      entry->mutable_steps()->DeleteSubrange(0, entry->steps_size() - kFenceStepsMax);
    return {};
  });
}

Result<ClusterState> WriteToken(const ClusterState& state, const FenceArgs& args, const std::vector<FenceProof>& proofs) {
  return Apply(state, args.change, [&](ClusterState& next) -> Status {
    HF_TRY(RequireFencing(state, args));
    if (proofs.empty() || proofs.front().kind() == NO_PROOF) return Error(Errc::kInvalid, "a token needs a proof");
    auto* entry = transitions_internal::FindFencing(next, args.victim);
    if (!IsFencer(*entry, args.by)) return Error(Errc::kConflict, ToString(args.by) + " is not the fencer");
    if (entry->has_token()) {  // a later, stronger proof is added
      for (const auto& proof : proofs)
        if (entry->token().proofs_size() < kFenceStepsMax) *entry->mutable_token()->add_proofs() = proof;
    } else {
      Token(next, *entry, args.victim, proofs.front().kind(), proofs, "");
    }
    for (const auto& proof : proofs)
      if (proof.kind() == POWER || proof.kind() == REBOOT) EndReaders(next, *entry, args.victim);
    return {};
  });
}

Result<ClusterState> FenceActionsEnded(const ClusterState& state, const FenceArgs& args) {
  return Apply(state, args.change, [&](ClusterState& next) -> Status {
    HF_TRY(RequireFencing(state, args));
    auto* entry = transitions_internal::FindFencing(next, args.victim);
    if (!IsFencer(*entry, args.by)) return Error(Errc::kConflict, ToString(args.by) + " is not the fencer");
    if (!entry->has_token()) return Error(Errc::kConflict, "it is not fenced yet");
    entry->set_actions_ended(true);
    return {};
  });
}

Result<ClusterState> ReadersEnded(const ClusterState& state, const FenceArgs& args) {
  return Apply(state, args.change, [&](ClusterState& next) -> Status {
    HF_TRY(RequireFencing(state, args));
    EndReaders(next, *transitions_internal::FindFencing(next, args.victim), args.victim);
    return {};
  });
}

Result<ClusterState> ManualAck(const ClusterState& state, const ManualAckArgs& args) {
  return Apply(state, args.change, [&](ClusterState& next) -> Status {
    int acknowledged = 0;
    for (auto& entry : *next.mutable_fencing()) {
      if (entry.node() != args.node.v) continue;
      Life life{args.node, Incarnation(entry.incarnation())};
      FenceProof proof;
      proof.set_kind(MANUAL);
      proof.set_by("holdfast fence ack");
      proof.set_detail(args.who.substr(0, 200));
      if (entry.has_token())
        *entry.mutable_token()->add_proofs() = proof;
      else
        Token(next, entry, life, MANUAL, {proof}, args.who.substr(0, 80));
      // What the fencer has begun it must end itself: FenceActionsEnded. Where nobody has begun, nothing is waited for.
      if (entry.fencer_node() == 0) entry.set_actions_ended(true);
      EndReaders(next, entry, life);
      ++acknowledged;
    }
    if (acknowledged == 0)
      return Error(Errc::kConflict, "node " + std::to_string(args.node.v) + " is not waiting for fencing");
    return {};
  });
}

}  // namespace holdfast::cluster
