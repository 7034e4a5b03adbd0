// The volume as an image file that all machines of a lab share: byte locks instead of reservations, and fencing by the end
// of a node's processes (fence/local_fence.h). A byte stays locked while its process lives or anything of it is in flight.
#pragma once

#include <map>
#include <memory>

#include "fence/local_fence.h"
#include "tests/sim/disk.h"

namespace holdfast::whole {

class Cluster;

inline constexpr const char* kImageUrl = "/images/volume";

class ImageLocks {
 public:
  // kBusy: somebody holds it.
  Status Take(const sim::SimDisk& disk, uint64_t byte, sim::SimExecutor* by);
  bool Free(const sim::SimDisk& disk, uint64_t byte) const;

 private:
  std::map<uint64_t, sim::SimExecutor*> holders_;  // the last to take it
};

std::unique_ptr<fence::LocalFence> MakeLocalFence(Cluster* cluster, sim::SimExecutor* executor);

}  // namespace holdfast::whole
