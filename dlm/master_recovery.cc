// What happens to mastered resources when members change, when gates open, and when nobody uses them any more.
#include <algorithm>

#include "dlm/master.h"
#include "dlm/mutants.h"

namespace holdfast::dlm {

void Master::Purge() {
  std::vector<ResourceName> changed;
  for (auto& [name, r] : resources_) {
    r.forwards = 0;
    bool dead = std::any_of(r.locks.begin(), r.locks.end(), [&](const MasterLock& l) { return !c_.IsMember(l.owner); });
    if (r.ranges) dead = true;
    if (dead) changed.push_back(name);
  }
  std::sort(changed.begin(), changed.end());
  for (const ResourceName& name : changed) {
    Resource& r = resources_.find(name)->second;
    for (const MasterLock& l : r.locks) {
      if (c_.IsMember(l.owner)) continue;
      const Victim* victim = c_.FindVictim(l.owner);
      if (victim && !victim->replayed && MayWrite(l.granted)) r.frozen_epoch = c_.replayed.epoch;
      if (victim && !victim->readers_ended && MayCacheReads(l.granted)) r.readers_epoch = c_.readers.epoch;
      if (WritesValue(l.granted) && r.value) r.value->valid = false;  // it died with its last writer
    }
    std::erase_if(r.locks, [&](const MasterLock& l) { return !c_.IsMember(l.owner); });
    if (r.ranges) {
      std::erase_if(r.ranges->waiting, [&](const RangeWaiter& w) { return !c_.IsMember(w.member); });
      std::vector<MemberId> gone;
      for (const HeldRange& h : r.ranges->table.held()) {
        if (c_.IsMember(h.member)) continue;
        const Victim* victim = c_.FindVictim(h.member);
        if (victim && !victim->replayed) dead_ranges_.insert(name);
        else gone.push_back(h.member);
      }
      for (const MemberId& m : gone) r.ranges->table.DropMember(m);
    }
    if (r.HasWaiters()) contended_.insert(name);
    NoteDisuse(r);
  }
}

void Master::NoteDisuse(Resource& r) {
  if (!r.Unused() || r.removing) return;
  r.unused_since = c_.now;
  if (!std::exchange(r.listed_unused, true)) unused_.emplace_back(c_.now, r.name);
}

// A REMOVE that has no answer after the flush: its directory may have died after it made somebody else master. Nobody
// uses the resource, so we are not its master any more.
void Master::DropRemoving() {
  for (const ResourceName& name : removing_) {
    auto it = resources_.find(name);
    if (it != resources_.end() && it->second.removing) resources_.erase(it);
  }
  removing_.clear();
}

Resource& Master::Adopt(const ResourceName& name, uint64_t term) {
  auto [it, fresh] = resources_.try_emplace(name);
  if (!fresh) c_.Broken("%s was reported although its master lives", name.ToString().c_str());
  Resource& r = it->second;
  r.name = name;
  r.term = term;
  FreezeNew(r);
  contended_.insert(name);  // looked at once after the barrier
  return r;
}

std::vector<std::pair<ResourceName, uint64_t>> Master::Mastered() const {
  std::vector<std::pair<ResourceName, uint64_t>> all;
  all.reserve(resources_.size());
  for (const auto& [name, r] : resources_) all.emplace_back(name, r.term);
  std::sort(all.begin(), all.end());
  return all;
}

void Master::PumpAll() {
  std::vector<ResourceName> names(contended_.begin(), contended_.end());
  for (const ResourceName& name : names) {
    auto it = resources_.find(name);
    if (it == resources_.end()) contended_.erase(name);
    else Settle(it->second);
  }
}

void Master::GateOpened() {
  if (!c_.replayed.closed) {
    for (const ResourceName& name : dead_ranges_) {
      auto it = resources_.find(name);
      if (it == resources_.end() || !it->second.ranges) continue;
      std::vector<MemberId> gone;
      for (const HeldRange& h : it->second.ranges->table.held())
        if (!c_.IsMember(h.member)) gone.push_back(h.member);
      for (const MemberId& m : gone) it->second.ranges->table.DropMember(m);
      contended_.insert(name);
    }
    dead_ranges_.clear();
  }
  if (c_.running) PumpAll();
}

void Master::Clear() {
  resources_.clear();
  contended_.clear();
  dead_ranges_.clear();
  unused_.clear();
  removing_.clear();
}

std::optional<Instant> Master::NextDeadline() const {
  if (unused_.empty() || !c_.running || c_.replayed.closed) return std::nullopt;
  return unused_.front().first + c_.knobs.idle_ttl;
}

// While a journal is owed nothing is forgotten: a name that is open must not come back as an unknown, frozen one.
void Master::Tick() {
  if (!c_.running || c_.replayed.closed) return;
  while (!unused_.empty()) {
    bool too_many = unused_.size() > c_.knobs.idle_max;
    if (unused_.front().first + c_.knobs.idle_ttl > c_.now && !too_many) return;
    ResourceName name = std::move(unused_.front().second);
    unused_.pop_front();
    auto it = resources_.find(name);
    if (it == resources_.end()) continue;
    Resource& r = it->second;
    r.listed_unused = false;
    if (!r.Unused() || r.removing) continue;
    if (r.unused_since + c_.knobs.idle_ttl > c_.now && !too_many) {  // used again since it was listed
      r.listed_unused = true;
      unused_.emplace_back(r.unused_since, std::move(name));
      continue;
    }
    r.removing = true;
    removing_.insert(name);
    Message m(Kind::kRemove, name);
    m.term = r.term;
    m.count = r.forwards;
    c_.Send(c_.Directory(name), std::move(m));
  }
}

void Master::HandleRemoveOk(const Message& m) {
  auto it = resources_.find(m.name);
  if (it == resources_.end() || !it->second.removing || it->second.term != m.term) return;
  contended_.erase(m.name);
  removing_.erase(m.name);
  resources_.erase(it);
}

bool Master::FrozenHere(const ResourceName& name) const {
  auto it = resources_.find(name);
  return it != resources_.end() && FrozenNow(c_, it->second);
}

void Master::DumpTo(LockSpaceDump& dump) const {
  for (const auto& [name, r] : resources_) {
    DumpResource d;
    d.name = name;
    d.frozen = FrozenNow(c_, r);
    d.readers_gated = ReadersGatedNow(c_, r);
    if (r.value) {
      d.value_number = r.value->number;
      d.value_valid = r.value->valid;
    }
    for (const MasterLock& l : r.locks) {
      DumpLock lock{l.owner, l.id, l.granted, l.requested, l.waits() ? c_.now - l.queued_at : Duration{}};
      (l.converts() ? d.converting : l.waits() ? d.waiting : d.granted).push_back(lock);
    }
    if (r.ranges) {
      for (const HeldRange& h : r.ranges->table.held())
        d.ranges.push_back({h.member, h.space, h.owner, h.pid, h.start, h.end, h.type, true});
      for (const RangeWaiter& w : r.ranges->waiting)
        d.ranges.push_back({w.member, w.range.space, w.range.owner, w.range.pid, w.range.start, w.range.end, w.range.type, false});
    }
    dump.resources.push_back(std::move(d));
  }
  std::sort(dump.resources.begin(), dump.resources.end(),
            [](const DumpResource& a, const DumpResource& b) { return a.name < b.name; });
}

}  // namespace holdfast::dlm
