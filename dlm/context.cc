#include "dlm/context.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>

#include "dlm/mutants.h"

namespace holdfast::dlm {
namespace {

uint64_t Mix(uint64_t x) {
  x ^= x >> 33;
  x *= 0xff51afd7ed558ccdull;
  x ^= x >> 33;
  x *= 0xc4ceb9fe1a85ec53ull;
  return x ^ (x >> 33);
}

}  // namespace

bool Gate::Update(std::set<MemberId> now_owed) {
  bool was = closed;
  // What was closed for others than now is open for all that it held: those are done.
  bool any_left = std::any_of(owed.begin(), owed.end(), [&](const MemberId& m) { return now_owed.contains(m); });
  closed = !now_owed.empty();
  owed = std::move(now_owed);
  if (was && !any_left) {
    ++epoch;
    return true;
  }
  return false;
}

bool Context::IsMember(const MemberId& m) const {
  if (MutantIs(Mutant::kComparesByNode))
    return std::any_of(view.members.begin(), view.members.end(), [&](const Member& x) { return x.id.node == m.node; });
  return std::any_of(view.members.begin(), view.members.end(), [&](const Member& x) { return x.id == m; });
}

const Victim* Context::FindVictim(const MemberId& m) const {
  for (const Victim& v : view.victims)
    if (v.id == m) return &v;
  return nullptr;
}

const MemberId& Context::Directory(const ResourceName& name) const {
  const MemberId* best = &self;
  uint64_t best_score = 0;
  uint64_t h = name.Hash();
  for (const Member& m : view.members) {
    uint64_t score = Mix(h ^ Mix(m.id.nonce ^ (m.id.incarnation.v << 20) ^ (uint64_t{m.id.node.v} << 52)));
    if (score >= best_score) {
      best_score = score;
      best = &m.id;
    }
  }
  return *best;
}

void Context::Send(const MemberId& to, Message message) {
  message.generation = view.generation;
  if (to == self) {
    loop.push_back(std::move(message));
    return;
  }
  ++counters.sent;
  out.push_back({to, std::move(message)});
}

void Context::SendToOthers(Kind kind, uint64_t count) {
  for (const Member& m : view.members) {
    if (m.id == self) continue;
    Message message(kind, {});
    message.count = count;
    Send(m.id, std::move(message));
  }
}

void Context::Broken(const char* format, ...) {
  char text[512];
  va_list args;
  va_start(args, format);
  std::vsnprintf(text, sizeof text, format, args);
  va_end(args);
#ifdef HF_DLM_MUTANTS
  BrokenInvariant(text);
#else
  if (broken.empty()) broken = text;
#endif
}

}  // namespace holdfast::dlm
