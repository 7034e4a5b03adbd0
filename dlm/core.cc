#include "dlm/core.h"

#include <algorithm>

#include "base/log.h"
#include "dlm/mutants.h"

namespace holdfast::dlm {

Core::Core(MemberId self, Knobs knobs)
    : directory_(context_), master_(context_), requester_(context_, master_),
      recovery_(context_, directory_, master_, requester_) {
  context_.self = self;
  context_.knobs = knobs;
}

void Core::Tick() {
  if (withdrawn_) return;
  requester_.Tick();
  master_.Tick();
  Settle();
}

std::optional<Instant> Core::NextDeadline() const {
  if (withdrawn_) return std::nullopt;
  auto a = requester_.NextDeadline();
  auto b = master_.NextDeadline();
  if (a && b) return std::min(*a, *b);
  return a ? a : b;
}

void Core::UpdateGates() {
  std::set<MemberId> owed, reading;
  for (const Victim& v : context_.view.victims) {
    if (!v.replayed) owed.insert(v.id);
    if (!v.readers_ended) reading.insert(v.id);
  }
  bool opened = context_.replayed.Update(std::move(owed));
  opened |= context_.readers.Update(std::move(reading));
  if (!opened) return;
  if (!context_.replayed.closed && !context_.readers.closed) requester_.GatesOpened();
  master_.GateOpened();
}

void Core::SetView(const View& view) {
  if (withdrawn_ || view.version < context_.view.version) return;
  bool member = std::any_of(view.members.begin(), view.members.end(), [&](const Member& m) { return m.id == self(); });
  bool had_view = context_.view.generation.v != 0;
  if (!member) {
    if (had_view) Withdraw();
    return;
  }
  bool new_generation = view.generation > context_.view.generation;
  if (view.generation < context_.view.generation) return;
  if (new_generation) context_.running = false;
  context_.view = view;
  UpdateGates();
  if (new_generation) {
    HF_LOG(LogLevel::kInfo, "dlm", "new_generation",
           {{"self", self()}, {"generation", view.generation}, {"members", view.members.size()}, {"victims", view.victims.size()}});
    master_.Purge();
    requester_.NewGeneration();
    recovery_.Start();
    WorkOffWaiting();
  }
  Advance();
  Settle();
}

void Core::Advance() {
  if (!recovery_.Advance() || GoneWrong()) return;
  HF_LOG(LogLevel::kInfo, "dlm", "running",
         {{"self", self()}, {"generation", view().generation}, {"us", context_.counters.last_recovery_ns / 1000}});
  Upcall up{Upcall::What::kRecovered};
  up.generation = view().generation;
  context_.upcalls.push_back(std::move(up));
  requester_.Running();
  master_.PumpAll();
  WorkOffWaiting();
}

void Core::WorkOffWaiting() {
  std::deque<Waiting> all = std::exchange(waiting_, {});
  for (Waiting& w : all) {
    if (GoneWrong()) return;
    Sort(w.from, std::move(w.message));
  }
}

// Looked at after every message, before anything that came of it is sent or granted.
bool Core::GoneWrong() {
  if (!context_.broken.empty()) Withdraw();
  return withdrawn_;
}

void Core::Step(const MemberId& from, Message message) {
  if (withdrawn_) return;
  ++context_.counters.received;
  Sort(from, std::move(message));
  Settle();
}

void Core::Settle() {
  while (!GoneWrong() && !context_.loop.empty()) {
    Message m = std::move(context_.loop.front());
    context_.loop.pop_front();
    Sort(self(), std::move(m));
  }
}

void Core::Sort(const MemberId& from, Message m) {
  Generation now = view().generation;
  if (now.v == 0 || m.generation > now) {
    return Keep(from, std::move(m));
  }
  if (!context_.IsMember(from)) {
    ++context_.counters.dropped_dead;
    return;
  }
  if (m.generation < now) {
    // Requests and directory messages of an older generation: their askers send again after the barrier.
    bool keep = IsAnswer(m.kind) || m.kind == Kind::kRemoveOk;
    if (keep && !MutantIs(Mutant::kDropsOldMessages)) Dispatch(from, std::move(m));
    return;
  }
  if (IsRecovery(m.kind)) {
    recovery_.Handle(from, std::move(m));
    return Advance();
  }
  if (!context_.running && m.kind != Kind::kApp) {
    return Keep(from, std::move(m));
  }
  Dispatch(from, std::move(m));
}

void Core::Keep(const MemberId& from, Message m) {
  waiting_.push_back({from, std::move(m)});
  if (waiting_.size() > context_.knobs.early_max)
    context_.Broken("%zu messages wait for a later generation, the last is from %s", waiting_.size(), ToString(from).c_str());
}

void Core::Dispatch(const MemberId& from, Message m) {
  if (!m.forwarded && IsRequest(m.kind)) m.asker = from;
  switch (m.kind) {
    case Kind::kRequest: case Kind::kRangeSet: case Kind::kRangeTest: case Kind::kRangeDrop: case Kind::kQuery:
      return DispatchByName(from, std::move(m));
    case Kind::kConvert: case Kind::kUnlock: case Kind::kCancel:
      if (master_.Masters(m.name)) return master_.Handle(std::move(m));
      HF_LOG(LogLevel::kError, "dlm", "not_master", {{"from", from}, {"name", m.name.ToString()}});
      return;
    case Kind::kMakeMaster: {
      master_.Create(m.name, m.term);
      if (auto own = requester_.Redirect(m.op)) master_.Handle(std::move(*own));
      return;
    }
    case Kind::kNotMaster: return requester_.HandleNotMaster(from, m);
    case Kind::kRemove: return directory_.HandleRemove(from, m);
    case Kind::kRemoveOk: return master_.HandleRemoveOk(m);
    case Kind::kAnswer: return requester_.HandleAnswer(from, m);
    case Kind::kQueued: return requester_.HandleQueued(from, m);
    case Kind::kBlocking: return requester_.HandleBlocking(m);
    case Kind::kApp: return DeliverApp(from, std::move(m));
    case Kind::kSync: case Kind::kReport: case Kind::kReportEnd: case Kind::kReady: return;
  }
}

void Core::DispatchByName(const MemberId& from, Message m) {
  bool ranged = m.kind == Kind::kRangeSet || m.kind == Kind::kRangeTest || m.kind == Kind::kRangeDrop;
  if (ranged && !m.range) return;
  if (m.forwarded) {
    if (!context_.IsMember(m.asker)) return;  // caused by a dead member
    if (!master_.HandleForwarded(std::move(m)))
      context_.Broken("a forward from %s for a name that is not mastered here", ToString(from).c_str());
    return;
  }
  if (!m.guessed) return directory_.Route(std::move(m));
  if (master_.Masters(m.name)) return master_.Handle(std::move(m));
  Message no(Kind::kNotMaster, m.name);
  no.op = m.op;
  context_.Send(m.asker, std::move(no));
}

void Core::DeliverApp(const MemberId& from, Message m) {
  Upcall up{Upcall::What::kApp};
  up.from = from;
  up.payload = std::move(m.payload);
  context_.upcalls.push_back(std::move(up));
}

void Core::SendApp(const MemberId& to, Bytes payload) {
  if (withdrawn_ || view().generation.v == 0 || !context_.IsMember(to)) return;
  Message m(Kind::kApp, {});
  m.payload = std::move(payload);
  context_.Send(to, std::move(m));
  Settle();
}

void Core::Withdraw() {
  if (withdrawn_) return;
  withdrawn_ = true;
  context_.running = false;
  context_.out.clear();
  context_.loop.clear();
  waiting_.clear();
  requester_.FailAll(Errc::kFenced);
  master_.Clear();
  directory_.Clear();
  context_.upcalls.push_back({Upcall::What::kWithdrawn});
}

LockSpaceDump Core::Dump() const {
  LockSpaceDump d;
  d.self = self();
  d.generation = view().generation;
  d.version = view().version;
  d.state = withdrawn_ ? "withdrawn" : recovery_.Describe();
  d.gate1_closed = context_.replayed.closed;
  d.gate2_closed = context_.readers.closed;
  d.directory_entries = directory_.size();
  master_.DumpTo(d);
  requester_.DumpTo(d);
  return d;
}

}  // namespace holdfast::dlm
