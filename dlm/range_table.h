// RangeTable: byte ranges held on one resource, with POSIX splitting and merging. The master keeps one with everybody's
// ranges, each member one with its own (what it reports after a failure).
// INVARIANT: two entries of one (member, space, owner) never overlap; entries are ordered by start, then by owner.
#pragma once

#include <optional>
#include <vector>

#include "dlm/message.h"

namespace holdfast::dlm {

struct HeldRange {
  MemberId member;
  RangeSpace space = RangeSpace::kFcntl;
  RangeOwner owner;
  uint64_t handle = 0;
  uint32_t pid = 0;
  uint64_t start = 0;
  uint64_t end = 0;  // inclusive
  RangeType type = RangeType::kShared;
  auto operator<=>(const HeldRange&) const = default;
};

class RangeTable {
 public:
  const std::vector<HeldRange>& held() const { return held_; }
  bool empty() const { return held_.empty(); }

  // Sets, changes or (kUnlock) removes the range of one owner. Never looks at conflicts.
  void Apply(const MemberId& member, const RangeArgs& range);
  // The first (lowest) range of somebody else that excludes this one.
  std::optional<HeldRange> FindConflict(const MemberId& member, const RangeArgs& range) const;
  // Is the whole range held by this owner (in whatever type)? Then setting kShared on it only gives up rights.
  bool HoldsAll(const MemberId& member, const RangeArgs& range) const;
  // What this owner holds exclusively within the range becomes shared.
  void Soften(const MemberId& member, const RangeArgs& range);
  void Drop(const MemberId& member, const RangeArgs& what);  // by what.drop
  void DropMember(const MemberId& member);

 private:
  void Insert(HeldRange range);
  std::vector<HeldRange> held_;
};

// Does kRangeDrop with these arguments mean that range?
bool DropMatches(const RangeArgs& what, RangeSpace space, const RangeOwner& owner, uint64_t handle);

}  // namespace holdfast::dlm
