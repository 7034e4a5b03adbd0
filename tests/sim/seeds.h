// RunSeeds: runs a simulation for many seeds in forked children, a batch each, so that the memory of crashed processes
// is given back and a seed that aborts (HF_CHECK) is reported instead of ending the test program.
// Environment: HOLDFAST_SEED=n runs that one seed in this process (for a debugger); HOLDFAST_SEEDS=n overrides every
// count; HOLDFAST_CAMPAIGN=k multiplies every count; HOLDFAST_JOBS=n children at a time (default 2). Builds with sanitizers
// (tools/sanitize): HOLDFAST_SHARE=k runs one in k of the seeds, except where a failure is what is looked for (failures_max 1:
// controls); HOLDFAST_SLOWER=k gives each seed k times its time.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace holdfast::sim {

struct SeedOptions {
  uint64_t first = 1;
  uint64_t count = 1000;
  uint64_t batch = 50;         // seeds per child process
  unsigned seconds_max = 60;   // for one seed; longer counts as a failure
  uint64_t failures_max = 10;  // stop after so many
};

struct SeedFailure {
  uint64_t seed;
  std::string what;
};

struct SeedReport {
  uint64_t runs = 0;
  std::vector<SeedFailure> failures;
  bool ok() const { return runs > 0 && failures.empty(); }
  std::string ToString() const;  // "2000 seeds, 1 failed: seed 17: ..."
};

// one(seed) returns "" or what went wrong. It runs in a child: a failed CHECK of Catch2 inside it is printed but not
// counted, so return the text (or HF_CHECK, which ends the child and counts).
SeedReport RunSeeds(SeedOptions options, const std::function<std::string(uint64_t seed)>& one);

}  // namespace holdfast::sim
