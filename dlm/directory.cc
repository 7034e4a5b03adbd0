#include "dlm/directory.h"
#include "base/probe.h"

#include <algorithm>

#include "dlm/mutants.h"

namespace holdfast::dlm {

void Directory::Route(Message m) {
  auto it = entries_.find(m.name);
  if (it != entries_.end()) {
    ++it->second.forwards;
    if (it->second.master != c_.self && m.asker != it->second.master) ++c_.counters.forwarded;
    m.forwarded = true;
    MemberId master = it->second.master;
    c_.Send(master, std::move(m));
    return;
  }
  if (m.kind != Kind::kRequest && m.kind != Kind::kRangeSet) return AnswerUnknown(m);
  Entry entry{m.asker, NextTerm(), 0};
  Message make(Kind::kMakeMaster, m.name);
  make.asker = m.asker;
  make.op = m.op;
  make.term = entry.term;
  entries_.emplace(m.name, entry);
  ++c_.counters.masters_made;
  c_.Send(m.asker, std::move(make));
}

// Nobody masters it: nobody holds anything on it. But a dead member may have, as its own master.
void Directory::AnswerUnknown(const Message& m) {
  Message answer(Kind::kAnswer, m.name);
  answer.asker = m.asker;
  answer.op = m.op;
  if (m.kind == Kind::kQuery) answer.under_recovery = c_.replayed.closed;
  c_.Send(m.asker, std::move(answer));
}

void Directory::HandleRemove(const MemberId& from, const Message& m) {
  auto it = entries_.find(m.name);
  if (it == entries_.end() || it->second.master != from || it->second.term != m.term) return;
  if (it->second.forwards != m.count && !MutantIs(Mutant::kRemoveWithoutCount)) {
    HF_PROBE("dlm: removal refused");
    ++c_.counters.removes_refused;  // the forward on its way tells the master
    return;
  }
  entries_.erase(it);
  ++c_.counters.removes;
  Message ok(Kind::kRemoveOk, m.name);
  ok.term = m.term;
  c_.Send(from, std::move(ok));
}

void Directory::Record(const ResourceName& name, const MemberId& master, uint64_t term) {
  auto [it, fresh] = entries_.try_emplace(name, Entry{master, term, 0});
  if (!fresh && it->second.master != master)
    c_.Broken("two masters of %s: %s and %s", name.ToString().c_str(), ToString(it->second.master).c_str(), ToString(master).c_str());
  last_term_ = std::max(last_term_, term);
}

}  // namespace holdfast::dlm
