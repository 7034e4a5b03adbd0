#include "tests/whole/mutants.h"

#include "base/mutants.h"
#include "dlm/mutants.h"

namespace holdfast::whole {
namespace {

struct Entry {
  const char* name;
  Mutant whole;
  dlm::Mutant locks;
  const char* scenario;
  bool model;
  uint64_t seed;
};
using W = Mutant;
using L = dlm::Mutant;

const Entry kEntries[] = {
    {"adopt-before-bury", W::kAdoptBeforeBury, L::kNone, "double-kill", false, 11},
    {"adoption-holds-on", W::kAdoptionHoldsOn, L::kNone, "storm", false, 281},
    {"replay-older", W::kReplayOlder, L::kNone, "storm", false, 2},
    {"replay-clean-early", W::kReplayCleanEarly, L::kNone, "blackout", false, 1},
    {"replay-ordinary-lock", W::kReplayOrdinaryLock, L::kNone, "storm", false, 1},
    {"token-before-proof", W::kTokenBeforeProof, L::kNone, "zombie", false, 1},
    {"no-drain", W::kNoDrain, L::kNone, "storm", false, 116},
    {"preempts-daemon-only", W::kPreemptsDaemonOnly, L::kNone, "zombie", false, 115},
    {"readers-end-at-once", W::kReadersEndAtOnce, L::kNone, "zombie", false, 7},
    {"mount-not-proven", W::kMountNotProven, L::kNone, "mounts", false, 34},
    {"let-go-unwritten", W::kLetGoUnwritten, L::kNone, "storm", false, 1},
    {"let-go-unforgotten", W::kLetGoUnforgotten, L::kNone, "storm", false, 1},
    {"tail-early", W::kTailEarly, L::kNone, "blackout", false, 1},
    {"sync-unflushed", W::kSyncUnflushed, L::kNone, "storm", false, 2},
    {"claims-unwritten", W::kClaimsUnwritten, L::kNone, "storm", false, 1},
    {"no-version-floor", W::kNoVersionFloor, L::kNone, "storm", false, 2},
    {"append-at-offset", W::kAppendAtOffset, L::kNone, "calm", true, 2},
    {"unflushed-forgotten", W::kUnflushedForgotten, L::kNone, "array", false, 1},
    {"bytes-not-awaited", W::kBytesNotAwaited, L::kNone, "image", false, 4},
    {"reservation-type-five", W::kTypeFive, L::kNone, "leave", false, 74},
    {"lease-not-enforced", W::kLeaseNotEnforced, L::kNone, "zombie", false, 4},
    {"reaps-open-files", W::kReapsOpenFiles, L::kNone, "storm", false, 2},
    {"dlm-freeze-forgets-unknown", W::kNone, L::kFreezeForgetsUnknownNames, "storm", false, 1},
    {"dlm-drops-old-messages", W::kNone, L::kDropsOldMessages, "storm", false, 53},
    {"dlm-compares-by-node", W::kNone, L::kComparesByNode, "storm", false, 83},
    {"dlm-ignores-second-gate", W::kNone, L::kIgnoresSecondGate, "storm", false, 1},
};

}  // namespace

std::vector<KnownMutant> KnownMutants() {
  std::vector<KnownMutant> out;
  for (const Entry& e : kEntries) out.push_back({e.name, e.scenario, e.model, e.seed});
  return out;
}

bool SetMutant(const std::string& name) {
  g_whole_mutant = Mutant::kNone;
  dlm::g_mutant = dlm::Mutant::kNone;
  dlm::g_broken_invariant.clear();
  if (name.empty()) return true;
  for (const Entry& e : kEntries) {
    if (name != e.name) continue;
    g_whole_mutant = e.whole;
    dlm::g_mutant = e.locks;
    return true;
  }
  return false;
}

const std::string& BrokenInvariant() { return dlm::g_broken_invariant; }

}  // namespace holdfast::whole
