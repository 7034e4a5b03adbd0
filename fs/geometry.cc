#include "fs/geometry.h"

#include <algorithm>

namespace holdfast::fs {
namespace {

constexpr uint64_t kBlocksPerMiB = (1 << 20) / kBlockSize;

// 64 MB, smaller on small volumes: all journals together take at most an eighth.
uint32_t ChooseJournalBlocks(uint64_t volume_blocks, uint32_t journals) {
  uint64_t share = volume_blocks / 8 / std::max<uint32_t>(journals, 1);
  return static_cast<uint32_t>(std::clamp<uint64_t>(share, kJournalBlocksMin, 64 * kBlocksPerMiB));
}

// About a thousand groups on a large volume, each with 63 MiB per bitmap block.
uint32_t ChooseBitmapBlocks(uint64_t volume_blocks) {
  uint32_t bitmaps = 1;
  while (bitmaps < 16 && volume_blocks / (kBlocksPerBitmap * bitmaps) > 1024) bitmaps *= 2;
  return bitmaps;
}

}  // namespace

bool Geometry::IsOverhead(BlockNo block) const {
  return OffsetInGroup(block) < GroupOverhead() || block == LastBackup();
}

bool Geometry::ValidTarget(BlockNo block, uint64_t count) const {
  if (count == 0 || !InGroups(block) || count > volume_blocks - block.v) return false;
  BlockNo last(block.v + count - 1);
  return GroupOf(block) == GroupOf(last) && !IsOverhead(block) && !IsOverhead(last);
}

Geometry MakeGeometry(const MakeGeometryOptions& options) {
  Geometry g;
  g.first_journal_block = options.quorum_area ? kFirstJournalBlock : kQuorumAreaOffset / kBlockSize;
  g.journal_count = options.journal_count;
  g.journal_blocks = options.journal_blocks ? std::max(options.journal_blocks, kJournalBlocksMin)
                                            : ChooseJournalBlocks(options.volume_blocks, options.journal_count);
  g.bitmap_blocks = ChooseBitmapBlocks(options.volume_blocks);
  g.group_blocks = static_cast<uint32_t>(kBlocksPerBitmap * g.bitmap_blocks);
  g.first_group_block = g.first_journal_block + uint64_t{g.journal_count} * g.journal_blocks;
  constexpr uint64_t kUsefulBlocks = 64;
  if (options.volume_blocks < g.first_group_block + g.GroupOverhead() + kUsefulBlocks) return g;
  uint64_t space = options.volume_blocks - g.first_group_block;
  g.group_count = (space + g.group_blocks - 1) / g.group_blocks;
  // A last group too small to be of use is left out.
  uint64_t last = space - (g.group_count - 1) * g.group_blocks;
  if (last < g.GroupOverhead() + kUsefulBlocks) {
    --g.group_count;
    g.volume_blocks = g.first_group_block + g.group_count * g.group_blocks;
  } else {
    g.volume_blocks = options.volume_blocks;
  }
  return g;
}

}  // namespace holdfast::fs
