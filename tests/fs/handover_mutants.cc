// The rules that handover_test.cc, claims_test.cc and recovery_driver_test.cc are about, each broken by a switch (base/mutants.h):
// the case runs in a process of its own and has to fail there. Without a switch it has to pass.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include <catch2/catch.hpp>

#include "base/mutants.h"
#include "base/probe.h"

namespace holdfast {

// Nobody asks here how often a rare path was taken.
uint64_t* RegisterProbe(const char*) {
  static uint64_t all = 0;
  return &all;
}

}  // namespace holdfast

namespace holdfast::fs::test {
namespace {

constexpr const char* kVariable = "HOLDFAST_MUTANT";

// Of a child: before any case runs.
const bool kChosen = [] {
  const char* number = std::getenv(kVariable);
  if (number != nullptr) g_whole_mutant = static_cast<Mutant>(std::atoi(number));
  return number != nullptr;
}();

struct Known {
  const char* name;
  Mutant mutant;
  const char* test;
};

const Known kKnown[] = {
    {"fsync of what only another mount has dirty", Mutant::kFsyncOwnOnly, "hand-over: fsync makes durable*"},
    {"metadata blocks plain free at once", Mutant::kMetaFreeAtOnce, "hand-over: a freed metadata block is no data*"},
    {"metadata blocks plain free without the others", Mutant::kMetaFreeUnasked, "hand-over: a freed metadata block is no data*"},
    {"a freed block is written in place later", Mutant::kFreedStaysPending, "hand-over: what one mount logged and freed*"},
    {"handed over unflushed", Mutant::kHandOverUnflushed, "hand-over: what is handed over*"},
    {"replay whoever owns the journal", Mutant::kReplayAnyOwner, "recovery: a journal that another owner*"},
    {"written-marking before its data", Mutant::kWrittenUnordered, "crash: unwritten space*"},
    {"freed data used again before that is durable", Mutant::kReuseUndurable, "alloc: freed data*"},
    {"taken data blocks are no claims", Mutant::kTakenUnlisted, "alloc: what was taken*"},
};

// The exit code of the case under a mutant.
int RunCase(const char* test, Mutant mutant) {
  std::fflush(nullptr);
  pid_t child = fork();
  if (child == 0) {
    setenv(kVariable, std::to_string(static_cast<int>(mutant)).c_str(), 1);
    if (std::freopen("/dev/null", "w", stdout) == nullptr || std::freopen("/dev/null", "w", stderr) == nullptr) _exit(99);
    execl("/proc/self/exe", "handover", test, "-w", "NoTests", static_cast<char*>(nullptr));
    _exit(99);
  }
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child) return 99;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

}  // namespace

TEST_CASE("mutants of hand-overs and claims: each is seen", "[mutants]") {
  REQUIRE(!kChosen);
  for (const Known& known : kKnown) {
    INFO(known.name);
    CHECK(RunCase(known.test, Mutant::kNone) == 0);
    int seen = RunCase(known.test, known.mutant);
    CHECK(seen != 0);
    CHECK(seen != 99);
    std::printf("%-50s %s\n", known.name, seen != 0 ? "seen" : "NOT SEEN");
  }
}

}  // namespace holdfast::fs::test
