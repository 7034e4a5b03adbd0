// MountsRig: several fs::Mounts of one simulated volume over the real lock manager and a simulated network, without daemons:
// a fixed view, nobody dies. For the workload and the mutants of the kernel's rules; tests/whole has the whole cluster.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/channel.h"
#include "dlm/service.h"
#include "fs/mount.h"
#include "tests/sim/disk.h"
#include "tests/sim/network.h"
#include "tests/sim/world.h"
#include "tests/whole/model/workload.h"

namespace holdfast::whole {

struct RigKnobs {
  uint32_t mounts = 3;
  WorkloadKnobs work;
  sim::NetworkKnobs network;
  sim::DiskKnobs disk;
  fs::LockTableKnobs locks;
  Duration length = Seconds(60);  // until every application must have ended
  static RigKnobs Random(sim::SimRandom& random, uint32_t mounts);
};

struct RigResult {
  std::string wrong;
  std::string dump;
  uint64_t trace_hash = 0;
  uint64_t operations = 0;
};

// One seed: mounts, applications to their end, everything read again through each mount, unmount, fsck.
RigResult RunRig(uint64_t seed, const RigKnobs& knobs);
// The knobs drawn from the seed.
RigResult RunRig(uint64_t seed, uint32_t mounts);

}  // namespace holdfast::whole
