// The user's calls on locks, and their answers. Ranges are in requester_ranges.cc, recovery in requester_recovery.cc.
#include "dlm/requester.h"

#include <algorithm>

#include "base/log.h"
#include "dlm/mutants.h"

namespace holdfast::dlm {

LockId Requester::Create(ResourceName name) {
  LockId id(++last_lock_);
  locks_[id].name = std::move(name);
  return id;
}

Status Requester::Destroy(LockId id) {
  auto it = locks_.find(id);
  if (it == locks_.end()) return Errc::kInvalid;
  if (it->second.op != 0 || it->second.granted != Mode::kIV) return Errc::kBusy;
  locks_.erase(it);
  return {};
}

Requester::Op& Requester::NewOp(Kind kind, const ResourceName& name) {
  uint64_t id = ++last_op_;
  Op& op = ops_[id];
  op.id = id;
  op.kind = kind;
  op.name = name;
  op.started = c_.now;
  return op;
}

void Requester::WriteValue(Op& op, Lock& lock, const std::optional<ValueBytes>& value) {
  if (!value || !WritesValue(lock.granted)) return;
  if (!lock.value) lock.value = std::make_unique<ValueBlock>();
  *lock.value = {*value, lock.value->number + 1, true};
  op.value = std::make_unique<ValueBlock>(*lock.value);
}

Result<uint64_t> Requester::Request(LockId id, Mode mode, Flags flags, const RequestOptions& options) {
  auto it = locks_.find(id);
  if (it == locks_.end() || mode == Mode::kIV) return Errc::kInvalid;
  if (Has(flags, Flags::kExpedite) && mode != Mode::kNL) return Errc::kInvalid;
  Lock& lock = it->second;
  if (lock.op != 0) return Errc::kBusy;
  bool first = lock.granted == Mode::kIV;
  Op& op = NewOp(first ? Kind::kRequest : Kind::kConvert, lock.name);
  ++(first ? c_.counters.requests : c_.counters.converts);
  op.lock = id;
  op.mode = mode;
  op.before = lock.granted;
  op.flags = flags;
  lock.op = op.id;
  if (!first && mode == lock.granted && !options.value) {
    uint64_t number = op.id;
    lock.op = 0;
    ++c_.counters.granted_locally;
    Finish(number, Errc::kOk);
    return number;
  }
  if (!first && IsDownConvert(lock.granted, mode)) WriteValue(op, lock, options.value);
  if (!first) lock.granted = Lesser(lock.granted, mode);
  if (Has(flags, Flags::kTimeout)) {
    op.deadline = c_.now + options.timeout;
    deadlines_.insert({op.deadline, op.id});
  }
  uint64_t number = op.id;
  SendOp(op);
  return number;
}

Result<uint64_t> Requester::Unlock(LockId id, const std::optional<ValueBytes>& value) {
  auto it = locks_.find(id);
  if (it == locks_.end()) return Errc::kInvalid;
  Lock& lock = it->second;
  if (lock.op != 0) return Errc::kBusy;
  if (lock.granted == Mode::kIV) return Errc::kInvalid;
  Op& op = NewOp(Kind::kUnlock, lock.name);
  ++c_.counters.unlocks;
  op.lock = id;
  op.before = lock.granted;
  lock.op = op.id;
  WriteValue(op, lock, value);
  lock.granted = Mode::kNL;  // for reports: nothing that excludes anybody; the user sees kIV
  uint64_t number = op.id;
  SendOp(op);
  return number;
}

Mode Requester::GrantedMode(LockId id) const {
  auto it = locks_.find(id);
  if (it == locks_.end()) return Mode::kIV;
  if (it->second.op != 0) {
    auto op = ops_.find(it->second.op);
    if (op != ops_.end() && op->second.kind == Kind::kUnlock) return Mode::kIV;
  }
  return it->second.granted;
}

ValueBlock Requester::Value(LockId id) const {
  auto it = locks_.find(id);
  return it == locks_.end() || !it->second.value ? ValueBlock{} : *it->second.value;
}

const ResourceName* Requester::NameOf(LockId id) const {
  auto it = locks_.find(id);
  return it == locks_.end() ? nullptr : &it->second.name;
}

std::vector<std::pair<LockId, Mode>> Requester::GrantedLocks() const {
  std::vector<std::pair<LockId, Mode>> all;
  for (const auto& [id, lock] : locks_)
    if (Mode m = GrantedMode(id); m != Mode::kIV) all.emplace_back(id, m);
  std::sort(all.begin(), all.end());
  return all;
}

Result<uint64_t> Requester::Query(const ResourceName& name) {
  Op& op = NewOp(Kind::kQuery, name);
  uint64_t number = op.id;
  SendOp(op);
  return number;
}

Message Requester::MakeMessage(const Op& op) const {
  Message m(op.kind, op.name);
  m.asker = c_.self;
  m.op = op.id;
  m.lock = op.lock;
  m.mode = op.mode;
  m.flags = op.flags;
  if (op.value) m.value = std::make_unique<ValueBlock>(*op.value);
  if (op.range) m.range = std::make_unique<RangeArgs>(*op.range);
  return m;
}

void Requester::SendOp(Op& op, bool to_directory) {
  if (!c_.running) {
    op.state = OpState::kUnsent;
    return;
  }
  op.state = OpState::kSent;
  op.ever_sent = true;
  Message m = MakeMessage(op);
  if (!IsByName(op.kind)) {
    MemberId to = locks_.find(op.lock)->second.master;
    return c_.Send(to, std::move(m));
  }
  if (!to_directory) {
    m.guessed = true;
    if (master_.Masters(op.name)) return c_.Send(c_.self, std::move(m));
    if (auto home = ranges_.find(op.name); home != ranges_.end() && home->second.master != MemberId{} &&
                                           home->second.master != c_.self && c_.IsMember(home->second.master))
      return c_.Send(MemberId(home->second.master), std::move(m));
    if (auto guess = guesses_.find(op.name); guess != guesses_.end()) return c_.Send(guess->second, std::move(m));
    m.guessed = false;
  }
  c_.Send(MemberId(c_.Directory(op.name)), std::move(m));
}

void Requester::LearnMaster(const ResourceName& name, const MemberId& master) {
  if (master == c_.self) return;
  if (guesses_.size() >= c_.knobs.guess_max) guesses_.clear();
  guesses_[name] = master;
}

std::optional<Message> Requester::Redirect(uint64_t id) {
  auto it = ops_.find(id);
  if (it == ops_.end() || !IsByName(it->second.kind)) return std::nullopt;
  return MakeMessage(it->second);
}

void Requester::HandleNotMaster(const MemberId& from, const Message& m) {
  if (auto guess = guesses_.find(m.name); guess != guesses_.end() && guess->second == from) guesses_.erase(guess);
  if (auto home = ranges_.find(m.name); home != ranges_.end() && home->second.master == from) home->second.master = {};
  auto it = ops_.find(m.op);
  if (it != ops_.end() && it->second.state == OpState::kSent) SendOp(it->second, true);
}

void Requester::HandleQueued(const MemberId& from, const Message& m) {
  auto it = ops_.find(m.op);
  if (it == ops_.end()) return;
  it->second.state = OpState::kQueued;
  it->second.master = from;
  if (IsByName(it->second.kind)) LearnMaster(m.name, from);
  if (it->second.cancel_wanted) TryCancel(m.op);
}

void Requester::HandleBlocking(const Message& m) {
  auto it = locks_.find(m.lock);
  if (it == locks_.end() || Compatible(it->second.granted, m.mode)) return;  // given up meanwhile
  ++c_.counters.blocking_received;
  Upcall up{Upcall::What::kBlocking};
  up.lock = m.lock;
  up.mode = m.mode;
  c_.upcalls.push_back(std::move(up));
}

void Requester::HandleAnswer(const MemberId& from, const Message& m) {
  auto it = ops_.find(m.op);
  if (it == ops_.end()) return;  // ended here: cancelled before it could be sent again
  Op& op = it->second;
  Errc status = m.status;
  if (op.kind == Kind::kRequest || op.kind == Kind::kConvert || op.kind == Kind::kUnlock) FinishLockOp(op, from, m);
  else status = FinishRangeOp(op, from, m);
  if (status == Errc::kCancelled) status = op.cancel_reason;
  if (from == c_.self) ++c_.counters.granted_locally;
  Finish(m.op, status, &m);
}

void Requester::FinishLockOp(Op& op, const MemberId& from, const Message& m) {
  auto it = locks_.find(op.lock);
  HF_CHECK(it != locks_.end(), "operation on a destroyed lock");
  Lock& lock = it->second;
  lock.op = 0;
  if (op.kind == Kind::kUnlock) return EndUnlock(op.lock);
  lock.granted = m.mode;
  if (op.kind == Kind::kRequest) LearnMaster(m.name, from);
  if (m.mode == Mode::kIV) return;
  lock.master = from;
  lock.reported = Generation(0);
  lock.under_recovery = m.under_recovery;
  if (m.under_recovery) recovery_locks_.insert(op.lock);
  bool down = op.kind == Kind::kConvert && IsDownConvert(op.before, op.mode);
  if (m.status != Errc::kOk || down) return;
  if (m.value) lock.value = std::make_unique<ValueBlock>(*m.value);
  else lock.value.reset();
}

void Requester::EndUnlock(LockId id) {
  Lock& lock = locks_.find(id)->second;
  lock.op = 0;
  lock.granted = Mode::kIV;
  lock.under_recovery = false;
  lock.reported = Generation(0);
  recovery_locks_.erase(id);
}

void Requester::Finish(uint64_t id, Errc status, const Message* answer) {
  auto it = ops_.find(id);
  if (it == ops_.end()) return;
  if (it->second.deadline.ns != 0) deadlines_.erase({it->second.deadline, id});
  switch (status) {
    case Errc::kWouldBlock: ++c_.counters.would_block; break;
    case Errc::kDeadlock: ++c_.counters.deadlocks; break;
    case Errc::kTimeout: ++c_.counters.timeouts; break;
    case Errc::kCancelled: case Errc::kInterrupted: ++c_.counters.cancelled; break;
    default: break;
  }
  Upcall up{Upcall::What::kDone};
  up.op = id;
  up.status = status;
  if (answer) {
    up.frozen = answer->under_recovery;
    if (answer->conflict) up.conflict = *answer->conflict;
  }
  c_.upcalls.push_back(std::move(up));
  ops_.erase(it);
}

void Requester::Cancel(LockId id) {
  auto it = locks_.find(id);
  if (it == locks_.end() || it->second.op == 0) return;
  Op& op = ops_.find(it->second.op)->second;
  op.cancel_wanted = true;
  TryCancel(op.id);
}

// Only the master decides; before anybody but us can know of the operation, we do.
void Requester::TryCancel(uint64_t id) {
  auto it = ops_.find(id);
  if (it == ops_.end()) return;
  Op& op = it->second;
  // What only gives something up never waits, and has already happened here.
  bool down = op.kind == Kind::kConvert && IsDownConvert(op.before, op.mode);
  if (down || op.gives_up || op.kind == Kind::kUnlock) {
    op.cancel_wanted = false;
    return;
  }
  if (op.state == OpState::kQueued) {
    if (!c_.running) return;  // sent again after the barrier
    Message m(Kind::kCancel, op.name);
    m.asker = c_.self;
    m.op = id;
    m.lock = op.lock;
    return c_.Send(MemberId(op.master), std::move(m));
  }
  bool nobody_knows = op.state == OpState::kUnsent && (!op.ever_sent || flushed_);
  if (!nobody_knows) return;
  if (op.kind == Kind::kRequest || op.kind == Kind::kConvert) {
    Lock& lock = locks_.find(op.lock)->second;
    if (lock.granted != op.before) return;  // between PR and CW: the conversion has to end
    lock.op = 0;
  }
  Finish(id, op.kind == Kind::kRangeSet ? Errc::kInterrupted : op.cancel_reason);
}

void Requester::Tick() {
  while (!deadlines_.empty() && deadlines_.begin()->first <= c_.now) {
    uint64_t id = deadlines_.begin()->second;
    deadlines_.erase(deadlines_.begin());
    auto it = ops_.find(id);
    if (it == ops_.end()) continue;
    it->second.deadline = {};
    it->second.cancel_wanted = true;
    it->second.cancel_reason = Errc::kTimeout;
    TryCancel(id);
  }
}

std::optional<Instant> Requester::NextDeadline() const {
  if (deadlines_.empty()) return std::nullopt;
  return deadlines_.begin()->first;
}

void Requester::DumpTo(LockSpaceDump& dump) const {
  dump.locks = locks_.size();
  for (const auto& [id, op] : ops_) {
    DumpWait w;
    w.name = op.name;
    w.since = c_.now - op.started;
    w.master = op.state == OpState::kQueued ? op.master : MemberId{};
    switch (op.kind) {
      case Kind::kRequest: w.what = "lock " + std::string(ModeName(op.mode)); break;
      case Kind::kConvert: w.what = "convert " + std::string(ModeName(op.before)) + "->" + std::string(ModeName(op.mode)); break;
      case Kind::kUnlock: w.what = "unlock"; break;
      case Kind::kQuery: w.what = "frozen?"; break;
      default:
        w.what = op.kind == Kind::kRangeTest ? "range test" : op.kind == Kind::kRangeDrop ? "range drop" : "range set";
        if (op.range) w.what += " " + std::to_string(op.range->start) + "-" + std::to_string(op.range->end);
    }
    dump.waits.push_back(std::move(w));
  }
}

}  // namespace holdfast::dlm
