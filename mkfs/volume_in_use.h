// VolumeInUse: is a mount or a holdfastd alive on this volume? Image files and block devices: the byte locks that each
// holds (docs/format.md); block devices also when the kernel uses them; iSCSI: registered reservation keys.
// For programs that need the volume alone (mkfs, fsck).
#pragma once

#include <string>

#include "base/block_device.h"
#include "base/result.h"

namespace holdfast::mkfs {

// "" or who uses it, for a person. Waits a few seconds for a mount that has been unmounted and is ending. Error: it cannot be found out.
Task<Result<std::string>> VolumeInUse(BlockDevice& device, std::string path);

}  // namespace holdfast::mkfs
