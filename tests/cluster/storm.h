// Storm: one seed's bad times for a whole cluster, then healing. Used by the everyday run and by the mutant table.
#pragma once

#include <cstdint>
#include <string>

#include "cluster/mutants.h"
#include "tests/cluster/sim_cluster.h"

namespace holdfast::cluster {

struct StormOptions {
  Mutants mutants;
  Duration length = Seconds(12);
  bool fierce = false;   // more of everything: restarts within milliseconds, very late frames and writes
};
struct StormResult {
  std::string wrong;     // empty: all well
  uint64_t trace = 0;
  uint64_t versions = 0, evictions = 0;
};

StormResult Storm(uint64_t seed, StormOptions options);

}  // namespace holdfast::cluster
