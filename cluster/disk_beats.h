// DiskBeats: this node's heartbeat block in the quorum area, and everybody's read in one go. See quorum_area.h.
// Threading: one executor; one call at a time.
#pragma once

#include <vector>

#include "base/block_device.h"
#include "base/result.h"
#include "base/task.h"
#include "cluster/quorum_area.h"

namespace holdfast::cluster {

class DiskBeats {
 public:
  DiskBeats(BlockDevice* device, uint64_t offset, NodeId self, NodeId highest);

  // kBusy: a living twin uses this node's block. Writes a first beat, waits, reads again.
  Task<Status> CheckTwin(uint64_t area_id, uint64_t nonce, Duration wait);
  // Writes ours (area id, node and sequence are filled in).
  Task<Status> Write(DiskBeat beat);
  // All valid blocks of the area, ours too.
  Task<Result<std::vector<DiskBeat>>> ReadAll();
  uint64_t sequence() const { return sequence_; }

 private:
  BlockDevice* device_;
  uint64_t offset_;
  NodeId self_, highest_;
  uint64_t area_id_ = 0;
  uint64_t sequence_ = 0;
};

}  // namespace holdfast::cluster
