// Heartbeats to verdicts. See membership.h.
#include "cluster/membership.h"

#include <algorithm>

namespace holdfast::cluster {

static constexpr uint32_t kCliqueSteps = 20'000;

Membership::Membership(NodeId self, uint64_t nonce, std::vector<NodeId> nodes, EngineTiming timing, bool disk,
                       Random* random)
    : self_(self), nonce_(nonce), nodes_(std::move(nodes)), timing_(timing), disk_(disk), random_(random) {
  jitter_ = Nanoseconds(static_cast<int64_t>(random_->Below(static_cast<uint64_t>(timing_.rank_step.ns / 2) + 1)));
}

void Membership::Start(Instant now) { started_ = last_tick_ = member_alive_at_ = now; }

Duration Membership::SuspectAfter() const {
  return std::max(timing_.token - timing_.heartbeat * timing_.stable_beats, timing_.heartbeat * 2);
}

void Membership::OnHeartbeat(NodeId from, uint64_t nonce, const Heartbeat& beat, Instant now) {
  if (from == self_ || std::find(nodes_.begin(), nodes_.end(), from) == nodes_.end()) return;
  Peer& peer = peers_[from];
  // A frame of a former life that comes late does not hide the new one.
  if (peer.ever_heard && peer.nonce != nonce && beat.incarnation() != 0 && beat.incarnation() < peer.incarnation) return;
  peer.nonce = nonce;
  peer.incarnation = beat.incarnation();
  peer.heard = now;
  peer.ever_heard = true;
  peer.joining = beat.joining();
  peer.leaving = beat.leaving();
  peer.disk_ok = beat.disk_ok();
  peer.hears = FromBytes(beat.hears());
}

void Membership::OnDiskBeats(const std::vector<DiskBeat>& beats, Instant now) {
  sees_peer_disk_ = disk_ever_;
  disk_ever_ = true;
  disk_done_ = now;
  for (const auto& beat : beats) {
    if (beat.node == self_ || std::find(nodes_.begin(), nodes_.end(), beat.node) == nodes_.end()) continue;
    Peer& peer = peers_[beat.node];
    bool moved = beat.sequence != peer.disk_sequence || beat.nonce != peer.disk_nonce;
    if (moved && sees_peer_disk_) {
      peer.disk_moved = now;
      peer.ever_moved = true;
    }
    peer.disk_nonce = beat.nonce;
    peer.disk_sequence = beat.sequence;
    peer.disk_incarnation = beat.incarnation;
    for (size_t i = 0; i < 256; ++i) peer.disk_hears[i] = (beat.hears[i / 64] >> (i % 64)) & 1;
  }
}

void Membership::OnState(StatePtr state, Instant now) {
  state_ = std::move(state);
  std::map<Life, Instant> since;
  for (const auto& life : Members(*state_)) {
    auto it = member_since_.find(life);
    since[life] = it == member_since_.end() ? now : it->second;
  }
  member_since_ = std::move(since);
}

bool Membership::HearsNow(const Peer& peer, uint64_t nonce, Instant now) const {
  return peer.ever_heard && (nonce == 0 || peer.nonce == nonce) && now < peer.heard + SuspectAfter();
}
bool Membership::OnDiskNow(const Peer& peer, uint64_t nonce, Instant now) const {
  return peer.ever_moved && (nonce == 0 || peer.disk_nonce == nonce) && now < peer.disk_moved + SuspectAfter();
}

NodeSet Membership::Hears(Instant now) const {
  NodeSet set;
  for (const auto& [node, peer] : peers_)
    if (HearsNow(peer, 0, now)) Put(&set, node);
  return set;
}

NodeSet Membership::SeesOnDisk(Instant now) const {
  NodeSet set;
  for (const auto& [node, peer] : peers_)
    if (OnDiskNow(peer, 0, now)) Put(&set, node);
  return set;
}

bool Membership::disk_ok(Instant now) const { return disk_ && disk_ever_ && now < disk_done_ + timing_.token; }

// This life: heard, moving on disk, or heard by one that we hear (which cannot name the life: good enough to wait).
bool Membership::LifeAlive(const Node& node, Instant now) const {
  NodeId id(node.id());
  if (id == self_) return node.nonce() == nonce_;
  auto it = peers_.find(id);
  if (it != peers_.end() && (HearsNow(it->second, node.nonce(), now) || OnDiskNow(it->second, node.nonce(), now))) return true;
  // A newer life of it speaks: this one is over.
  if (HearsOtherLife(id, node.nonce(), now)) return false;
  for (const auto& [other, peer] : peers_)
    if (other != id && HearsNow(peer, 0, now) && Has(peer.hears, id)) return true;
  return false;
}

bool Membership::HearsOtherLife(NodeId node, uint64_t nonce, Instant now) const {
  auto it = peers_.find(node);
  return it != peers_.end() && HearsNow(it->second, 0, now) && it->second.nonce != nonce;
}

bool Membership::MemberAlive(const Node& node, Instant now) const {
  if (LifeAlive(node, now)) return true;
  auto since = member_since_.find(LifeOf(node));
  return since != member_since_.end() && now < since->second + SuspectAfter();
}

bool Membership::Alive(NodeId node, Instant now) const {
  if (node == self_) return true;
  auto it = peers_.find(node);
  return it != peers_.end() && (HearsNow(it->second, 0, now) || OnDiskNow(it->second, 0, now));
}

// Heard on the network, silent on the disk, while most members' disk heartbeats move: its mounts cannot go on.
bool Membership::DiskSick(const Node& node, Instant now) const {
  if (!disk_ok(now) || NodeId(node.id()) == self_) return false;
  auto it = peers_.find(NodeId(node.id()));
  if (it == peers_.end()) return false;
  const Peer& peer = it->second;
  auto since = member_since_.find(LifeOf(node));
  if (since == member_since_.end() || now < since->second + timing_.disk_token) return false;
  if (peer.ever_moved && peer.disk_nonce == node.nonce() && now < peer.disk_moved + timing_.disk_token) return false;
  size_t members = 0, moving = 0;
  for (const auto& other : state_->nodes()) {
    if (other.state() != MEMBER) continue;
    ++members;
    auto p = peers_.find(NodeId(other.id()));
    if (NodeId(other.id()) == self_ || (p != peers_.end() && OnDiskNow(p->second, other.nonce(), now))) ++moving;
  }
  return 2 * moving > members;
}

bool Membership::RowOf(NodeId node, Instant now, NodeSet* row) const {
  if (node == self_) {
    *row = Hears(now);
    return true;
  }
  auto it = peers_.find(node);
  if (it == peers_.end()) return false;
  const Peer& peer = it->second;
  bool net = HearsNow(peer, 0, now), disk = OnDiskNow(peer, 0, now);
  if (!net && !disk) return false;
  *row = net && (!disk || peer.heard >= peer.disk_moved) ? peer.hears : peer.disk_hears;
  return true;
}

bool Membership::Link(NodeId a, NodeId b, Instant now) const {
  NodeSet row_a, row_b;
  bool known_a = RowOf(a, now, &row_a), known_b = RowOf(b, now, &row_b);
  if (!known_a && !known_b) return false;
  // Of a node that only others hear we have no row: the other direction speaks for both.
  return (!known_a || Has(row_a, b)) && (!known_b || Has(row_b, a));
}

std::vector<NodeSet> Membership::Links(const NodeSet& nodes, Instant now) const {
  std::vector<NodeSet> links(256);
  auto list = ToNodes(nodes);
  for (size_t i = 0; i < list.size(); ++i)
    for (size_t j = i + 1; j < list.size(); ++j) {
      if (!Link(list[i], list[j], now)) continue;
      links[list[i].v - 1].set(list[j].v - 1);
      links[list[j].v - 1].set(list[i].v - 1);
    }
  return links;
}

bool Membership::CouldBeQuorate(const NodeSet& group, Instant now) const {
  uint64_t with = 0, all = 0;
  bool disk = Has(group, self_) && disk_ok(now);
  for (const auto& [node, peer] : peers_)
    if (Has(group, node) && OnDiskNow(peer, 0, now)) disk = true;
  for (const auto& acceptor : state_->acceptors().acceptors()) {
    all += acceptor.votes();
    // Nodes that are up but no members (joining, left) may vote too.
    if (acceptor.node() == 0 ? disk : (Has(group, NodeId(acceptor.node())) ||
                                       (Alive(NodeId(acceptor.node()), now) && FindNode(*state_, NodeId(acceptor.node()))->state() != MEMBER)))
      with += acceptor.votes();
  }
  return 2 * with > all;
}

// Able to be quorate, then larger, then more votes, then the lowest ids.
NodeSet Membership::BestGroup(const NodeSet& nodes, Instant now) const {
  NodeSet best;
  std::array<uint64_t, 2> best_rank{};
  auto links = Links(nodes, now);
  ForEachClique(nodes, links, kCliqueSteps, [&](const NodeSet& group) {
    if (!CouldBeQuorate(group, now)) return;
    uint64_t votes = 0;
    for (const auto& acceptor : state_->acceptors().acceptors())
      if (acceptor.node() != 0 && Has(group, NodeId(acceptor.node()))) votes += acceptor.votes();
    std::array<uint64_t, 2> rank{group.count(), votes};
    bool better = rank > best_rank;
    if (rank == best_rank) better = ToNodes(group) < ToNodes(best);
    if (!better) return;
    best = group;
    best_rank = rank;
  });
  return best;
}

// The lowest of the group at once, the others a rank step later each, unless somebody before them has acted.
bool Membership::MyTurn(const NodeSet& group, Instant since, Instant now) {
  if (!Has(group, self_)) return false;
  int64_t rank = 0;
  for (NodeId node : ToNodes(group)) {
    if (node == self_) break;
    ++rank;
  }
  if (rank == 0) return true;
  return now >= since + timing_.rank_step * rank + jitter_;
}

void Membership::Wait(std::string what, Instant now) {
  if (what == waiting_) return;
  waiting_ = std::move(what);
  waiting_since_ = now;
}

Verdict Membership::JudgeMembers(Instant now) {
  Verdict verdict;
  NodeSet vertices;
  Split split;
  bool silent = false, sick = false, restarted = false;
  for (const auto& node : state_->nodes()) {
    if (node.state() != MEMBER) continue;
    if (!MemberAlive(node, now)) {
      (HearsOtherLife(NodeId(node.id()), node.nonce(), now) ? restarted : silent) = true;
    } else if (DiskSick(node, now)) {
      sick = true;
    } else {
      Put(&vertices, NodeId(node.id()));
    }
  }
  // New members are linked to nobody until the first heartbeats: they count as linked for that long.
  bool settling = false;
  for (const auto& [life, since] : member_since_) settling |= now < since + SuspectAfter();
  if (settling && !silent && !sick && !restarted) {
    split_ = {};
    return verdict;
  }
  split.group = BestGroup(vertices, now);
  for (const auto& node : state_->nodes())
    if (node.state() == MEMBER && !Has(split.group, NodeId(node.id()))) split.victims.push_back(LifeOf(node));
  if (split.group.none()) {
    split_ = {};
    split_since_ = now;
    Wait("no group of nodes that hear each other has a majority of votes", now);
    return verdict;
  }
  if (split.victims.empty()) {
    split_ = {};
    split_since_ = now;
    return verdict;
  }
  if (!(split == split_)) {
    split_ = split;
    split_since_ = now;
  }
  if (!Has(split.group, self_)) {
    Wait("this node is outside the best connected group", now);
    return verdict;
  }
  Instant stable = split_since_ + timing_.heartbeat * timing_.stable_beats;
  if (now < stable || !MyTurn(split.group, stable, now)) return verdict;
  verdict.kind = Verdict::Kind::kEvict;
  verdict.victims = split.victims;
  verdict.reason = silent ? "silent" : restarted ? "restarted" : sick ? "its disk does not answer" : "outside the best connected group";
  return verdict;
}

// Joiners that every living member hears, and that hear every living member.
Verdict Membership::JudgeJoiners(Instant now) {
  Verdict verdict;
  NodeSet members, ready;
  for (const auto& node : state_->nodes())
    if (node.state() == MEMBER && LifeAlive(node, now)) Put(&members, NodeId(node.id()));
  std::vector<std::pair<Life, uint64_t>> joiners;
  NodeSet mesh = members;
  for (const auto& node : state_->nodes()) {
    NodeId id(node.id());
    if (node.state() != JOINING || id == self_) continue;
    auto it = peers_.find(id);
    if (it == peers_.end() || !HearsNow(it->second, node.nonce(), now)) continue;
    if (!FormerLivesEnded(*state_, id)) continue;
    bool linked = true;
    for (NodeId other : ToNodes(mesh)) linked &= Link(id, other, now);
    if (!linked) continue;
    Put(&ready, id);
    Put(&mesh, id);
    joiners.push_back({LifeOf(node), node.nonce()});
  }
  if (!(ready == ready_)) {
    ready_ = ready;
    ready_since_ = now;
  }
  if (ready.none()) return verdict;
  // Those that come together are taken together.
  Instant due = ready_since_ + timing_.heartbeat;
  if (now < due || !MyTurn(members, due, now)) return verdict;
  verdict.kind = Verdict::Kind::kAdmit;
  verdict.joiners = joiners;
  return verdict;
}

Verdict Membership::JudgeColdStart(Instant now) {
  Verdict verdict;
  std::vector<Life> members = Members(*state_);
  for (const auto& node : state_->nodes()) {
    if (node.state() != MEMBER || !LifeAlive(node, now)) continue;
    member_alive_at_ = now;
    Wait("to be admitted by a member that hears this node", now);
    return verdict;
  }
  if (!FormerLivesEnded(*state_, self_)) {
    Wait("a former life of this node is not proven gone", now);
    return verdict;
  }
  // Whether a member's disk heartbeat moves is known only after some looking.
  if (now < started_ + timing_.token) return verdict;
  if (!members.empty() && now < member_alive_at_ + timing_.post_join_delay) {
    Wait("members that the register shows may still come (post_join_delay): " + ToString(members.front()) +
             (members.size() > 1 ? ", …" : ""),
         now);
    return verdict;
  }
  NodeSet candidates;
  Put(&candidates, self_);
  for (const auto& node : state_->nodes()) {
    auto it = peers_.find(NodeId(node.id()));
    if (node.state() == JOINING && it != peers_.end() && HearsNow(it->second, node.nonce(), now))
      Put(&candidates, NodeId(node.id()));
  }
  NodeSet group = BestGroup(candidates, now);
  if (!(group == ready_)) {
    ready_ = group;
    ready_since_ = now;
  }
  if (group.none()) {
    Wait("a majority of votes", now);
    return verdict;
  }
  if (!Has(group, self_)) {
    Wait("this node is outside the best connected group", now);
    return verdict;
  }
  Wait("the cluster to start", now);
  Instant due = ready_since_ + timing_.heartbeat * timing_.stable_beats;
  if (now < due || !MyTurn(group, due, now)) return verdict;
  verdict.kind = Verdict::Kind::kColdStart;
  verdict.victims = members;
  for (const auto& node : state_->nodes())
    if (node.state() == JOINING && Has(group, NodeId(node.id())) && FormerLivesEnded(*state_, NodeId(node.id())))
      verdict.joiners.push_back({LifeOf(node), node.nonce()});
  return verdict;
}

Verdict Membership::Tick(Instant now) {
  // We slept (stopped, swapped out): nobody's silence in that time means anything.
  if (now > last_tick_ + timing_.heartbeat * 2) {
    for (auto& [node, peer] : peers_) {
      if (HearsNow(peer, 0, last_tick_)) peer.heard = now;
      if (OnDiskNow(peer, 0, last_tick_)) peer.disk_moved = now;
    }
    for (auto& [life, since] : member_since_) since = now;
    split_ = {};
    split_since_ = ready_since_ = now;
    started_ = member_alive_at_ = now;
  }
  last_tick_ = now;
  if (state_ == nullptr) return {};
  const Node* self = FindNode(*state_, self_);
  if (self == nullptr || self->nonce() != nonce_) return {};
  if (self->state() == JOINING) return JudgeColdStart(now);
  if (self->state() != MEMBER) return {};
  std::string before = waiting_;
  Instant before_since = waiting_since_;
  waiting_.clear();
  Verdict verdict = JudgeMembers(now);
  if (waiting_ == before) waiting_since_ = before_since;
  if (verdict.kind == Verdict::Kind::kEvict) return verdict;
  return JudgeJoiners(now);
}

void Membership::Fill(Picture* picture, Instant now) const {
  for (NodeId id : nodes_) {
    if (id == self_) continue;
    PeerPicture out;
    out.node = id;
    auto it = peers_.find(id);
    if (it != peers_.end()) {
      const Peer& peer = it->second;
      out.heard = HearsNow(peer, 0, now);
      out.on_disk = OnDiskNow(peer, 0, now);
      NodeSet row;
      if (RowOf(id, now, &row)) {
        out.hears = ToNodes(row);
        out.hears_us = Has(row, self_);
      }
      out.heard_at = peer.heard;
      out.disk_at = peer.disk_moved;
      out.nonce = out.heard || peer.disk_nonce == 0 ? peer.nonce : peer.disk_nonce;
      out.incarnation = out.heard || peer.disk_nonce == 0 ? peer.incarnation : peer.disk_incarnation;
    }
    picture->peers.push_back(std::move(out));
  }
  picture->suspects = split_.victims;
  picture->group = ToNodes(split_.group);
  picture->disk_ok = disk_ok(now);
  picture->waiting = waiting_;
  picture->waiting_since = waiting_since_;
}

}  // namespace holdfast::cluster
