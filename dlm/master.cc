// Grants: requests by name, conversions, unlocks, cancels, and the pump that serves the queues.
// Ranges are in master_ranges.cc, recovery and disuse in master_recovery.cc.
#include "dlm/master.h"

#include <algorithm>

#include "base/log.h"
#include "dlm/mutants.h"

namespace holdfast::dlm {

bool Master::Masters(const ResourceName& name) const {
  auto it = resources_.find(name);
  return it != resources_.end() && !it->second.removing;
}

void Master::Handle(Message m) {
  auto it = resources_.find(m.name);
  if (it == resources_.end()) return c_.Broken("request for %s, which is not mastered here", m.name.ToString().c_str());
  Resource& r = it->second;
  switch (m.kind) {
    case Kind::kRequest: return Request(r, m);
    case Kind::kConvert: return Convert(r, m);
    case Kind::kUnlock: return Unlock(r, m);
    case Kind::kCancel: return Cancel(r, m);
    case Kind::kRangeSet: return RangeSet(r, m);
    case Kind::kRangeTest: return RangeTest(r, m);
    case Kind::kRangeDrop: return RangeDrop(r, m);
    case Kind::kQuery: return Query(r, m);
    default: HF_CHECK(false, "kind %d is no request", static_cast<int>(m.kind));
  }
}

bool Master::HandleForwarded(Message m) {
  auto it = resources_.find(m.name);
  if (it == resources_.end()) return false;
  if (it->second.removing) removing_.erase(m.name);
  it->second.removing = false;  // our REMOVE will be refused: the directory has sent this one more
  ++it->second.forwards;
  Handle(std::move(m));
  return true;
}

void Master::Create(const ResourceName& name, uint64_t term) {
  auto [it, fresh] = resources_.try_emplace(name);
  if (!fresh) return c_.Broken("made master of %s twice", name.ToString().c_str());
  it->second.name = name;
  it->second.term = term;
  FreezeNew(it->second);
}

// A name that was not known before: a dead member may have held it, mastered by itself.
void Master::FreezeNew(Resource& r) {
  if (c_.replayed.closed) {
    if (!MutantIs(Mutant::kFreezeForgetsUnknownNames)) r.frozen_epoch = c_.replayed.epoch;
    r.ranges_epoch = c_.replayed.epoch;
  }
  if (c_.readers.closed) r.readers_epoch = c_.readers.epoch;
}

void Master::Answer(const Resource& r, const MemberId& to, uint64_t op, LockId lock, Errc status) {
  Message m(Kind::kAnswer, r.name);
  m.asker = to;
  m.op = op;
  m.lock = lock;
  m.status = status;
  for (const MasterLock& l : r.locks) {
    if (l.id != lock || l.owner != to) continue;
    m.mode = l.granted;
    m.under_recovery = l.under_recovery;
  }
  if (r.value && m.mode != Mode::kIV) m.value = std::make_unique<ValueBlock>(*r.value);
  c_.Send(to, std::move(m));
}

void Master::Queued(const Resource& r, const MemberId& to, uint64_t op) {
  Message m(Kind::kQueued, r.name);
  m.asker = to;
  m.op = op;
  c_.Send(to, std::move(m));
}

void Master::Grant(Resource& r, MasterLock& lock) {
  lock.granted = lock.requested;
  lock.requested = Mode::kIV;
  lock.told = Mode::kIV;
  lock.under_recovery = Has(lock.flags, Flags::kRecovery) && !GatesAllow(c_, r, lock.granted, Flags::kNone);
  Answer(r, lock.owner, lock.op, lock.id, Errc::kOk);
}

void Master::Request(Resource& r, Message& m) {
  if (MasterLock* known = r.Find(m.asker, m.lock)) {
    if (known->op != m.op) Answer(r, m.asker, m.op, m.lock, Errc::kInvalid);
    return;  // a number seen before: its answer was or will be sent
  }
  MasterLock lock;
  lock.owner = m.asker;
  lock.id = m.lock;
  lock.op = m.op;
  lock.flags = m.flags;
  lock.requested = m.mode;
  lock.queued_at = c_.now;
  r.locks.push_back(lock);
  MasterLock& added = r.locks.back();
  if (GatesAllow(c_, r, m.mode, m.flags) && r.MayGrant(r.locks.size() - 1)) {
    Grant(r, added);
  } else if (Has(m.flags, Flags::kNoQueue)) {
    if (Has(m.flags, Flags::kNoQueueBast)) TellHolders(r, lock);
    r.locks.pop_back();
    Answer(r, m.asker, m.op, m.lock, Errc::kWouldBlock);
  } else {
    Queued(r, m.asker, m.op);
  }
  Settle(r);
}

void Master::Convert(Resource& r, Message& m) {
  MasterLock* lock = r.Find(m.asker, m.lock);
  if (!lock || lock->granted == Mode::kIV || lock->waits()) {
    Answer(r, m.asker, m.op, m.lock, Errc::kInvalid);
    return;
  }
  lock->op = m.op;
  lock->flags = m.flags;
  if (IsDownConvert(lock->granted, m.mode)) {
    if (m.value && WritesValue(lock->granted)) r.WriteValue(*m.value);
    lock->granted = m.mode;
    lock->told = Mode::kIV;
    Answer(r, m.asker, m.op, m.lock, Errc::kOk);
    return Settle(r);
  }
  lock->requested = m.mode;
  lock->queued_at = c_.now;
  size_t last = r.locks.size() - 1;
  r.MoveToEnd(static_cast<size_t>(lock - r.locks.data()));
  MasterLock& moved = r.locks[last];
  if (GatesAllow(c_, r, m.mode, m.flags) && r.MayGrant(last)) {
    Grant(r, moved);
  } else if (Has(m.flags, Flags::kNoQueue)) {
    if (Has(m.flags, Flags::kNoQueueBast)) TellHolders(r, MasterLock(moved));
    moved.requested = Mode::kIV;
    Answer(r, m.asker, m.op, m.lock, Errc::kWouldBlock);
  } else if (!Has(m.flags, Flags::kNoDlckWt) && r.ConversionDeadlock(last)) {
    moved.requested = Mode::kIV;
    Answer(r, m.asker, m.op, m.lock, Errc::kDeadlock);
  } else {
    Queued(r, m.asker, m.op);
  }
  Settle(r);
}

void Master::Unlock(Resource& r, Message& m) {
  if (MasterLock* lock = r.Find(m.asker, m.lock)) {
    if (m.value && WritesValue(lock->granted)) r.WriteValue(*m.value);
    r.Erase(m.asker, m.lock);
  }
  Answer(r, m.asker, m.op, m.lock, Errc::kOk);
  Settle(r);
}

void Master::Cancel(Resource& r, const Message& m) {
  MasterLock* lock = r.Find(m.asker, m.lock);
  if (lock && lock->waits() && lock->op == m.op) {
    lock->requested = Mode::kIV;
    if (lock->granted == Mode::kIV) r.Erase(m.asker, m.lock);
    Answer(r, m.asker, m.op, m.lock, Errc::kCancelled);
    return Settle(r);
  }
  if (!r.ranges) return;
  auto& waiting = r.ranges->waiting;
  auto it = std::find_if(waiting.begin(), waiting.end(),
                         [&](const RangeWaiter& w) { return w.member == m.asker && w.op == m.op; });
  if (it == waiting.end()) return;  // the answer is on its way
  waiting.erase(it);
  Answer(r, m.asker, m.op, {}, Errc::kInterrupted);
  Settle(r);
}

void Master::Query(Resource& r, const Message& m) {
  Message answer(Kind::kAnswer, r.name);
  answer.asker = m.asker;
  answer.op = m.op;
  answer.under_recovery = FrozenNow(c_, r);
  c_.Send(m.asker, std::move(answer));
  Settle(r);
}

bool Master::PumpLocks(Resource& r) {
  bool progress = false;
  for (size_t i = 0; i < r.locks.size(); ++i) {
    MasterLock& lock = r.locks[i];
    if (!lock.waits() || !GatesAllow(c_, r, lock.requested, lock.flags) || !r.MayGrant(i)) continue;
    Grant(r, lock);
    progress = true;
  }
  return progress;
}

void Master::Pump(Resource& r) {
  while (PumpLocks(r)) {
  }
  if (r.ranges) PumpRanges(r);
}

// Blocking callbacks to those whose granted mode is in the way, each told once per stronger wish.
void Master::TellHolders(Resource& r, const MasterLock& waiting) {
  for (MasterLock& holder : r.locks) {
    if (holder.owner == waiting.owner && holder.id == waiting.id) continue;
    if (Compatible(holder.granted, waiting.requested)) continue;
    bool once_only = Has(waiting.flags, Flags::kNoQueue);  // each try of the reaper is a question of its own
    if (!once_only && holder.told >= waiting.requested) continue;
    holder.told = std::max(holder.told, waiting.requested);
    Message m(Kind::kBlocking, r.name);
    m.lock = holder.id;
    m.mode = waiting.requested;
    ++c_.counters.blocking_sent;
    c_.Send(holder.owner, std::move(m));
  }
}

void Master::Settle(Resource& r) {
  if (!c_.running) return;
  Pump(r);
  if (r.HasWaiters()) {
    contended_.insert(r.name);
    for (size_t i = 0; i < r.locks.size(); ++i)
      if (r.locks[i].waits()) TellHolders(r, MasterLock(r.locks[i]));
  } else if (!contended_.empty()) {
    contended_.erase(r.name);
  }
  NoteDisuse(r);
}

}  // namespace holdfast::dlm
