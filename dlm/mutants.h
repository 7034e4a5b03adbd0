// Mutants: known bugs behind switches, compiled in only for the test build of the core (HF_DLM_MUTANTS), where a test
// proves that the checkers catch each of them. In every other build MutantIs() is constant false and costs nothing.
// BrokenInvariant(): what honest members never say (Context::Broken) is remembered there instead of ending the member.
#pragma once

#ifdef HF_DLM_MUTANTS
#include <string>
#endif

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
inline std::string g_broken_invariant;  // the first
inline void BrokenInvariant(const char* text) {
  if (g_broken_invariant.empty()) g_broken_invariant = text;
}
inline bool MutantIs(Mutant m) { return g_mutant == m; }
#else
constexpr bool MutantIs(Mutant) { return false; }
#endif

}  // namespace holdfast::dlm
