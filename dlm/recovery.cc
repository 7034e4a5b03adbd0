#include "dlm/recovery.h"

#include <algorithm>

#include "base/log.h"
#include "dlm/mutants.h"

namespace holdfast::dlm {

void Recovery::Start() {
  state_ = State::kFence;
  started_ = c_.now;
  synced_.clear();
  ended_.clear();
  ready_.clear();
  staged_.clear();
  mastered_.clear();
  directory_.Clear();
  synced_[c_.self] = rebuilt_;
  c_.SendToOthers(Kind::kSync, rebuilt_);
}

bool Recovery::HaveAll(const std::set<MemberId>& from) const {
  return std::all_of(c_.view.members.begin(), c_.view.members.end(),
                     [&](const Member& m) { return from.contains(m.id); });
}

void Recovery::Handle(const MemberId& from, Message m) {
  switch (m.kind) {
    case Kind::kSync: synced_[from] = m.count; break;
    case Kind::kReport:
      for (ReportEntry& e : m.report) staged_[e.name].emplace_back(from, std::move(e));
      if (!m.mastered.empty()) mastered_.emplace_back(from, std::move(m.mastered));
      break;
    case Kind::kReportEnd: ended_.insert(from); break;
    case Kind::kReady: ready_.insert(from); break;
    default: break;
  }
}

bool Recovery::Advance() {
  if (state_ == State::kFence) {
    bool fenced = std::all_of(c_.view.victims.begin(), c_.view.victims.end(), [](const Victim& v) { return v.fenced; });
    if (!fenced && !MutantIs(Mutant::kGrantsBeforeFenced)) return false;
    state_ = State::kFlush;
  }
  if (state_ == State::kFlush) {
    for (const Member& m : c_.view.members)
      if (!synced_.contains(m.id)) return false;
    state_ = State::kReport;
    SendReports();
  }
  if (state_ == State::kReport) {
    if (!HaveAll(ended_)) return false;
    Rebuild();
    state_ = State::kBarrier;
    ready_.insert(c_.self);
    c_.SendToOthers(Kind::kReady);
  }
  if (state_ == State::kBarrier) {
    if (!HaveAll(ready_)) return false;
    state_ = State::kRunning;
    c_.running = true;
    ++c_.counters.recoveries;
    c_.counters.last_recovery_ns = static_cast<uint64_t>((c_.now - started_).ns);
    return true;
  }
  return false;
}

// Locks and ranges whose master is gone go to the directory of their name, which becomes their master; names mastered
// here go to their directory. Entries for ourselves are staged like anybody's.
void Recovery::SendReports() {
  std::map<MemberId, Message> batches;
  auto flush = [&](const MemberId& to) {
    auto it = batches.find(to);
    if (it == batches.end()) return;
    Message m = std::move(it->second);
    batches.erase(it);
    m.kind = Kind::kReport;
    if (to == c_.self) Handle(c_.self, std::move(m));
    else c_.Send(to, std::move(m));
  };
  auto flush_if_full = [&](const MemberId& to, const Message& batch) {
    if (batch.report.size() + batch.mastered.size() >= c_.knobs.report_batch) flush(to);
  };
  auto emit = [&](const MemberId& to, ReportEntry e) {
    Message& batch = batches[to];
    batch.report.push_back(std::move(e));
    flush_if_full(to, batch);
  };
  auto rebuilt = [&](const MemberId& m) {
    auto it = synced_.find(m);
    return it == synced_.end() ? 0 : it->second;
  };
  master_.DropRemoving();
  for (auto& [name, term] : master_.Mastered()) {
    const MemberId& to = c_.Directory(name);
    Message& batch = batches[to];
    batch.mastered.push_back({std::move(name), term});
    flush_if_full(to, batch);
  }
  requester_.Report(rebuilt, emit);
  for (const Member& m : c_.view.members) flush(m.id);
  ended_.insert(c_.self);
  c_.SendToOthers(Kind::kReportEnd);
}

void Recovery::Rebuild() {
  size_t names = 0;
  for (auto& [from, entries] : mastered_) names += entries.size();
  directory_.Reserve(names + staged_.size());
  for (auto& [from, entries] : mastered_)
    for (MasteredEntry& e : entries) directory_.Record(e.name, from, e.term);
  for (auto& [name, entries] : staged_) RebuildResource(name, entries);
  mastered_.clear();
  staged_.clear();
  rebuilt_ = c_.view.generation.v;
}

void Recovery::RebuildResource(const ResourceName& name, const std::vector<std::pair<MemberId, ReportEntry>>& entries) {
  uint64_t term = directory_.NextTerm();
  directory_.Record(name, c_.self, term);
  Resource& r = master_.Adopt(name, term);  // held by the gates, as any name that was not known
  for (const auto& [from, e] : entries) {
    if (e.what != ReportEntry::What::kLock) continue;
    MasterLock lock;
    lock.owner = from;
    lock.id = e.lock;
    lock.granted = e.granted;
    lock.under_recovery = e.under_recovery;
    for (const MasterLock& other : r.locks)
      if (!Compatible(other.granted, lock.granted))
        c_.Broken("%s: %s reports %s, %s reports %s", name.ToString().c_str(), ToString(other.owner).c_str(),
                  ModeName(other.granted).data(), ToString(from).c_str(), ModeName(lock.granted).data());
    r.locks.push_back(lock);
    if (e.under_recovery && !MutantIs(Mutant::kRecoveryGrantProves)) continue;
    if (ProvesNoWriter(e.granted)) r.frozen_epoch = 0;
    if (!Compatible(e.granted, Mode::kPR)) r.readers_epoch = 0;
  }
  RebuildValue(r, entries);
  RebuildRanges(r, entries);
}

// Kept if a survivor holds CW or more with a copy; the highest number wins. Else not valid: also a write that has no answer
// yet may have been granted, and overwritten by the dead.
void Recovery::RebuildValue(Resource& r, const std::vector<std::pair<MemberId, ReportEntry>>& entries) {
  const ValueBlock* best = nullptr;
  uint64_t highest = 0;
  for (const auto& [from, e] : entries) {
    if (!e.value) continue;
    highest = std::max(highest, e.value->number);
    bool counts = KeepsValue(e.granted) || MutantIs(Mutant::kKeepsValueUnderCr);
    if (counts && e.value->valid && (!best || e.value->number > best->number)) best = &*e.value;
  }
  if (best) {
    r.value = std::make_unique<ValueBlock>(*best);
  } else if (highest != 0) {
    r.value = std::make_unique<ValueBlock>();
    r.value->number = highest;
  }
}

void Recovery::RebuildRanges(Resource& r, const std::vector<std::pair<MemberId, ReportEntry>>& entries) {
  for (const auto& [from, e] : entries) {
    if (e.what != ReportEntry::What::kRange) continue;
    if (!r.ranges) r.ranges = std::make_unique<RangeQueue>();
    if (r.ranges->table.FindConflict(from, e.range))
      c_.Broken("%s: ranges reported by %s conflict", r.name.ToString().c_str(), ToString(from).c_str());
    r.ranges->table.Apply(from, e.range);
  }
}

std::string Recovery::Describe() const {
  static constexpr const char* kNames[] = {"no view yet", "waiting for fencing", "waiting for sync", "waiting for reports",
                                           "waiting at the barrier", "running"};
  std::string text = kNames[static_cast<int>(state_)];
  auto missing = [&](auto&& has) {
    for (const Member& m : c_.view.members)
      if (!has(m.id)) text += " " + ToString(m.id);
  };
  switch (state_) {
    case State::kFence:
      for (const Victim& v : c_.view.victims)
        if (!v.fenced) text += " " + ToString(v.id);
      break;
    case State::kFlush: missing([&](const MemberId& m) { return synced_.contains(m); }); break;
    case State::kReport: missing([&](const MemberId& m) { return ended_.contains(m); }); break;
    case State::kBarrier: missing([&](const MemberId& m) { return ready_.contains(m); }); break;
    default: break;
  }
  return text;
}

}  // namespace holdfast::dlm
