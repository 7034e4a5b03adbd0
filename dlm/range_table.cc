#include "dlm/range_table.h"

#include <algorithm>

namespace holdfast::dlm {
namespace {

bool SameOwner(const HeldRange& h, const MemberId& member, const RangeArgs& r) {
  return h.member == member && h.space == r.space && h.owner == r.owner;
}
bool Overlap(const HeldRange& h, const RangeArgs& r) { return h.start <= r.end && r.start <= h.end; }
bool Before(const HeldRange& a, const HeldRange& b) {
  return std::tie(a.start, a.member, a.space, a.owner) < std::tie(b.start, b.member, b.space, b.owner);
}
bool Mergeable(const HeldRange& a, const HeldRange& b) {
  return a.member == b.member && a.space == b.space && a.owner == b.owner && a.handle == b.handle && a.pid == b.pid &&
         a.type == b.type;
}

}  // namespace

void RangeTable::Insert(HeldRange range) {
  // Join with neighbours of the same owner, type and handle.
  for (size_t i = 0; i < held_.size();) {
    HeldRange& h = held_[i];
    bool touches = Mergeable(h, range) && ((h.end != UINT64_MAX && h.end + 1 == range.start) ||
                                           (range.end != UINT64_MAX && range.end + 1 == h.start));
    if (!touches) {
      ++i;
      continue;
    }
    range.start = std::min(range.start, h.start);
    range.end = std::max(range.end, h.end);
    held_.erase(held_.begin() + static_cast<ptrdiff_t>(i));
    i = 0;
  }
  held_.insert(std::lower_bound(held_.begin(), held_.end(), range, Before), range);
}

void RangeTable::Apply(const MemberId& member, const RangeArgs& r) {
  std::vector<HeldRange> pieces;  // what is left of entries that are cut
  for (size_t i = 0; i < held_.size();) {
    HeldRange h = held_[i];
    if (!SameOwner(h, member, r) || !Overlap(h, r)) {
      ++i;
      continue;
    }
    held_.erase(held_.begin() + static_cast<ptrdiff_t>(i));
    if (h.start < r.start) {
      HeldRange left = h;
      left.end = r.start - 1;
      pieces.push_back(left);
    }
    if (h.end > r.end) {
      HeldRange right = h;
      right.start = r.end + 1;
      pieces.push_back(right);
    }
  }
  for (HeldRange& p : pieces) Insert(p);
  if (r.type != RangeType::kUnlock)
    Insert({member, r.space, r.owner, r.handle, r.pid, r.start, r.end, r.type});
}

std::optional<HeldRange> RangeTable::FindConflict(const MemberId& member, const RangeArgs& r) const {
  if (r.type == RangeType::kUnlock) return std::nullopt;
  for (const HeldRange& h : held_) {
    if (h.space != r.space || !Overlap(h, r) || SameOwner(h, member, r)) continue;
    if (h.type == RangeType::kExclusive || r.type == RangeType::kExclusive) return h;
  }
  return std::nullopt;
}

bool RangeTable::HoldsAll(const MemberId& member, const RangeArgs& r) const {
  uint64_t next = r.start;
  for (const HeldRange& h : held_) {
    if (!SameOwner(h, member, r) || h.end < next) continue;
    if (h.start > next) return false;
    if (h.end >= r.end) return true;
    next = h.end + 1;
  }
  return false;
}

void RangeTable::Soften(const MemberId& member, const RangeArgs& r) {
  std::vector<RangeArgs> shared;
  for (const HeldRange& h : held_) {
    if (h.type != RangeType::kExclusive || !SameOwner(h, member, r) || !Overlap(h, r)) continue;
    RangeArgs piece{h.space, h.owner, h.handle, h.pid, std::max(h.start, r.start), std::min(h.end, r.end)};
    piece.type = RangeType::kShared;
    shared.push_back(piece);
  }
  for (const RangeArgs& piece : shared) Apply(member, piece);
}

bool DropMatches(const RangeArgs& what, RangeSpace space, const RangeOwner& owner, uint64_t handle) {
  if (what.drop == DropWhat::kHandle) return handle == what.handle;
  return space == what.space && owner == what.owner;
}

void RangeTable::Drop(const MemberId& member, const RangeArgs& what) {
  std::erase_if(held_, [&](const HeldRange& h) {
    return h.member == member && DropMatches(what, h.space, h.owner, h.handle);
  });
}

void RangeTable::DropMember(const MemberId& member) {
  std::erase_if(held_, [&](const HeldRange& h) { return h.member == member; });
}

}  // namespace holdfast::dlm
