// What a member does with its own locks and operations when the generation changes.
#include <algorithm>

#include "dlm/mutants.h"
#include "dlm/requester.h"

namespace holdfast::dlm {

void Requester::NewGeneration() {
  flushed_ = false;
  guesses_.clear();
  for (auto& [id, op] : ops_) {
    // Sent and not heard of: the answer may still come with the flush; else it is sent again after the barrier.
    if (op.state == OpState::kSent || (op.state == OpState::kQueued && !c_.IsMember(op.master))) op.state = OpState::kUnsent;
  }
}

// Does the master that we believe in still know our lock? A rebuild that was not completed there counts for nothing.
bool Requester::MasterStands(const MemberId& master, Generation reported,
                             const std::function<uint64_t(const MemberId&)>& rebuilt) const {
  return c_.IsMember(master) && (reported.v == 0 || rebuilt(master) >= reported.v);
}

void Requester::Report(const std::function<uint64_t(const MemberId&)>& rebuilt,
                       const std::function<void(const MemberId&, ReportEntry)>& emit) {
  flushed_ = true;
  reported_.clear();
  std::vector<LockId> orphans;
  for (auto& [id, lock] : locks_) {
    if (lock.granted == Mode::kIV) continue;
    if (MasterStands(lock.master, lock.reported, rebuilt)) lock.reported = Generation(0);
    else orphans.push_back(id);
  }
  std::sort(orphans.begin(), orphans.end());
  for (LockId id : orphans) {
    Lock& lock = locks_.find(id)->second;
    if (lock.op != 0 && ops_.find(lock.op)->second.kind == Kind::kUnlock) {
      // The dead master may have done it, forgotten the name and seen another become its master: there is nothing left.
      lock.master = {};
      continue;
    }
    lock.master = c_.Directory(lock.name);
    lock.reported = c_.view.generation;
    reported_.push_back(id);
    ReportEntry e;
    e.what = ReportEntry::What::kLock;
    e.name = lock.name;
    e.lock = id;
    e.granted = lock.granted;
    e.under_recovery = lock.under_recovery;
    if (lock.value) e.value = *lock.value;
    if (lock.op != 0) {
      const Op& op = ops_.find(lock.op)->second;
      if (MutantIs(Mutant::kReportsGranted)) e.granted = op.before;
    }
    emit(lock.master, std::move(e));
  }
  for (auto& [name, home] : ranges_) {
    if (MasterStands(home.master, home.reported, rebuilt)) {
      home.reported = Generation(0);
      continue;
    }
    home.master = c_.Directory(name);
    home.reported = c_.view.generation;
    ReportRanges(name, home, home.master, emit);
  }
}

// What we certainly still hold, once every operation under way that gives something up counts as done. A change to shared
// may already have been granted, and others let in: its exclusive parts are shared from now on, also here.
void Requester::ReportRanges(const ResourceName& name, RangeHome& home, const MemberId& to,
                             const std::function<void(const MemberId&, ReportEntry)>& emit) {
  for (const auto& [id, op] : ops_) {
    if (op.name != name) continue;
    if (op.kind == Kind::kRangeDrop && op.range) home.table.Drop(c_.self, *op.range);
    if (op.kind != Kind::kRangeSet) continue;
    if (op.range->type == RangeType::kUnlock) home.table.Apply(c_.self, *op.range);
    if (op.range->type == RangeType::kShared) home.table.Soften(c_.self, *op.range);
  }
  for (const HeldRange& h : home.table.held()) {
    ReportEntry e;
    e.what = ReportEntry::What::kRange;
    e.name = name;
    e.range = {h.space, h.owner, h.handle, h.pid, h.start, h.end, h.type, false, DropWhat::kOwner};
    emit(to, std::move(e));
  }
}

void Requester::Running() {
  for (LockId id : reported_)
    if (auto it = locks_.find(id); it != locks_.end()) it->second.reported = Generation(0);
  reported_.clear();
  for (auto& [name, home] : ranges_) home.reported = Generation(0);
  std::vector<uint64_t> again, cancels;
  for (auto& [id, op] : ops_) {
    if (op.state == OpState::kUnsent) again.push_back(id);
    else if (op.cancel_wanted) cancels.push_back(id);
  }
  for (uint64_t id : again) {
    auto it = ops_.find(id);
    if (it == ops_.end()) continue;
    if (it->second.cancel_wanted) TryCancel(id);
    it = ops_.find(id);
    if (it == ops_.end()) continue;
    const Op& op = it->second;
    if (op.kind == Kind::kUnlock && locks_.find(op.lock)->second.master == MemberId{}) {
      EndUnlock(op.lock);
      Finish(id, Errc::kOk);
      continue;
    }
    if (op.ever_sent) ++c_.counters.resent;
    SendOp(it->second);
  }
  for (uint64_t id : cancels) TryCancel(id);
}

void Requester::GatesOpened() {
  for (LockId id : recovery_locks_)
    if (auto it = locks_.find(id); it != locks_.end()) it->second.under_recovery = false;
  recovery_locks_.clear();
}

void Requester::FailAll(Errc status) {
  std::vector<uint64_t> all;
  for (auto& [id, op] : ops_) all.push_back(id);
  for (uint64_t id : all) Finish(id, status);
  for (auto& [id, lock] : locks_) {
    lock.op = 0;
    lock.granted = Mode::kIV;
  }
  ranges_.clear();
}

}  // namespace holdfast::dlm
