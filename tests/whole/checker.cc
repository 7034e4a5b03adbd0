#include "tests/whole/checker.h"

#include <algorithm>

#include "base/log.h"
#include "cluster/quorum_area.h"
#include "fs/format.h"
#include "fs/resource.h"
#include "tests/whole/cluster.h"

namespace holdfast::whole {

using cluster::ClusterState;
using cluster::Life;
using cluster::StatePtr;
using dlm::Mode;

void Checker::Violate(std::string what) {
  if (!violation_.empty()) return;
  violation_ = std::move(what);
  HF_LOG(LogLevel::kError, "sim", "VIOLATION", {{"what", violation_}});
}

namespace {

MemberId IdOf(const cluster::LockspaceMember& m) { return {NodeId(m.node()), Incarnation(m.incarnation()), m.nonce()}; }
MemberId IdOf(const cluster::LockspaceVictim& v) { return {NodeId(v.node()), Incarnation(v.incarnation()), v.nonce()}; }

// The change ids that a value carries continue those of the one before it.
bool Continues(const std::string& older, const std::string& newer) {
  ClusterState a, b;
  if (!a.ParseFromString(older) || !b.ParseFromString(newer)) return false;
  int keep = std::min(a.applied_size(), b.applied_size() - 1);
  for (int i = 0; i < keep; ++i)
    if (a.applied(a.applied_size() - 1 - i) != b.applied(b.applied_size() - 2 - i)) return false;
  return true;
}

// A holdfastd that slept through its fencing comes back to an array without keys like any other, and cannot know that its
// own was preempted before they were lost: it writes where nobody else does. A mount never registers again.
bool OwnPlace(NodeId node, const sim::DiskWrite& write) {
  uint64_t at = write.offset - cluster::kVolumeQuorumOffset;
  bool beat = at == uint64_t{node.v - 1} * kBlockSize && write.length == kBlockSize;
  uint64_t slot = cluster::kBeatsBytes + uint64_t{node.v - 1} * cluster::kSlotBytes;
  return beat || (at >= slot && at + write.length <= slot + cluster::kSlotBytes);
}

std::string Say(const MemberId& m, Mode mode) { return ToString(m) + " " + std::string(dlm::ModeName(mode)); }
std::string Say(const dlm::ResourceName& name) { return fs::ToString(fs::ResourceFromName(name)); }

}  // namespace

void Checker::SawState(const DaemonLife& life, const StatePtr& state) {
  sim::World& world = cluster_->world;
  world.Mix(life.node.v);
  world.Mix(state->version());
  std::string bytes = state->SerializeAsString();
  auto [it, fresh] = chain_.try_emplace(state->version(), bytes);
  if (!fresh) {
    if (it->second != bytes) Violate("I2: two values of register version " + std::to_string(state->version()));
    return;
  }
  auto before = chain_.find(state->version() - 1), after = chain_.find(state->version() + 1);
  if ((before != chain_.end() && !Continues(before->second, bytes)) || (after != chain_.end() && !Continues(bytes, after->second)))
    Violate("I2: register version " + std::to_string(state->version()) + " does not continue the one before it");
  for (const auto& entry : state->fencing()) {
    Life victim{NodeId(entry.node()), Incarnation(entry.incarnation())};
    evicted_at_.try_emplace(victim, world.now());
    if (entry.has_token()) fenced_.insert(victim);
  }
  if (newest_ == nullptr || state->version() > newest_->version()) {
    newest_ = state;
    LearnLockspace(*state);
    CheckReaders(*state);
  }
  CheckLeases();
}

const cluster::Lockspace* Checker::lockspace() const {
  return newest_ ? cluster::FindLockspace(*newest_, cluster_->lockspace_name()) : nullptr;
}

void Checker::LearnLockspace(const ClusterState& state) {
  const cluster::Lockspace* ls = cluster::FindLockspace(state, cluster_->lockspace_name());
  if (!ls) return;
  std::map<MemberId, const cluster::LockspaceVictim*> victims;
  std::set<MemberId> members;
  for (const auto& m : ls->members()) members.insert(IdOf(m));
  for (const auto& v : ls->victims()) victims[IdOf(v)] = &v;
  for (const MemberId& id : members) facts_[id].known = true;
  for (const auto& [id, v] : victims) facts_[id].known = true;
  for (auto& [id, f] : facts_) {
    auto v = victims.find(id);
    bool was_victim = f.victim;
    bool was_owed = f.victim && !f.replayed;
    f.member = members.contains(id);
    f.victim = v != victims.end();
    if (f.victim) {
      if (!was_victim) f.evicted_generation = ls->generation();
      f.fenced = v->second->fenced();
      f.replayed = v->second->replayed();
      f.readers_ended = v->second->readers_ended();
      f.mount = MountNo(v->second->mount());
      f.replayer = {NodeId(v->second->replayer_node()), Incarnation(v->second->replayer_incarnation()), v->second->replayer_nonce()};
      if (v->second->replayer_node() != 0) f.replayers.insert(f.replayer);
    } else if (was_victim) {
      f.fenced = f.replayed = f.readers_ended = true;  // buried
      HoldsNothing(id);
    }
    if (was_owed && f.replayed) {
      ++replays_;
      cluster_->AfterReplay(id);
    }
  }
}

bool Checker::Buried(uint64_t nonce) const {
  for (const auto& [id, f] : facts_)
    if (id.nonce == nonce && (f.member || (f.victim && !f.replayed))) return false;
  return true;
}

// The second gate of a victim is open: nothing of it may answer from its caches any more.
void Checker::CheckReaders(const ClusterState& state) {
  for (const auto& [victim, at] : evicted_at_) {
    const cluster::Fencing* entry = cluster::FindFencing(state, victim);
    if (entry && !entry->readers_ended()) continue;
    for (const DaemonLife* life : cluster_->daemons())
      if (life->alive() && life->life() == victim && life->lease_end > cluster_->world.now())
        Violate("I3: readers of " + cluster::ToString(victim) + " count as ended while its lease runs");
  }
}

// A life that somebody knows as evicted has no lease beyond that moment + lease + margin.
void Checker::CheckLeases() {
  for (const DaemonLife* life : cluster_->daemons()) {
    if (!life->alive() || life->lease_end <= cluster_->world.now()) continue;
    auto it = evicted_at_.find(life->life());
    if (it == evicted_at_.end()) continue;
    const cluster::Timing& t = cluster_->config().timing;
    if (life->lease_end > it->second + t.lease + t.lease_margin)
      Violate("I2: the lease of " + cluster::ToString(life->life()) + " runs on after its eviction");
  }
}

void Checker::Joined(const MountLife& mount) { writers_[mount.executor->id()] = mount.self(); }

void Checker::Wrote(const sim::DiskWrite& write) {
  std::string where = " wrote " + std::to_string(write.length) + " bytes at " + std::to_string(write.offset);
  // What a session's loss left under way is awaited before the next one writes: it may be older than what that writes.
  if (write.overtaken) Violate("I4: n" + std::to_string(write.node.v) + where + " in a lost session, after the next one's first write");
  for (const DaemonLife* life : cluster_->daemons())
    if (life->executor->id() == write.executor && fenced_.contains(life->life()) && !(keys_lost_ && OwnPlace(life->node, write)))
      Violate("I1: holdfastd of " + cluster::ToString(life->life()) + where + " after its fence token");
  auto it = writers_.find(write.executor);
  if (it == writers_.end()) return;
  const MemberId& writer = it->second;
  const Facts& f = facts_[writer];
  if (f.fenced || fenced_.contains(Life{writer.node, writer.incarnation}))
    Violate("I1: mount " + ToString(writer) + where + " after its fence token");
  // The journals: headers and logs.
  const fs::Geometry& g = cluster_->geometry();
  uint64_t block = write.offset / kBlockSize;
  uint64_t begin = g.first_journal_block;
  if (block < begin || block >= begin + uint64_t{g.journal_count} * g.journal_blocks) return;
  MountNo journal(static_cast<uint32_t>((block - begin) / g.journal_blocks));
  uint64_t index = (block - begin) % g.journal_blocks;
  bool shared = index >= fs::kJournalOwnerIndex && index < fs::kJournalLogIndex;  // adopted under the journal's lock
  if (shared) return;
  const cluster::Lockspace* ls = lockspace();
  if (!ls) return;
  // One journal may have several dead owners: the last of them died before the first was replayed.
  bool owed = false, replayer = false;
  for (const auto& v : ls->victims()) {
    if (MountNo(v.mount()) != journal || IdOf(v) == writer || v.replayed()) continue;
    const Facts& owner = facts_[IdOf(v)];
    owed = true;
    // What a replayer that died had under way may land until its own token is there; the next one waits for that.
    replayer = replayer || owner.replayer == writer || (f.victim && owner.replayers.contains(writer));
    if (!owner.fenced) Violate("I1: " + ToString(writer) + " wrote to journal " + std::to_string(journal.v) + " before its owner's token");
  }
  // Its next owner may live already, waiting for this replay.
  for (const auto& m : ls->members())
    if (!owed && MountNo(m.mount()) == journal && IdOf(m) != writer)
      Violate("I1: " + ToString(writer) + " wrote to journal " + std::to_string(journal.v) + " of living " + ToString(IdOf(m)));
  if (owed && !replayer) Violate("I1: " + ToString(writer) + " wrote to journal " + std::to_string(journal.v) + " and is not its replayer");
}

// ---- locks ----

void Checker::Believes(const MemberId& member, dlm::LockId lock, const dlm::ResourceName& name, Mode mode) {
  auto fact = facts_.find(member);
  auto& holders = held_[name];
  if (fact != facts_.end() && fact->second.fenced) {
    // What it held at its fence is owed. But a lock with nothing left to write may still be handed over, within its lease,
    // to a master that does not know of the eviction yet; more than it had counts for nothing.
    auto held = holders.find({member, lock});
    if (held == holders.end() || (mode != Mode::kIV && !dlm::Covers(held->second, mode))) {
      if (holders.empty()) held_.erase(name);
      return;
    }
  }
  if (mode == Mode::kIV || mode == Mode::kNL) holders.erase({member, lock});
  else holders[{member, lock}] = mode;
  if (holders.empty()) held_.erase(name);
}

void Checker::Granted(const MemberId& member, dlm::LockId lock, const dlm::ResourceName& name, Mode mode, Generation asked_in,
                      bool recovery) {
  ++grants_;
  auto mine = facts_.find(member);
  if (mine != facts_.end() && mine->second.fenced) return;
  auto it = held_.find(name);
  if (it == held_.end()) return;
  for (const auto& [who, held] : it->second) {
    const auto& [other, other_lock] = who;
    if (other == member && other_lock == lock) continue;
    const Facts& f = facts_[other];
    if (f.known && !f.member && !f.victim) continue;
    if (!f.victim || !f.fenced) {
      if (!Compatible(held, mode))
        Violate("I3: " + Say(name) + ": " + Say(member, mode) + " granted while " + Say(other, held) + (f.victim ? " (not fenced)" : ""));
      continue;
    }
    if (recovery) continue;
    // Both may have been granted by a master that did not know of the failure yet.
    if (Compatible(held, mode) && asked_in.v < f.evicted_generation) continue;
    if (!f.replayed && dlm::MayWrite(held))
      Violate("I3 freeze: " + Say(name) + ": " + Say(member, mode) + " granted, dead " + Say(other, held) + " not replayed");
    if (!f.readers_ended && dlm::MayCacheReads(held) && !Compatible(mode, Mode::kPR))
      Violate("I3 readers: " + Say(name) + ": " + Say(member, mode) + " granted, " + Say(other, held) + " may still read");
  }
}

void Checker::HoldsNothing(const MemberId& member) {
  for (auto it = held_.begin(); it != held_.end();) {
    std::erase_if(it->second, [&](const auto& h) { return h.first.first == member; });
    it = it->second.empty() ? held_.erase(it) : std::next(it);
  }
}

}  // namespace holdfast::whole
