// Each mutant (dlm/mutants.h) is a bug that a hurried engineer writes. The checkers must catch every one of them within its
// number of seeds, or they prove nothing about the healthy core.
#include <catch2/catch.hpp>

#include <cstdio>

#include "dlm/mutants.h"
#include "tests/dlm/lock_sim.h"
#include "tests/dlm/scenarios.h"
#include "tests/sim/seeds.h"

namespace holdfast::dlm {
namespace {

struct Case {
  Mutant mutant;
  const char* name;
  uint64_t seeds_max;
  std::string (*scenario)() = nullptr;  // where seeds get there too rarely
};

constexpr Case kCases[] = {
    {Mutant::kFreezeForgetsUnknownNames, "freeze rule forgets unknown names", 200},
    {Mutant::kRemoveWithoutCount, "REMOVE without the count of forwards", 200},
    {Mutant::kDropsOldMessages, "drops answers between survivors", 200},
    {Mutant::kReportsGranted, "reports granted instead of the lesser", 1000},
    {Mutant::kKeepsValueUnderCr, "value block kept under CR and NL", 500},
    {Mutant::kComparesByNode, "members compared by node id", 1000},
    {Mutant::kIgnoresSecondGate, "readers ended is not waited for", 200},
    {Mutant::kGrantsBeforeFenced, "grants before the victim is fenced", 200},
    {Mutant::kRecoveryGrantProves, "a RECOVERY grant opens a frozen name", 1, RecoveryGrantScenario},
};

TEST_CASE("dlm: every mutant is caught by the checkers", "[dlm][sim]") {
  std::printf("%-42s %8s  %s\n", "mutant", "seeds", "caught by");
  for (const Case& c : kCases) {
    uint64_t seed = 0;
    std::string caught;
    if (c.scenario) {
      g_mutant = c.mutant;
      caught = c.scenario();
    }
    while (!c.scenario && caught.empty() && seed < c.seeds_max) {
      ++seed;
      sim::SeedOptions options;
      options.first = seed;
      options.count = 50;
      options.batch = 50;
      options.seconds_max = 20;
      options.failures_max = 1;
      auto report = sim::RunSeeds(options, [&](uint64_t s) {
        g_mutant = c.mutant;
        LockSim sim(s);
        return sim.Run();
      });
      if (!report.failures.empty()) {
        seed = report.failures[0].seed;
        caught = report.failures[0].what.substr(0, report.failures[0].what.find('\n'));
      } else {
        seed += 49;
      }
    }
    std::printf("%-42s %8llu  %.100s\n", c.name, (unsigned long long)seed, caught.empty() ? "NOT CAUGHT" : caught.c_str());
    INFO(c.name);
    CHECK(!caught.empty());
  }
  g_mutant = Mutant::kNone;
}

}  // namespace
}  // namespace holdfast::dlm
