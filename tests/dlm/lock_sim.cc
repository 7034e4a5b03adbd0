// The run of a simulation, its links, and the views' way to the members.
#include "tests/dlm/lock_sim.h"

#include "base/log.h"
#include "dlm/mutants.h"

namespace holdfast::dlm {

LockSim::LockSim(uint64_t seed, SimOptions options) : options_(options), world_(seed), checker_(&register_) {
  SetLogLevel(LogLevel::kOff);
  g_broken_invariant.clear();
  auto& random = world_.random();
  knobs_.idle_ttl = random.Between(Milliseconds(2), Milliseconds(60));
  knobs_.guess_max = random.Between(1, 8);
  knobs_.report_batch = random.Between(1, 5);
  uint32_t members = static_cast<uint32_t>(random.Between(3, 5));
  for (uint32_t n = 1; n <= members; ++n) register_.Join(StartLife(NodeId(n)).id);
  FeedViews();
  ScheduleFaults();
}

LockSim::~LockSim() = default;

LockSim::Life* LockSim::Find(const MemberId& id) {
  auto it = lives_.find(id);
  return it == lives_.end() || it->second->dead ? nullptr : it->second.get();
}

void LockSim::On(Life& life, std::function<void()> fn) {
  Life* l = &life;  // lives are kept until the end of the run
  life.executor->Post([this, l, fn = std::move(fn)] {
    if (l->dead) return;
    l->core->SetNow(world_.now());
    fn();
    Flush(*l);
    if (!g_broken_invariant.empty()) checker_.Fail("invariant: " + g_broken_invariant);
  });
}

void LockSim::FeedViews() {
  auto& random = world_.random();
  for (auto& [id, life] : lives_) {
    if (life->dead || (life->evicted && random.Chance(300'000))) continue;
    Duration delay = random.Chance(100'000) ? random.Between(Milliseconds(50), Milliseconds(400))
                                            : random.Between(Milliseconds(1), Milliseconds(30));
    bool newest = random.Chance(500'000);
    View then = register_.view();
    Life* l = life.get();
    world_.After(delay, [this, l, then, newest] {
      if (l->dead) return;
      On(*l, [this, l, view = newest ? register_.view() : then] {
        l->core->SetView(view);
        world_.Mix(view.version.v);
      });
    });
  }
}

void LockSim::Transmit(const MemberId& from, Outgoing out) {
  auto& random = world_.random();
  Link& link = links_[{from, out.to}];
  Duration delay = random.Chance(20'000) ? random.Between(Milliseconds(1), Milliseconds(80))
                                         : random.Between(Microseconds(50), Microseconds(800));
  Instant at = std::max(world_.now() + delay, link.last);
  link.last = at;
  MemberId to = out.to;
  link.queue.emplace_back(at, std::move(out.message));
  if (!link.cut) world_.At(at, [this, from, to] { Deliver(from, to); });
}

void LockSim::Deliver(const MemberId& from, const MemberId& to) {
  Link& link = links_[{from, to}];
  if (link.cut) return;
  while (!link.queue.empty() && link.queue.front().first <= world_.now()) {
    auto message = std::make_shared<Message>(std::move(link.queue.front().second));
    link.queue.pop_front();
    Life* life = Find(to);
    if (!life) continue;
    world_.Mix(static_cast<uint64_t>(message->kind) << 32 ^ from.nonce ^ (to.nonce << 8));
    On(*life, [life, from, message] { life->core->Step(from, std::move(*message)); });
  }
}

void LockSim::Flush(Life& life) {
  for (int round = 0; round < 1000; ++round) {
    for (Outgoing& out : life.core->TakeMessages()) Transmit(life.id, std::move(out));
    auto upcalls = life.core->TakeUpcalls();
    if (upcalls.empty()) break;
    for (Upcall& up : upcalls) {
      switch (up.what) {
        case Upcall::What::kDone: Done(life, up); break;
        case Upcall::What::kBlocking: Blocking(life, up); break;
        case Upcall::What::kApp: AppArrived(life, up); break;
        case Upcall::What::kRecovered: ++stats_.recoveries; break;
        case Upcall::What::kWithdrawn: checker_.HoldsNothing(life.id); break;
      }
    }
  }
  auto next = life.core->NextDeadline();
  if (!next || (life.tick_at > world_.now() && life.tick_at <= *next)) return;
  life.tick_at = std::max(*next, world_.now() + Microseconds(100));
  Life* l = &life;
  world_.At(life.tick_at, [this, l] {
    if (!l->dead) On(*l, [l] { l->core->Tick(); });
  });
}

bool LockSim::Quiet() const {
  for (const auto& [id, life] : lives_) {
    if (life->dead || life->evicted || life->core->withdrawn()) continue;
    if (!life->core->running() || life->core->requester().operations() != 0) return false;
    if (!life->core->requester().GrantedLocks().empty() || !life->core->requester().RangeNames().empty()) return false;
  }
  return register_.view().victims.empty();
}

std::string LockSim::Run() {
  Instant end = world_.now() + options_.busy;
  while (world_.now() < end && !checker_.failed()) world_.RunFor(Milliseconds(20));
  if (checker_.failed()) return checker_.failure();
  // Phase 2: no more faults; wires heal, the paused go on, victims are buried, clients finish.
  draining_ = true;
  faults_left_ = 0;
  for (auto& [pair, link] : links_) {
    link.cut = false;
    Deliver(pair.first, pair.second);
    for (auto& [at, message] : link.queue) {
      MemberId from = pair.first, to = pair.second;
      world_.At(std::max(at, world_.now()), [this, from, to] { Deliver(from, to); });
    }
  }
  for (auto& [id, life] : lives_) {
    if (life->paused && !life->dead) world_.ResumeNode(id.node);
    life->paused = false;
  }
  for (const Victim& v : register_.view().victims) FinishVictim(v.id);
  Instant limit = world_.now() + options_.patience;
  while (world_.now() < limit && !checker_.failed() && !Quiet()) {
    world_.RunFor(Milliseconds(100));
    FeedViews();
  }
  if (checker_.failed()) return checker_.failure();
  if (!Quiet()) return "liveness: not quiet after the heal\n" + DumpAll();
  std::string last = FinalCheck();
  for (const auto& [id, life] : lives_) {
    const Counters& c = life->core->counters();
    stats_.removes += c.removes;
    stats_.removes_refused += c.removes_refused;
    stats_.resent += c.resent;
  }
  return last;
}

// Everybody that lives can lock every name exclusively, one after the other.
std::string LockSim::FinalCheck() {
  for (auto& [id, life] : lives_) {
    if (life->dead || life->evicted || life->core->withdrawn()) continue;
    for (int n = 0; n < options_.names; ++n) {
      Life* l = life.get();
      LockId lock = l->core->requester().Create(NameOf(static_cast<uint64_t>(n)));
      auto ended = std::make_shared<std::optional<Errc>>();
      auto start = [this, l, ended](std::function<Result<uint64_t>()> call) {
        ended->reset();
        On(*l, [this, l, ended, call] {
          auto op = call();
          if (!op.ok()) *ended = op.code();
          else l->calls[*op] = [ended](const Upcall& up) { *ended = up.status; };
          l->core->Settle();
        });
        world_.RunUntil([&] { return ended->has_value(); }, Seconds(20));
        return ended->has_value() && **ended == Errc::kOk;
      };
      if (!start([l, lock] { return l->core->requester().Request(lock, Mode::kEX, Flags::kNone, {}); }) ||
          !start([l, lock] { return l->core->requester().Unlock(lock, std::nullopt); }))
        return "liveness: " + ToString(id) + " cannot lock r" + std::to_string(n) + " EX after all\n" + DumpAll();
    }
  }
  return checker_.failure();
}

std::string LockSim::DumpAll() const {
  std::string text;
  for (const Victim& v : register_.view().victims)
    text += "  victim " + ToString(v.id) + (v.fenced ? " fenced" : "") + (v.replayed ? " replayed" : "") + (v.readers_ended ? " readers ended" : "") + "\n";
  for (const auto& [id, life] : lives_) {
    if (life->dead) continue;
    for (const ResourceName& name : life->core->requester().RangeNames())
      for (const HeldRange& h : life->core->requester().Ranges(name)->held())
        text += "  " + ToString(id) + " has on " + name.ToString() + " range " + std::to_string(h.start) + "-" + std::to_string(h.end) + " owner " +
                std::to_string(h.owner.key) + " handle " + std::to_string(h.handle) + " type " + std::to_string(static_cast<int>(h.type)) + "\n";
    LockSpaceDump d = life->core->Dump();
    text += "  " + ToString(id) + (life->evicted ? " evicted" : "") + " gen " + std::to_string(d.generation.v) + " " + d.state +
            (d.gate1_closed ? " gate1" : "") + (d.gate2_closed ? " gate2" : "") + "\n";
    for (const DumpWait& w : d.waits)
      text += "    waits: " + w.name.ToString() + " " + w.what + " at " + ToString(w.master) + " for " + std::to_string(w.since.ms()) + " ms\n";
    for (auto& [lock, mode] : life->core->requester().GrantedLocks())
      text += "    holds: " + life->core->requester().NameOf(lock)->ToString() + " " + std::string(ModeName(mode)) + "\n";
    for (const DumpResource& r : d.resources) {
      if (r.granted.empty() && r.converting.empty() && r.waiting.empty() && r.ranges.empty()) continue;
      text += "    masters " + r.name.ToString() + (r.frozen ? " frozen" : "") + ":";
      auto list = [&](const char* what, const std::vector<DumpLock>& locks) {
        for (const DumpLock& l : locks)
          text += std::string(" ") + what + " " + ToString(l.owner) + "#" + std::to_string(l.id.v) + " " +
                  std::string(ModeName(l.granted)) + "/" + std::string(ModeName(l.requested));
      };
      list("g", r.granted);
      list("c", r.converting);
      list("w", r.waiting);
      text += " ranges " + std::to_string(r.ranges.size()) + "\n";
    }
  }
  return text;
}

}  // namespace holdfast::dlm
