// MakeVolume: writes a new Holdfast volume onto a device: quorum area zeroed, journals, groups (their bitmaps left
// unwritten but for the first), the root directory, and last the superblocks, so that an interrupted run leaves no
// volume behind. No policy: whether the device may be overwritten is mkfs.holdfast's to decide.
// Errors: kNoSpace (too small), kInvalid, device errors.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>

#include "base/block_device.h"
#include "base/random.h"
#include "base/result.h"
#include "fs/superblock.h"

namespace holdfast::mkfs {

struct MakeVolumeOptions {
  uint32_t journals = 4;
  uint64_t journal_mib = 0;    // each; 0: 64, less on small volumes
  std::string label;
  std::string lock_table;      // "cluster:fsname" or empty
  std::array<uint8_t, 16> uuid{};  // all zero: random
  bool quorum_area = true;
  bool discard = false;
  WallTime now;
  // done of total steps; called often, cheap.
  std::function<void(uint64_t done, uint64_t total, const char* what)> progress;
};

// What would be written, without writing.
Result<fs::Superblock> PlanVolume(const DeviceInfo& info, const MakeVolumeOptions& options, Random& random);
Task<Result<fs::Superblock>> MakeVolume(BlockDevice& device, MakeVolumeOptions options, Random& random);

// "cluster:fsname": 1..32 and 1..30 letters, digits, '-' and '_' . Error: kInvalid.
Status CheckLockTable(const std::string& lock_table);

}  // namespace holdfast::mkfs
