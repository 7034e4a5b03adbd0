// Geometry: where things are on a volume, from its superblock: journals, groups, bitmaps. Plain arithmetic; every
// block number that comes from disk is checked here before anybody reads it.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "base/ids.h"
#include "fs/format.h"

namespace holdfast::fs {

struct Geometry {
  std::array<uint8_t, 16> uuid{};
  uint64_t volume_blocks = 0;
  uint64_t first_journal_block = 0;
  uint32_t journal_count = 0;
  uint32_t journal_blocks = 0;
  uint64_t first_group_block = 0;
  uint64_t group_count = 0;
  uint32_t group_blocks = 0;   // each but the last
  uint32_t bitmap_blocks = 0;  // per group

  BlockNo JournalStart(MountNo journal) const { return BlockNo(first_journal_block + uint64_t{journal.v} * journal_blocks); }
  uint32_t LogBlocks() const { return journal_blocks - kJournalLogIndex; }

  BlockNo GroupStart(uint64_t group) const { return BlockNo(first_group_block + group * group_blocks); }
  BlockNo BitmapOf(uint64_t group, uint32_t index) const { return BlockNo(GroupStart(group).v + 1 + index); }
  uint32_t GroupBlocks(uint64_t group) const {
    uint64_t left = volume_blocks - GroupStart(group).v;
    return left < group_blocks ? static_cast<uint32_t>(left) : group_blocks;
  }
  uint32_t GroupOverhead() const { return 1 + bitmap_blocks; }
  // REQUIRES: InGroups(block).
  uint64_t GroupOf(BlockNo block) const { return (block.v - first_group_block) / group_blocks; }
  uint32_t OffsetInGroup(BlockNo block) const {
    return static_cast<uint32_t>((block.v - first_group_block) % group_blocks);
  }
  bool InGroups(BlockNo block) const { return block.v >= first_group_block && block.v < volume_blocks; }
  // May a pointer on disk name these blocks? Inside one group, outside its header and bitmaps, before the backup.
  bool ValidTarget(BlockNo block, uint64_t count = 1) const;
  // Blocks of the groups that never are free: headers, bitmaps, the last superblock backup.
  bool IsOverhead(BlockNo block) const;
  BlockNo LastBackup() const { return BlockNo(volume_blocks - 1); }
};

struct MakeGeometryOptions {
  uint64_t volume_blocks = 0;
  uint32_t journal_count = 4;
  uint32_t journal_blocks = 0;  // 0: chosen
  bool quorum_area = true;
};
// What mkfs lays out; volume_blocks 0 in the result: too small.
Geometry MakeGeometry(const MakeGeometryOptions& options);

}  // namespace holdfast::fs
