// Who uses a volume that is an image file or a block device, by the byte locks of docs/format.md. A mount that the kernel has
// unmounted holds a second byte while it writes back and ends: who wants the volume waits for that one a while, and
// refuses at once when it is in use for good.
#pragma once

#include <string>

#include "base/clock.h"
#include "base/result.h"
#include "base/task.h"
#include "io/file_device.h"

namespace holdfast::io {

inline constexpr uint64_t kDaemonBytes = 0;    // + node - 1
inline constexpr uint64_t kMountBytes = 256;   // + mount number
inline constexpr uint64_t kEndingBytes = 512;  // + mount number: the kernel has unmounted it
inline constexpr uint64_t kUsersMax = 256;     // of each kind
inline constexpr Duration kEndingPatience = Seconds(10);

struct VolumeUser {
  std::string who;      // "holdfastd of node 2", "mount number 0"; empty: nobody
  bool daemon = false;
  bool ending = false;  // a mount that is writing back and will be gone
  uint64_t number = 0;
};

// Of several the one that will stay longest: an ending mount only when nobody else is there.
Result<VolumeUser> VolumeUserNow(const FileDevice& file);
// The same, after waiting for ending mounts no longer than `patience`.
Task<Result<VolumeUser>> VolumeUserAfterEnding(const FileDevice* file, Duration patience);

// A mount takes its byte: waits as long for a predecessor of that number. kBusy: another process has it.
Task<Status> TakeMountByte(FileDevice* file, uint64_t mount, Duration patience);

}  // namespace holdfast::io
