// This member's range locks. It keeps a copy of its own ranges, never more than the master's table grants: what only gives
// up rights is taken from the copy when it is asked for, what gains rights is added when it is answered.
#include <algorithm>

#include "dlm/requester.h"

namespace holdfast::dlm {

Result<uint64_t> Requester::RangeSet(const ResourceName& name, const RangeArgs& range, uint64_t token) {
  if (range.start > range.end) return Errc::kInvalid;
  ++c_.counters.range_ops;
  Op& op = NewOp(Kind::kRangeSet, name);
  op.range = std::make_unique<RangeArgs>(range);
  op.token = token;
  if (auto home = ranges_.find(name); home != ranges_.end()) {
    bool only_less = range.type == RangeType::kUnlock ||
                     (range.type == RangeType::kShared && home->second.table.HoldsAll(c_.self, range));
    if (only_less) home->second.table.Apply(c_.self, range);
    op.gives_up = only_less;
  }
  uint64_t number = op.id;
  SendOp(op);
  return number;
}

Result<uint64_t> Requester::RangeTest(const ResourceName& name, const RangeArgs& range) {
  if (range.start > range.end) return Errc::kInvalid;
  ++c_.counters.range_ops;
  Op& op = NewOp(Kind::kRangeTest, name);
  op.range = std::make_unique<RangeArgs>(range);
  uint64_t number = op.id;
  SendOp(op);
  return number;
}

Result<uint64_t> Requester::RangeDrop(const ResourceName& name, const RangeArgs& what) {
  ++c_.counters.range_ops;
  Op& op = NewOp(Kind::kRangeDrop, name);
  uint64_t number = op.id;
  if (!HoldsRanges(name)) {
    Finish(number, Errc::kOk);
    return number;
  }
  op.range = std::make_unique<RangeArgs>(what);
  if (auto home = ranges_.find(name); home != ranges_.end()) home->second.table.Drop(c_.self, what);
  SendOp(op);
  return number;
}

bool Requester::HoldsRanges(const ResourceName& name) const {
  if (auto home = ranges_.find(name); home != ranges_.end() && !home->second.table.empty()) return true;
  return std::any_of(ops_.begin(), ops_.end(), [&](const auto& entry) {
    return entry.second.kind == Kind::kRangeSet && entry.second.name == name;
  });
}

const RangeTable* Requester::Ranges(const ResourceName& name) const {
  auto home = ranges_.find(name);
  return home == ranges_.end() ? nullptr : &home->second.table;
}

std::vector<ResourceName> Requester::RangeNames() const {
  std::vector<ResourceName> names;
  for (const auto& [name, home] : ranges_) names.push_back(name);
  return names;
}

void Requester::RangeCancel(uint64_t token) {
  if (token == 0) return;
  for (auto& [id, op] : ops_) {
    if (op.kind != Kind::kRangeSet || op.token != token || op.gives_up) continue;
    op.cancel_wanted = true;
    TryCancel(id);
    return;
  }
}

Errc Requester::FinishRangeOp(Op& op, const MemberId& from, const Message& m) {
  if (op.kind == Kind::kRangeTest || op.kind == Kind::kQuery) return m.status;
  if (op.kind == Kind::kRangeDrop) {
    if (auto home = ranges_.find(op.name); home != ranges_.end()) home->second.table.Drop(c_.self, *op.range);
    DropEmptyHome(op.name);
    return m.status;
  }
  LearnMaster(m.name, from);
  if (m.status != Errc::kOk) return m.status;
  RangeHome& home = ranges_[op.name];
  home.master = from;
  home.reported = Generation(0);
  RangeTable before = home.table;
  // What gave something up was applied when it was asked for; meanwhile its owner may have given up more.
  if (!op.gives_up) home.table.Apply(c_.self, *op.range);
  else if (op.range->type == RangeType::kShared) home.table.Soften(c_.self, *op.range);
  else home.table.Apply(c_.self, *op.range);
  bool undo = op.cancel_wanted && op.range->type != RangeType::kUnlock;
  if (undo) UndoLateRange(op, before);
  DropEmptyHome(op.name);
  return undo ? Errc::kInterrupted : Errc::kOk;
}

void Requester::DropEmptyHome(const ResourceName& name) {
  auto home = ranges_.find(name);
  if (home != ranges_.end() && home->second.table.empty()) ranges_.erase(home);
}

// The grant won the race against an interrupt: gives back what was gained, piece by piece.
void Requester::UndoLateRange(const Op& op, const RangeTable& before) {
  std::vector<RangeArgs> back;
  uint64_t next = op.range->start;
  auto give_back = [&](uint64_t start, uint64_t end, RangeType type) {
    RangeArgs piece = *op.range;
    piece.start = start;
    piece.end = end;
    piece.type = type;
    piece.wait = false;
    back.push_back(piece);
  };
  bool to_the_end = false;
  for (const HeldRange& h : before.held()) {
    if (h.space != op.range->space || h.owner != op.range->owner || h.end < next || h.start > op.range->end) continue;
    if (h.start > next) give_back(next, h.start - 1, RangeType::kUnlock);
    uint64_t end = std::min(h.end, op.range->end);
    if (h.type == RangeType::kShared && op.range->type == RangeType::kExclusive)
      give_back(std::max(h.start, op.range->start), end, RangeType::kShared);
    if (end == op.range->end) {
      to_the_end = true;
      break;
    }
    next = end + 1;
  }
  if (!to_the_end) give_back(next, op.range->end, RangeType::kUnlock);
  ResourceName name = op.name;
  for (const RangeArgs& piece : back) (void)RangeSet(name, piece, 0).ok();
}

}  // namespace holdfast::dlm
