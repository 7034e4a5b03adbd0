#include "cluster/daemon/state_watch.h"

#include "base/log.h"
#include "cluster/daemon/timeline.h"
#include "cluster/lockspace_view.h"

namespace holdfast::cluster {

void StateWatch::OnState(const StatePtr& state) {
  FencingChanges(*state);
  NodeChanges(*state);
  VictimChanges(*state);
  last_ = state;
  Waits(*state);
}

void StateWatch::Tick() {
  if (!parts_->engine) return;
  Picture picture = parts_->engine->picture();
  std::set<Life> now(picture.suspects.begin(), picture.suspects.end());
  for (const Life& life : now)
    if (!suspected_.contains(life)) {
      suspected_[life] = parts_->Now();
      HF_LOG(LogLevel::kWarn, "membership", "suspected", {{"victim", ToString(life)}, {"node", parts_->NodeName(life.node)}});
    }
  if (!picture.waiting.empty()) {
    parts_->waits->Set("engine", "this node's cluster membership", picture.waiting);
  } else {
    parts_->waits->Clear("engine");
  }
  if (last_) Waits(*last_);
}

void StateWatch::NodeChanges(const ClusterState& state) {
  for (const Node& node : state.nodes()) {
    const Node* before = last_ ? FindNode(*last_, NodeId(node.id())) : nullptr;
    if (before && before->state() == node.state() && before->incarnation() == node.incarnation()) continue;
    if (!before && node.state() == CONFIGURED) continue;
    HF_LOG(LogLevel::kInfo, "membership", "node", {{"node", node.name()}, {"state", StateName(node.state())}, {"incarnation", node.incarnation()},
                                                  {"version", state.version()}});
    if (node.state() == MEMBER) parts_->timeline->Event("joined", node.name() + ", incarnation " + std::to_string(node.incarnation()));
    if (node.state() == LEFT) parts_->timeline->Event("left", node.name() + ", incarnation " + std::to_string(node.incarnation()));
  }
}

void StateWatch::FencingChanges(const ClusterState& state) {
  for (const Fencing& f : state.fencing()) {
    Life victim{NodeId(f.node()), Incarnation(f.incarnation())};
    const Fencing* before = last_ ? FindFencing(*last_, victim) : nullptr;
    std::string name = ToString(victim);
    if (!last_ && f.has_token()) continue;  // an old story: somebody's timeline has it
    if (!before) {
      Instant heard;
      for (const auto& p : parts_->engine->picture().peers)
        if (p.node == victim.node) heard = p.heard_at;
      std::string reason = parts_->NodeName(victim.node) + " evicted: " + f.reason();
      parts_->timeline->Begin(name, reason, heard);
      auto suspected = suspected_.find(victim);
      parts_->timeline->NoteAt(name, Phase::kDetected, "", suspected == suspected_.end() ? parts_->Now() : suspected->second);
      parts_->timeline->Note(name, Phase::kDecided, "by " + parts_->NodeName(NodeId(f.evicted_by())) + ", register version " + std::to_string(f.evicted_version()));
      suspected_.erase(victim);
      HF_LOG(LogLevel::kWarn, "membership", "evicted", {{"victim", name}, {"reason", f.reason()}, {"version", f.evicted_version()}});
    }
    if (f.has_token() && (!before || !before->has_token()))
      parts_->timeline->Note(name, Phase::kFenced, f.token().proofs_size() > 0 ? f.token().proofs(0).by() : ProofName(f.token().kind()));
    if (f.readers_ended() && (!before || !before->readers_ended())) parts_->timeline->Note(name, Phase::kReadersEnded, "");
  }
  // A life that has gone from the list: everything about it has ended.
  if (!last_) return;
  for (const Fencing& f : last_->fencing()) {
    Life victim{NodeId(f.node()), Incarnation(f.incarnation())};
    if (FindFencing(state, victim)) continue;
    if (!f.has_token()) parts_->timeline->Note(ToString(victim), Phase::kFenced, "");
    if (!f.readers_ended()) parts_->timeline->Note(ToString(victim), Phase::kReadersEnded, "");
  }
}

namespace {

const LockspaceVictim* FindVictim(const ClusterState* state, const std::string& lockspace, const LockspaceVictim& like) {
  const Lockspace* ls = state ? FindLockspace(*state, lockspace) : nullptr;
  for (int i = 0; ls && i < ls->victims_size(); ++i) {
    const LockspaceVictim& v = ls->victims(i);
    if (v.node() == like.node() && v.incarnation() == like.incarnation() && v.nonce() == like.nonce()) return &v;
  }
  return nullptr;
}

MemberId IdOf(const LockspaceVictim& v) { return {NodeId(v.node()), Incarnation(v.incarnation()), v.nonce()}; }

}  // namespace

void StateWatch::VictimChanges(const ClusterState& state) {
  if (!last_) return;
  Timeline& timeline = *parts_->timeline;
  for (const Lockspace& ls : state.lockspaces())
    for (const LockspaceVictim& v : ls.victims()) {
      // A mount whose node lives: its recovery has a line of its own. Others belong to their node's.
      if (!v.mount_only()) continue;
      const LockspaceVictim* before = FindVictim(last_.get(), ls.name(), v);
      std::string name = ToString(IdOf(v));
      if (!before) {
        timeline.Begin(name, "mount of " + ls.name() + " on " + parts_->NodeName(NodeId(v.node())) + ": " + v.reason(), Instant{});
        timeline.Note(name, Phase::kDecided, "register version " + std::to_string(state.version()));
      }
      if (v.fenced() && (!before || !before->fenced())) timeline.Note(name, Phase::kFenced, v.proof());
      if (v.readers_ended() && (!before || !before->readers_ended())) timeline.Note(name, Phase::kReadersEnded, "");
    }
  for (const Lockspace& ls : last_->lockspaces())
    for (const LockspaceVictim& old : ls.victims()) {
      const LockspaceVictim* now = FindVictim(&state, ls.name(), old);
      std::string life = ToString(Life{NodeId(old.node()), Incarnation(old.incarnation())});
      std::string name = old.mount_only() || !timeline.Has(life) ? ToString(IdOf(old)) : life;
      std::string by = old.replayer_node() == 0 ? "" : " by " + parts_->NodeName(NodeId(old.replayer_node()));
      // Gone: both gates are open.
      if (!old.replayed() && (!now || now->replayed()))
        timeline.Note(name, Phase::kReplayed, ls.name() + ": journal " + std::to_string(old.mount()) + by);
      if (old.mount_only() && !old.readers_ended() && !now) timeline.Note(name, Phase::kReadersEnded, "");
    }
}

void StateWatch::Waits(const ClusterState& state) {
  std::set<std::string> now;
  auto set = [&](const std::string& key, const std::string& what, const std::string& on) {
    parts_->waits->Set(key, what, on);
    now.insert(key);
  };
  for (const Fencing& f : state.fencing()) {
    if (f.has_token()) continue;
    Life victim{NodeId(f.node()), Incarnation(f.incarnation())};
    std::string node = parts_->NodeName(victim.node);
    std::string fencer = f.fencer_node() == 0 ? "a fencer" : "fencing by " + parts_->NodeName(NodeId(f.fencer_node()));
    set("fence " + ToString(victim), "recovery of " + node, fencer + " (or: holdfast fence ack " + node + ")");
  }
  for (const Lockspace& ls : state.lockspaces()) {
    LockspaceView view = ViewOf(state, ls.name());
    for (const auto& v : view.victims) {
      std::string key = "replay " + ls.name() + ToString(v.id);
      std::string journal = "journal " + std::to_string(v.mount.v) + " of " + ls.name();
      if (v.fenced && !v.replayed)
        set(key, "what was locked by " + ToString(v.id),
            v.replayer == MemberId{} ? (view.members.empty() ? "a mount that replays " + journal : "replay of " + journal)
                                     : "replay of " + journal + " by " + parts_->NodeName(v.replayer.node));
      if (v.fenced && v.replayed && !v.readers_ended) set(key, "what was read by " + ToString(v.id), "the end of its cached readers");
    }
  }
  Picture picture = parts_->engine->picture();
  if (!picture.quorate)
    set("quorum", "every change of the cluster", "a quorum: " + std::to_string(picture.votes_heard) + " of " + std::to_string(picture.votes_total) + " votes heard");
  if (!parts_->config->quorum_device.empty() && !picture.disk_ok) set("disk", "the disk's votes", "the quorum device");
  for (const auto& key : waits_)
    if (!now.contains(key)) parts_->waits->Clear(key);
  waits_ = std::move(now);
}

}  // namespace holdfast::cluster
