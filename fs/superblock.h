// Superblock: the volume's constants in memory, and how they are read, checked and written. Two copies alternate
// (blocks 16 and 17); backups at block 255 and in the last block, written by mkfs and by changes of geometry.
// Errors of ReadSuperblock: kNotFound (no Holdfast volume), kCorrupt (there was one), kUnsupported (newer format or
// unknown incompat feature), kIo.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>

#include "base/block_device.h"
#include "base/clock.h"
#include "base/result.h"
#include "base/task.h"
#include "fs/geometry.h"

namespace holdfast::fs {

// Features of this build. Unknown incompat bits refuse the mount, unknown ro_compat bits make it read-only.
inline constexpr uint64_t kKnownCompat = 0;
inline constexpr uint64_t kKnownRoCompat = 0;
inline constexpr uint64_t kKnownIncompat = 0;

struct Superblock {
  Geometry geometry;
  uint64_t sequence = 0;
  uint64_t compat = 0, ro_compat = 0, incompat = 0;
  uint64_t quorum_block = 0, quorum_blocks = 0;
  InodeNo root_inode;
  uint32_t root_generation = 0;
  std::array<uint8_t, 16> hash_key{};
  std::string label;
  std::string lock_table;  // "cluster:fsname", empty for nolock
  WallTime created;

  bool read_only() const { return (ro_compat & ~kKnownRoCompat) != 0; }
};

void EncodeSuperblock(const Superblock& super, BlockNo at, std::span<std::byte> out);
Result<Superblock> DecodeSuperblock(std::span<const std::byte> block, BlockNo at);

Task<Result<Superblock>> ReadSuperblock(BlockDevice& device);
struct ReadSuperblockReport {  // for fsck: which of the four copies were good
  std::array<BlockNo, 4> at{};
  std::array<bool, 4> good{};
  std::array<bool, 4> same{};      // ... and say of the volume what the copy that counts says
  std::array<uint64_t, 4> sequence{};
};
Task<Result<Superblock>> ReadSuperblock(BlockDevice& device, ReadSuperblockReport* report);
// Sequence + 1 into the older of the two live copies, FUA; with_backups: the backups too.
Task<Status> WriteSuperblock(BlockDevice& device, Superblock* super, bool with_backups);

std::string UuidText(const std::array<uint8_t, 16>& uuid);
// Of 32 hexadecimal digits with any dashes. Error: kInvalid.
Result<std::array<uint8_t, 16>> ParseUuid(std::string_view text);

}  // namespace holdfast::fs
