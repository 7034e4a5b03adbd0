// Faults, and what the cluster around the lock manager does about them: eviction, fencing, replay, burial, joins, leaves.
#include "tests/dlm/lock_sim.h"

namespace holdfast::dlm {

LockSim::Life& LockSim::StartLife(NodeId node) {
  auto life = std::make_unique<Life>();
  life->id = {node, Incarnation(++incarnations_[node]), world_.random().Next() | 1};
  life->executor = &world_.Start(node);
  life->core = std::make_unique<Core>(life->id, knobs_);
  Life& l = *life;
  lives_[l.id] = std::move(life);
  StartClients(l);
  return l;
}

void LockSim::ScheduleFaults() {
  auto& random = world_.random();
  faults_left_ = static_cast<int>(random.Between(0, static_cast<uint64_t>(options_.faults_max)));
  Duration at = random.Between(Milliseconds(100), Milliseconds(600));
  for (int i = 0; i < faults_left_; ++i) {
    world_.After(at, [this] { OneFault(); });
    // Often close together: failures during recovery.
    at = at + (random.Chance(500'000) ? random.Between(Milliseconds(1), Milliseconds(60)) : random.Between(Milliseconds(60), Milliseconds(700)));
  }
}

size_t LockSim::Healthy() const {
  size_t n = 0;
  for (const auto& [id, life] : lives_) n += !life->dead && !life->evicted && !life->leaving && !life->paused && register_.IsMember(id);
  return n;
}

LockSim::Life* LockSim::RandomHealthy() {
  std::vector<Life*> all;
  for (auto& [id, life] : lives_)
    if (!life->dead && !life->evicted && !life->leaving && !life->paused && register_.IsMember(id)) all.push_back(life.get());
  return all.empty() ? nullptr : all[world_.random().Below(all.size())];
}

void LockSim::OneFault() {
  if (draining_) return;
  auto& random = world_.random();
  Life* life = RandomHealthy();
  if (!life) return;
  switch (random.Below(8)) {
    case 0: case 1: case 2:
      if (Healthy() > 1) Kill(*life);
      break;
    case 3:  // a zombie: cut off or hung, evicted, goes on later and does not know
      if (Healthy() > 1) {
        ++stats_.zombies;
        if (random.Chance(500'000)) PauseShortly(*life);
        Evict(*life);
      }
      break;
    case 4: PauseShortly(*life); break;
    case 5: CutShortly(); break;
    case 6:
      if (Healthy() > 1) LeaveCleanly(*life);
      break;
    case 7: Restart(NodeId(static_cast<uint32_t>(random.Between(1, 6)))); break;
  }
}

void LockSim::Kill(Life& life) {
  auto& random = world_.random();
  ++stats_.kills;
  life.dead = true;
  life.executor->Crash();
  // Its last messages to each peer are lost from some point on.
  for (auto& [pair, link] : links_)
    if (pair.first == life.id && !link.queue.empty()) link.queue.resize(random.Below(link.queue.size() + 1));
  MemberId id = life.id;
  world_.After(random.Between(Milliseconds(1), Milliseconds(80)), [this, id] { Evict(*lives_[id]); });
}

void LockSim::Evict(Life& life) {
  if (life.evicted || !register_.IsMember(life.id)) return;
  auto& random = world_.random();
  life.evicted = true;
  register_.Evict(life.id);
  checker_.EvictedIn(life.id, register_.view().generation);
  FeedViews();
  MemberId id = life.id;
  world_.After(random.Between(Milliseconds(1), Milliseconds(150)), [this, id] { FinishVictim(id); });
  if (random.Chance(500'000) && !draining_) {
    NodeId node = id.node;
    world_.After(random.Between(Milliseconds(20), Milliseconds(400)), [this, node] { Restart(node); });
  }
}

// One step on the victim's way: fenced, then readers ended and replayed in any order.
void LockSim::FinishVictim(MemberId id) {
  const Victim* victim = register_.FindVictim(id);
  if (!victim) return;
  auto& random = world_.random();
  auto later = [&](Duration most) { return random.Between(Milliseconds(1), draining_ ? Milliseconds(20) : most); };
  if (!victim->fenced) {
    register_.SetFenced(id);
    FeedViews();
    world_.After(later(Milliseconds(200)), [this, id] { FinishVictim(id); });
    world_.After(later(Milliseconds(500)), [this, id] {
      if (!register_.FindVictim(id)) return;
      register_.SetReadersEnded(id);
      FeedViews();
    });
    return;
  }
  if (draining_ && !victim->readers_ended) {
    register_.SetReadersEnded(id);
    FeedViews();
  }
  victim = register_.FindVictim(id);
  if (victim && !victim->replayed) TryReplay(id);
}

// One survivor takes a RECOVERY lock and asks for every name that the victim held whether it is frozen. What the victim
// may have written must be: else its replay would be skipped, or fight with somebody.
void LockSim::TryReplay(MemberId victim) {
  const Victim* v = register_.FindVictim(victim);
  if (!v || v->replayed) return;
  auto& attempt = replays_[victim];
  uint64_t number = ++attempt.second;
  // Somebody else starts over if this one does not make it.
  world_.After(Milliseconds(draining_ ? 1000 : 800), [this, victim, number] {
    if (replays_[victim].second == number) TryReplay(victim);
  });
  Life* life = RandomHealthy();
  if (!life || !life->core->running()) return;
  bool knows = false;  // a replayer acts on its own view
  for (const Victim& known : life->core->view().victims) knows |= known.id == victim && known.fenced;
  if (!knows) return;
  std::vector<ResourceName> names = checker_.NamesHeldBy(victim);
  names.push_back(ResourceName("nobody-knows-" + std::to_string(victim.nonce)));
  MemberId replayer = life->id;
  On(*life, [this, life, victim, replayer, names] {
    // The journal's own lock, and one of the frozen names, under RECOVERY.
    LockId lock = life->core->requester().Create(ResourceName("journal-" + std::to_string(victim.nonce)));
    auto op = life->core->requester().Request(lock, Mode::kEX, Flags::kRecovery, {});
    if (!op.ok()) return;
    life->calls[*op] = [this, life, victim, replayer, names, lock](const Upcall& up) {
      if (up.status != Errc::kOk) return;
      auto release = life->core->requester().Unlock(lock, std::nullopt);
      if (release.ok()) life->calls[*release] = [](const Upcall&) {};
      life->core->Settle();
      ReplayStep(victim, replayer, names);
    };
    life->core->Settle();
  });
}

void LockSim::ReplayStep(MemberId victim, MemberId replayer, std::vector<ResourceName> names) {
  Life* life = Find(replayer);
  const Victim* v = register_.FindVictim(victim);
  if (!life || !v || v->replayed || life->evicted || life->core->withdrawn()) return;
  if (names.empty()) {
    register_.SetReplayed(victim);
    FeedViews();
    return;
  }
  ResourceName name = names.back();
  names.pop_back();
  On(*life, [this, life, victim, replayer, names, name] {
    auto op = life->core->requester().Query(name);
    life->calls[*op] = [this, victim, replayer, names, name](const Upcall& up) {
      if (up.status != Errc::kOk) return;
      ++stats_.frozen_asked;
      const Victim* v = register_.FindVictim(victim);
      if (v && !v->replayed && checker_.VictimMayHaveWritten(victim, name) && !up.frozen)
        checker_.Fail("freeze: " + name.ToString() + " is open to its replayer, dead " + ToString(victim) + " may have written it");
      ReplayName(victim, replayer, names, name);
    };
    life->core->Settle();
  });
}

// Holds the name under RECOVERY for a while: its master may die meanwhile, and the name must stay frozen for the others.
void LockSim::ReplayName(MemberId victim, MemberId replayer, std::vector<ResourceName> names, ResourceName name) {
  Life* life = Find(replayer);
  if (!life) return;
  auto& requester = life->core->requester();
  LockId lock = requester.Create(name);
  auto op = requester.Request(lock, Mode::kEX, Flags::kRecovery | Flags::kNoQueue, {});
  life->calls[*op] = [this, life, victim, replayer, names, lock](const Upcall& up) {
    if (up.status != Errc::kOk) return ReplayStep(victim, replayer, names);
    world_.After(world_.random().Between(Milliseconds(1), Milliseconds(60)), [this, life, victim, replayer, names, lock] {
      On(*life, [this, life, victim, replayer, names, lock] {
        if (life->core->withdrawn()) return;
        auto release = life->core->requester().Unlock(lock, std::nullopt);
        if (release.ok()) life->calls[*release] = [](const Upcall&) {};
        life->core->Settle();
        ReplayStep(victim, replayer, names);
      });
    });
  };
  life->core->Settle();
}

void LockSim::Restart(NodeId node) {
  if (draining_) return;
  for (auto& [id, life] : lives_) {
    if (id.node != node) continue;
    if (register_.IsMember(id)) return;  // its life goes on
    const Victim* v = register_.FindVictim(id);
    if (v && !v->fenced) return;  // a join waits for that
  }
  ++stats_.joins;
  Life& life = StartLife(node);
  register_.Join(life.id);
  FeedViews();
}

void LockSim::LeaveCleanly(Life& life) {
  ++stats_.leaves;
  life.leaving = true;
  LeaveStep(life.id);
}

void LockSim::LeaveStep(MemberId id) {
  Life* life = Find(id);
  if (!life || life->evicted) return;
  bool done = life->core->running() && life->core->requester().operations() == 0 && !life->core->replay_owed() &&
              life->core->requester().GrantedLocks().empty() && life->core->requester().RangeNames().empty();
  if (!done) {
    world_.After(Milliseconds(5), [this, id] { LeaveStep(id); });
    return;
  }
  checker_.HoldsNothing(id);
  life->evicted = true;
  register_.Leave(id);
  FeedViews();
}

void LockSim::PauseShortly(Life& life) {
  life.paused = true;
  world_.PauseNode(life.id.node);
  MemberId id = life.id;
  world_.After(world_.random().Between(Milliseconds(5), Milliseconds(500)), [this, id] {
    Life* l = lives_[id].get();
    if (!l->paused) return;
    l->paused = false;
    world_.ResumeNode(id.node);
  });
}

void LockSim::CutShortly() {
  auto& random = world_.random();
  Life* a = RandomHealthy();
  Life* b = RandomHealthy();
  if (!a || !b || a == b) return;
  MemberId from = a->id, to = b->id;
  links_[{from, to}].cut = true;
  if (random.Chance(500'000)) links_[{to, from}].cut = true;
  world_.After(random.Between(Milliseconds(5), Milliseconds(300)), [this, from, to] {
    for (auto pair : {std::make_pair(from, to), std::make_pair(to, from)}) {
      Link& link = links_[pair];
      link.cut = false;
      Deliver(pair.first, pair.second);
      for (auto& entry : link.queue) world_.At(std::max(entry.first, world_.now()), [this, pair] { Deliver(pair.first, pair.second); });
    }
  });
}

}  // namespace holdfast::dlm
