// Plan: what a seed is made of: the cluster's size and knobs, and its faults in order of time. Drawn from the seed alone, before
// anything runs, so that a fault can be left out without moving the others.
#pragma once

#include <string>
#include <vector>

#include "tests/whole/cluster.h"

namespace holdfast::whole {

enum class FaultKind : uint8_t {
  kPowerOff, kKillDaemon, kKillMount, kPause, kCut, kCutOneWay, kIsolate, kDiskPath, kSwitch, kRemount, kRejoin, kBlackout, kWipe,
  kDiskErrors, kDiskHangs, kArrayPower, kClog,
};
inline constexpr int kFaultKinds = 17;
const char* FaultName(FaultKind kind);

struct Fault {
  Duration at;       // since the cluster formed
  FaultKind kind = FaultKind::kPowerOff;
  NodeId a, b;
  Duration length;   // until it ends by itself
  Switch how = Switch::kWorks;
  uint32_t share = 0;  // per million: of the commands that fail or hang, of the unflushed sectors that stay
};
std::string ToString(const Fault& fault);

struct Plan {
  ClusterOptions cluster;
  std::vector<Fault> faults;
  Duration length;   // of phase 1
};

// nodes 0: by the seed. Unknown scenario: HF_CHECK (the program has looked).
Plan MakePlan(uint64_t seed, const std::string& scenario, uint32_t nodes);

}  // namespace holdfast::whole
