// Range locks at their master: set, test, drop, and the queue of those who wait, first come, first served.
#include <algorithm>

#include "dlm/master.h"

namespace holdfast::dlm {

// A dead member's ranges on a rebuilt or new name are not known: nothing is set until its journal is replayed.
bool Master::RangesHeldBack(const Resource& r) const { return c_.replayed.Holds(r.ranges_epoch); }

void Master::RangeSet(Resource& r, Message& m) {
  if (!r.ranges) r.ranges = std::make_unique<RangeQueue>();
  RangeTable& table = r.ranges->table;
  const RangeArgs& range = *m.range;
  bool unlock = range.type == RangeType::kUnlock;
  bool held_back = RangesHeldBack(r) && !unlock;
  if (!held_back && !table.FindConflict(m.asker, range)) {
    table.Apply(m.asker, range);
    Answer(r, m.asker, m.op, {}, Errc::kOk);
  } else if (!range.wait && !held_back) {
    Answer(r, m.asker, m.op, {}, Errc::kWouldBlock);
  } else {
    r.ranges->waiting.push_back({m.asker, m.op, c_.now, range});
    Queued(r, m.asker, m.op);
  }
  Settle(r);
}

void Master::RangeTest(Resource& r, const Message& m) {
  Message answer(Kind::kAnswer, r.name);
  answer.asker = m.asker;
  answer.op = m.op;
  if (r.ranges) {
    if (auto held = r.ranges->table.FindConflict(m.asker, *m.range))
      answer.conflict = std::make_unique<RangeConflict>(
          RangeConflict{held->member, held->owner, held->pid, held->start, held->end, held->type});
  }
  c_.Send(m.asker, std::move(answer));
  Settle(r);
}

void Master::RangeDrop(Resource& r, const Message& m) {
  if (r.ranges) {
    auto& waiting = r.ranges->waiting;
    for (size_t i = 0; i < waiting.size();) {
      const RangeWaiter& w = waiting[i];
      if (w.member != m.asker || !DropMatches(*m.range, w.range.space, w.range.owner, w.range.handle)) {
        ++i;
        continue;
      }
      Answer(r, w.member, w.op, {}, Errc::kInterrupted);
      waiting.erase(waiting.begin() + static_cast<ptrdiff_t>(i));
    }
    r.ranges->table.Drop(m.asker, *m.range);
  }
  Answer(r, m.asker, m.op, {}, Errc::kOk);
  Settle(r);
}

void Master::PumpRanges(Resource& r) {
  if (RangesHeldBack(r)) return;
  auto& waiting = r.ranges->waiting;
  // From the start again after each grant: a granted change to shared may let an earlier one in.
  for (size_t i = 0; i < waiting.size();) {
    RangeWaiter& w = waiting[i];
    bool conflict = r.ranges->table.FindConflict(w.member, w.range).has_value();
    if (conflict && w.range.wait) {
      ++i;
      continue;
    }
    if (!conflict) r.ranges->table.Apply(w.member, w.range);
    Answer(r, w.member, w.op, {}, conflict ? Errc::kWouldBlock : Errc::kOk);
    waiting.erase(waiting.begin() + static_cast<ptrdiff_t>(i));
    i = 0;
  }
}

}  // namespace holdfast::dlm
