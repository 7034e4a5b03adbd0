#include "dlm/resource.h"

#include <algorithm>

#include "dlm/mutants.h"

namespace holdfast::dlm {

bool Resource::HasWaiters() const {
  if (ranges && !ranges->waiting.empty()) return true;
  return std::any_of(locks.begin(), locks.end(), [](const MasterLock& l) { return l.waits(); });
}

MasterLock* Resource::Find(const MemberId& owner, LockId id) {
  for (MasterLock& l : locks)
    if (l.id == id && l.owner == owner) return &l;
  return nullptr;
}

void Resource::Erase(const MemberId& owner, LockId id) {
  std::erase_if(locks, [&](const MasterLock& l) { return l.id == id && l.owner == owner; });
}

bool Resource::FitsGranted(const MasterLock& lock) const {
  for (const MasterLock& other : locks)
    if (&other != &lock && !Compatible(other.granted, lock.requested)) return false;
  return true;
}

bool Resource::MayGrant(size_t index) const {
  const MasterLock& lock = locks[index];
  if (!FitsGranted(lock)) return false;
  if (Has(lock.flags, Flags::kRecovery)) return true;
  if (lock.requested == Mode::kNL && Has(lock.flags, Flags::kExpedite)) return true;
  if (lock.converts()) {
    if (!Has(lock.flags, Flags::kQueCvt)) return true;
    for (size_t i = 0; i < index; ++i)
      if (locks[i].converts()) return false;
    return true;
  }
  // A first request: after all conversions and after everybody who came before.
  for (size_t i = 0; i < locks.size(); ++i) {
    if (i == index || !locks[i].waits()) continue;
    if (locks[i].converts() || i < index) return false;
  }
  return true;
}

bool Resource::ConversionDeadlock(size_t index) const {
  // Edges: x waits for y if y's granted mode excludes x's wish, or if x queues (QUECVT) behind y. A way from `index` back
  // to itself over conversions alone never ends by itself.
  auto waits_for = [&](size_t x, size_t y) {
    if (x == y || !locks[y].converts()) return false;
    if (!Compatible(locks[y].granted, locks[x].requested)) return true;
    return Has(locks[x].flags, Flags::kQueCvt) && y < x;
  };
  std::vector<bool> seen(locks.size(), false);
  std::vector<size_t> todo{index};
  while (!todo.empty()) {
    size_t x = todo.back();
    todo.pop_back();
    for (size_t y = 0; y < locks.size(); ++y) {
      if (!waits_for(x, y)) continue;
      if (waits_for(y, index)) return true;
      if (!seen[y]) {
        seen[y] = true;
        todo.push_back(y);
      }
    }
  }
  return false;
}

void Resource::MoveToEnd(size_t index) {
  std::rotate(locks.begin() + static_cast<ptrdiff_t>(index), locks.begin() + static_cast<ptrdiff_t>(index) + 1, locks.end());
}

void Resource::WriteValue(const ValueBlock& written) {
  if (!value) value = std::make_unique<ValueBlock>();
  if (written.number > value->number) *value = written;
}

bool FrozenNow(const Context& c, const Resource& r) { return c.replayed.Holds(r.frozen_epoch); }
bool ReadersGatedNow(const Context& c, const Resource& r) {
  return c.readers.Holds(r.readers_epoch) && !MutantIs(Mutant::kIgnoresSecondGate);
}

bool GatesAllow(const Context& c, const Resource& r, Mode mode, Flags flags) {
  if (Has(flags, Flags::kRecovery)) return true;
  if (FrozenNow(c, r)) return false;
  return !ReadersGatedNow(c, r) || Compatible(mode, Mode::kPR);
}

}  // namespace holdfast::dlm
