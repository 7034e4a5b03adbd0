// What must never happen, watched from outside: the checker sees what every member believes to hold (its own side of each
// lock), never the masters' tables.
//   I3      no two lives that may still act hold incompatible modes; no two hold conflicting ranges
//   freeze  nothing that a dead CW, PW or EX holder held is granted before its journal is replayed (RECOVERY excepted)
//   readers nothing incompatible with PR is granted on what a victim held in PR or more before its readers have ended
//   value   a value block that is valid under CW or more is the last one written
#pragma once

#include <cstring>
#include <map>
#include <string>

#include "dlm/range_table.h"
#include "dlm/types.h"
#include "tests/dlm/sim_register.h"

namespace holdfast::dlm {

class LockChecker {
 public:
  explicit LockChecker(const SimRegister* reg) : register_(reg) {}

  bool failed() const { return !failure_.empty(); }
  const std::string& failure() const { return failure_; }
  void Fail(const std::string& what) {
    if (failure_.empty()) failure_ = what;
  }

  // What a life believes; called after every change. kIV removes.
  void Believes(const MemberId& life, LockId lock, const ResourceName& name, Mode mode) {
    if (Fenced(life)) return;  // what a fenced life does no longer counts; what it held then is owed
    auto& holders = held_[name];
    if (mode == Mode::kIV) holders.erase({life, lock});
    else holders[{life, lock}] = mode;
  }
  void EvictedIn(const MemberId& victim, Generation generation) { evicted_in_[victim] = generation; }
  // A grant (upwards or first) just arrived at `life`, for what it asked in that generation.
  void Granted(const MemberId& life, LockId lock, const ResourceName& name, Mode mode, Generation asked_in);
  void ValueRead(const MemberId& life, const ResourceName& name, Mode mode, const ValueBlock& value);
  void ValueWritten(const MemberId& life, const ResourceName& name, uint64_t payload) {
    if (!Fenced(life)) latest_[name] = payload;
  }
  static uint64_t PayloadOf(const ValueBytes& bytes) {
    uint64_t payload;
    memcpy(&payload, bytes.data(), sizeof payload);
    return payload;
  }

  void RangesOf(const MemberId& life, const ResourceName& name, const RangeTable* table);
  void CheckRanges(const ResourceName& name);

  // A life is over for good: fenced (what it holds is now only owed), withdrawn or left (it holds nothing).
  void HoldsNothing(const MemberId& life);
  // Did that victim hold it in a mode that may write?
  bool VictimMayHaveWritten(const MemberId& victim, const ResourceName& name) const;
  std::vector<ResourceName> NamesHeldBy(const MemberId& life) const;

 private:
  bool Fenced(const MemberId& life) const {
    const Victim* victim = register_->FindVictim(life);
    return victim ? victim->fenced : !register_->IsMember(life);
  }
  const SimRegister* register_;
  std::string failure_;
  std::map<ResourceName, std::map<std::pair<MemberId, LockId>, Mode>> held_;
  std::map<ResourceName, std::map<MemberId, std::vector<HeldRange>>> ranges_;
  std::map<ResourceName, uint64_t> latest_;
  std::map<MemberId, Generation> evicted_in_;
};

}  // namespace holdfast::dlm
