// Run: one seed: a cluster forms and works under a plan of faults (phase 1, safety), everything is healed (phase 2: all that
// waits ends), unmounted, checked by the real fsck code.
#pragma once

#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "base/clock.h"

namespace holdfast::whole {

struct RunOptions {
  uint64_t seed = 1;
  uint32_t nodes = 0;            // 0: by the seed
  std::string scenario = "storm";
  std::set<std::string> without; // kinds of faults left out
  std::set<size_t> drop;         // numbers of the plan's faults left out (shrinking)
  std::function<std::string()> broken;  // asked often: an invariant of the code's own that broke; may be empty
  bool trace = false;            // every line of the log, with the world's time, to standard error
  bool model = false;            // clients with a model of the kernel's caches (model/)
};

struct RunResult {
  std::string wrong;             // empty: all well
  std::string story;             // plan, timeline; state of every node if something is wrong
  uint64_t trace_hash = 0;
  uint64_t events = 0, operations = 0, replays = 0, evictions = 0, grants = 0;
  uint32_t nodes = 0;
  size_t faults = 0;
  Duration virtual_time;
};

RunResult Run(const RunOptions& options);
std::vector<std::string> Scenarios();
std::vector<std::string> FaultKinds();

}  // namespace holdfast::whole
