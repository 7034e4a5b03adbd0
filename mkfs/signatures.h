// What other software has left on a device: filesystems, partition tables, RAID members, found by libblkid; and its
// removal. A device behind a URL is looked at through a sparse copy of its first and last megabytes.
#pragma once

#include <string>

#include "base/block_device.h"
#include "base/result.h"

namespace holdfast::mkfs {

// "" or what is there, for a person ("an ext4 filesystem").
Task<Result<std::string>> FindSignature(BlockDevice& device, std::string path);
// Zeroes where signatures live: the first megabyte and the last.
Task<Status> WipeSignatures(BlockDevice& device);

}  // namespace holdfast::mkfs
