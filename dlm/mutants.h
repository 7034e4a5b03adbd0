// Mutants: known bugs behind switches, compiled in only for the test build of the core (HF_DLM_MUTANTS), where a test
// proves that the checkers catch each of them. In every other build MutantIs() is constant false and costs nothing.
// Invariant() is HF_CHECK in production; the test build counts instead of dying, so that a mutant can be reported.
#pragma once

#include "base/check.h"

namespace holdfast::dlm {

enum class Mutant {
  kNone,
  kFreezeForgetsUnknownNames,   // a name nobody remembers is open although a journal is owed
  kRemoveWithoutCount,          // the directory believes REMOVE without comparing the forwards
  kDropsOldMessages,            // answers of an older generation from survivors are thrown away
  kReportsGranted,              // the granted instead of the lesser mode is reported
  kKeepsValueUnderCr,           // a value block copy under CR or NL counts as valid
  kComparesByNode,              // members are compared by node id alone
  kIgnoresSecondGate,           // readers ended is not waited for
  kGrantsBeforeFenced,          // recovery does not wait for the fence
  kRecoveryGrantProves,         // a lock granted under RECOVERY opens a frozen resource when it is rebuilt
};

#ifdef HF_DLM_MUTANTS
inline Mutant g_mutant = Mutant::kNone;
inline unsigned g_broken_invariants = 0;
inline bool MutantIs(Mutant m) { return g_mutant == m; }
#define HF_DLM_INVARIANT(condition, ...) \
  do {                                   \
    if (!(condition)) ++::holdfast::dlm::g_broken_invariants; \
  } while (0)
#else
constexpr bool MutantIs(Mutant) { return false; }
#define HF_DLM_INVARIANT(condition, ...) HF_CHECK(condition, __VA_ARGS__)
#endif

}  // namespace holdfast::dlm
