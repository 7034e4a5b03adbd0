#include "tests/dlm/lock_checker.h"

namespace holdfast::dlm {
namespace {
std::string Say(const MemberId& m, Mode mode) { return ToString(m) + " " + std::string(ModeName(mode)); }
}  // namespace

void LockChecker::Granted(const MemberId& life, LockId lock, const ResourceName& name, Mode mode, Generation asked_in) {
  if (Fenced(life)) return;
  for (const auto& [who, held] : held_[name]) {
    const auto& [other, other_lock] = who;
    if (other == life && other_lock == lock) continue;
    const Victim* victim = register_->FindVictim(other);
    bool buried = !victim && !register_->IsMember(other);
    if (buried) continue;
    if (!victim || !victim->fenced) {
      if (!Compatible(held, mode))
        Fail("I3: " + name.ToString() + ": " + Say(life, mode) + " granted while " + Say(other, held) +
             (victim ? " (not fenced)" : ""));
      continue;
    }
    // Both may have been granted by a master that did not know of the failure yet.
    if (Compatible(held, mode) && asked_in < evicted_in_[other]) continue;
    if (!victim->replayed && MayWrite(held))
      Fail("freeze: " + name.ToString() + ": " + Say(life, mode) + " granted, dead " + Say(other, held) + " not replayed");
    if (!victim->readers_ended && MayCacheReads(held) && !Compatible(mode, Mode::kPR))
      Fail("readers: " + name.ToString() + ": " + Say(life, mode) + " granted, " + Say(other, held) + " may still read");
  }
}

void LockChecker::ValueRead(const MemberId& life, const ResourceName& name, Mode mode, const ValueBlock& value) {
  if (Fenced(life) || !KeepsValue(mode) || !value.valid) return;
  uint64_t got = PayloadOf(value.bytes), want = latest_[name];
  if (got != want)
    Fail("value: " + name.ToString() + ": read " + std::to_string(got) + ", last written " + std::to_string(want));
}

void LockChecker::RangesOf(const MemberId& life, const ResourceName& name, const RangeTable* table) {
  if (Fenced(life)) return;
  auto& lives = ranges_[name];
  if (!table || table->empty()) lives.erase(life);
  else lives[life] = table->held();
}

void LockChecker::CheckRanges(const ResourceName& name) {
  std::vector<HeldRange> all;
  for (const auto& [life, held] : ranges_[name]) {
    const Victim* victim = register_->FindVictim(life);
    if (victim ? victim->replayed : !register_->IsMember(life)) continue;
    all.insert(all.end(), held.begin(), held.end());
  }
  for (size_t i = 0; i < all.size(); ++i)
    for (size_t j = i + 1; j < all.size(); ++j) {
      const HeldRange &a = all[i], &b = all[j];
      bool same = a.member == b.member && a.owner == b.owner;
      bool overlap = a.start <= b.end && b.start <= a.end;
      bool exclusive = a.type == RangeType::kExclusive || b.type == RangeType::kExclusive;
      if (!same && overlap && exclusive && a.space == b.space)
        Fail("ranges: " + name.ToString() + ": " + ToString(a.member) + " owner " + std::to_string(a.owner.key) + " and " +
             ToString(b.member) + " owner " + std::to_string(b.owner.key) + " at " + std::to_string(std::max(a.start, b.start)));
    }
}

void LockChecker::HoldsNothing(const MemberId& life) {
  for (auto& [name, holders] : held_) std::erase_if(holders, [&](const auto& h) { return h.first.first == life; });
  for (auto& [name, lives] : ranges_) lives.erase(life);
}

bool LockChecker::VictimMayHaveWritten(const MemberId& victim, const ResourceName& name) const {
  auto it = held_.find(name);
  if (it == held_.end()) return false;
  for (const auto& [who, mode] : it->second)
    if (who.first == victim && MayWrite(mode)) return true;
  return false;
}

std::vector<ResourceName> LockChecker::NamesHeldBy(const MemberId& life) const {
  std::vector<ResourceName> names;
  for (const auto& [name, holders] : held_)
    for (const auto& [who, mode] : holders)
      if (who.first == life && (names.empty() || names.back() != name)) names.push_back(name);
  return names;
}

}  // namespace holdfast::dlm
