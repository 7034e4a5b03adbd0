// Check: repairs. Everything is written in place with a higher version; the journals are clean (replayed before), so
// nothing older can come back. Order: what is unreachable is made so first, bitmaps last: a crash leaves leaks only.
#include <algorithm>
#include <cstring>

#include "fs/alloc_bits.h"
#include "fs/check_state.h"

namespace holdfast::fs {

Task<Status> Checker::WriteSealed(BlockNo at, std::span<std::byte> block) {
  SealBlock(block, HeaderOf(block).version + 1);
  auto done = co_await device_.Write(at.v * kBlockSize, block, WriteFlags::kNone);
  co_return done;
}

void Checker::MarkRepaired(RepairKind kind, uint64_t inode, uint64_t first, uint64_t end) {
  for (Finding& f : report_.findings) {
    if (f.repair != kind || f.repaired || (inode != 0 && f.inode != inode) || (end != 0 && (f.block < first || f.block >= end))) continue;
    f.repaired = true;
    if (f.level == Finding::Level::kError) ++report_.repaired;
  }
}

Task<Status> Checker::Repair() {
  if (!report_.dirty_journals.empty()) co_return holdfast::Error(Errc::kBusy, "journals must be replayed before anything is repaired");
  // With damage that is not understood bitmaps are left alone: what looks unused may belong to what cannot be read.
  bool understood = std::none_of(report_.findings.begin(), report_.findings.end(), [](const Finding& f) {
    return f.level == Finding::Level::kError && f.repair == RepairKind::kNone;
  });
  if (options_.repair_all && super_copy_bad_) {
    HF_CO_TRY(co_await WriteSuperblock(device_, &report_.super, true));
    HF_CO_TRY(co_await WriteSuperblock(device_, &report_.super, true));
    MarkRepaired(RepairKind::kSuper, 0, 0, 0);
  }
  HF_CO_TRY(co_await RepairJournals());
  bool lost = std::any_of(groups_.begin(), groups_.end(), [](const GroupState& group) { return group.lost; });
  if (!understood || (lost && !options_.repair_all)) co_return Status();
  if (options_.repair_all) HF_CO_TRY(co_await RepairLinks());
  HF_CO_TRY(co_await RepairOrphans());
  HF_CO_TRY(co_await RepairClaims());
  HF_CO_TRY(co_await device_.Flush());
  for (uint64_t n = 0; n < groups_.size(); ++n) {
    if (!groups_[n].lost) continue;
    HF_CO_TRY(co_await RebuildGroup(n, groups_[n]));
    groups_to_repair_.push_back(n);
  }
  std::sort(groups_to_repair_.begin(), groups_to_repair_.end());
  groups_to_repair_.erase(std::unique(groups_to_repair_.begin(), groups_to_repair_.end()), groups_to_repair_.end());
  for (uint64_t n : groups_to_repair_) HF_CO_TRY(co_await RepairGroup(n, groups_[n]));
  auto done = co_await device_.Flush();
  co_return done;
}

Task<Status> Checker::RepairJournals() {
  for (uint32_t j = 0; j < journals_.size(); ++j) {
    unsigned good = 0;
    auto header = co_await ReadJournalHeader(device_, geometry_, MountNo(j), &good);
    if (!header.ok() || good == 2) continue;
    HF_CO_TRY(co_await WriteJournalHeader(device_, geometry_, &*header));
  }
  MarkRepaired(RepairKind::kJournal, 0, 0, 0);
  co_return Status();
}

Task<Status> Checker::RepairLinks() {
  AlignedBuffer block(kBlockSize);
  for (size_t i = 0; i < report_.findings.size(); ++i) {
    if (report_.findings[i].repair != RepairKind::kLinks || report_.findings[i].repaired) continue;
    uint64_t number = report_.findings[i].inode;
    HF_CO_TRY(co_await device_.Read(number * kBlockSize, block.span()));
    auto& inode = *reinterpret_cast<DiskInode*>(block.data() + kInodeOffset);
    const Known& known = inodes_.at(number);
    inode.nlink = known.type == 4 ? 2 + known.children : known.names;
    HF_CO_TRY(co_await WriteSealed(BlockNo(number), block.span()));
    MarkRepaired(RepairKind::kLinks, number, 0, 0);
  }
  co_return Status();
}

// Walks an orphan's blocks once more to forget them, marks it dead, empties the list.
Task<Status> Checker::RepairOrphans() {
  AlignedBuffer block(kBlockSize);
  for (uint32_t j = 0; j < journals_.size(); ++j) {
    if (journals_[j].orphans.empty()) continue;
    for (uint64_t number : journals_[j].orphans) {
      HF_CO_TRY(co_await device_.Read(number * kBlockSize, block.span()));
      auto& inode = *reinterpret_cast<DiskInode*>(block.data() + kInodeOffset);
      const Known& known = inodes_.at(number);
      inode.orphan_next = 0;
      if (known.names > 0) {
        inode.state = inode.state & ~kInodeOrphan;
      } else {
        inode.state = inode.state | kInodeDead;
        freed_inodes_.insert(number);
      }
      HF_CO_TRY(co_await WriteSealed(BlockNo(number), block.span()));
    }
    BlockNo at(geometry_.JournalStart(MountNo(j)).v + kJournalOwnerIndex);
    HF_CO_TRY(co_await device_.Read(at.v * kBlockSize, block.span()));
    As<DiskJournalOwner>(block.span()).orphan_head = 0;
    HF_CO_TRY(co_await WriteSealed(at, block.span()));
  }
  for (GroupState& group : groups_) {
    uint64_t n = static_cast<uint64_t>(&group - groups_.data());
    for (auto& [start, count, inode] : used_by_orphans_) {
      if (!freed_inodes_.contains(inode) || geometry_.GroupOf(BlockNo(start)) != n) continue;
      std::memset(group.found.get() + geometry_.OffsetInGroup(BlockNo(start)), 0, count);
      groups_to_repair_.push_back(n);
    }
  }
  MarkRepaired(RepairKind::kOrphan, 0, 0, 0);
  co_return Status();
}

Task<Status> Checker::RepairClaims() {
  AlignedBuffer block(kBlockSize);
  for (uint32_t j = 0; j < journals_.size(); ++j) {
    if (journals_[j].claims.empty()) continue;
    for (const ClaimExtent& e : journals_[j].claims) {
      if (!geometry_.ValidTarget(BlockNo(e.start), e.count)) continue;
      uint64_t n = geometry_.GroupOf(BlockNo(e.start));
      std::memset(groups_[n].found.get() + geometry_.OffsetInGroup(BlockNo(e.start)), 0, e.count);
      groups_to_repair_.push_back(n);
    }
    for (uint32_t i = 0; i < kClaimsBlocks; ++i) {
      BlockNo at(geometry_.JournalStart(MountNo(j)).v + kJournalClaimsIndex + i);
      HF_CO_TRY(co_await device_.Read(at.v * kBlockSize, block.span()));
      if (As<DiskClaims>(block.span()).count == 0) continue;
      EncodeClaims({}, &As<DiskClaims>(block.span()));
      HF_CO_TRY(co_await WriteSealed(at, block.span()));
    }
  }
  MarkRepaired(RepairKind::kClaims, 0, 0, 0);
  co_return Status();
}

// Makes a damaged header and damaged bitmaps anew; RepairGroup then marks what was found and writes them. What is lost is
// which free blocks held metadata once, and how high the versions in them are: the blocks themselves tell.
Task<Status> Checker::RebuildGroup(uint64_t n, GroupState& group) {
  AlignedBuffer block(kBlockSize);
  if (!group.good) {
    InitBlock(block.span(), {geometry_.GroupStart(n), BlockType::kGroup, GroupResource(n)}, geometry_.uuid);
    group.header = As<DiskGroup>(std::as_const(block).span());
    group.header.group = n;
    group.header.first_block = geometry_.GroupStart(n).v;
    group.header.block_count = geometry_.GroupBlocks(n);
  }
  if (group.bitmaps.empty()) {
    group.bitmaps.resize(geometry_.bitmap_blocks);
    group.bitmap_good.assign(geometry_.bitmap_blocks, false);
    for (uint32_t b = 0; b < geometry_.bitmap_blocks; ++b) {
      HF_CO_TRY(co_await device_.Read(geometry_.BitmapOf(n, b).v * kBlockSize, block.span()));
      group.bitmap_good[b] = CheckBlock(std::as_const(block).span(), geometry_.BitmapOf(n, b), BlockType::kBitmap, geometry_.uuid).ok() &&
                             BlockResource(std::as_const(block).span()) == GroupResource(n);
      std::memcpy(&group.bitmaps[b], block.data(), kBlockSize);
    }
  }
  group.header.flags = group.header.flags & ~kGroupBitmapsUnwritten;
  group.unwritten = false;
  for (uint32_t b = 0; b < geometry_.bitmap_blocks; ++b) {
    uint32_t first = b * kBlocksPerBitmap;
    bool lost = !group.bitmap_good[b];
    if (lost) {
      auto* bitmap = reinterpret_cast<std::byte*>(&group.bitmaps[b]);
      InitBlock({bitmap, kBlockSize}, {geometry_.BitmapOf(n, b), BlockType::kBitmap, GroupResource(n)}, geometry_.uuid);
      for (uint32_t i = 0; i < kBlocksPerBitmap; ++i) {
        bool outside = first + i >= geometry_.GroupBlocks(n) || geometry_.IsOverhead(BlockNo(geometry_.GroupStart(n).v + first + i));
        if (outside) SetStateAt(group.bitmaps[b], i, BlockState::kMeta);
      }
      group.bitmap_good[b] = true;
    }
    if (first >= geometry_.GroupBlocks(n) || (!lost && group.good)) continue;
    HF_CO_TRY(co_await RebuildStates(n, group, first, std::min<uint32_t>(kBlocksPerBitmap, geometry_.GroupBlocks(n) - first), lost));
  }
  group.good = true;
  co_return Status();
}

// Looks into blocks that nothing uses: where one holds metadata of this volume, it stays free for metadata alone and the
// floor rises above its version. With a good bitmap (only the header was lost) only what it calls so is looked at.
Task<Status> Checker::RebuildStates(uint64_t n, GroupState& group, uint32_t first, uint32_t count, bool lost) {
  constexpr uint32_t kAtOnce = 256;
  AlignedBuffer blocks(kAtOnce * kBlockSize);
  DiskBitmap& bitmap = group.bitmaps[first / kBlocksPerBitmap];
  for (uint32_t at = 0; at < count; at += kAtOnce) {
    uint32_t some = std::min(kAtOnce, count - at);
    uint64_t start = geometry_.GroupStart(n).v + first + at;
    std::span<std::byte> part = blocks.span().subspan(0, some * kBlockSize);
    HF_CO_TRY(co_await device_.Read(start * kBlockSize, part));
    for (uint32_t i = 0; i < some; ++i) {
      if (geometry_.IsOverhead(BlockNo(start + i)) || FoundAt(BlockNo(start + i)) != BlockState::kFree) continue;
      if (!lost && StateAt(bitmap, at + i) != BlockState::kMetaFree) continue;
      std::span<const std::byte> block = part.subspan(i * kBlockSize, kBlockSize);
      if (!CheckBlock(block, BlockNo(start + i), BlockType::kNone, geometry_.uuid).ok()) continue;
      SetStateAt(bitmap, at + i, BlockState::kMetaFree);
      group.header.version_floor = std::max<uint64_t>(group.header.version_floor, HeaderOf(block).version + 1);
    }
  }
  co_return Status();
}

// The bitmaps become what was found. What was metadata becomes free for metadata only, and the floor rises above it.
Task<Status> Checker::RepairGroup(uint64_t n, GroupState& group) {
  uint32_t size = geometry_.GroupBlocks(n);
  uint64_t start = geometry_.GroupStart(n).v;
  StateCounts counts;
  bool errors_too = options_.repair_all;
  uint64_t floor = group.header.version_floor;
  AlignedBuffer old(kBlockSize);
  for (uint32_t i = 0; i < geometry_.group_blocks; ++i) {
    DiskBitmap& bitmap = group.bitmaps[i / kBlocksPerBitmap];
    auto index = static_cast<uint32_t>(i % kBlocksPerBitmap);
    if (i >= size || geometry_.IsOverhead(BlockNo(start + i))) {
      if (errors_too) SetStateAt(bitmap, index, BlockState::kMeta);
      continue;
    }
    BlockState state = StateAt(bitmap, index);
    auto found = static_cast<BlockState>(group.found ? group.found[i] : 0);
    bool free = state == BlockState::kFree || state == BlockState::kMetaFree;
    bool ours = errors_too || found == BlockState::kFree;  // without -y only space is given back
    BlockState right = found != BlockState::kFree ? found : state == BlockState::kMeta ? BlockState::kMetaFree : BlockState::kFree;
    if (found == BlockState::kFree && free) right = state;
    if (right != state && ours) {
      if (state == BlockState::kMeta && right == BlockState::kMetaFree) {
        HF_CO_TRY(co_await device_.Read((start + i) * kBlockSize, old.span()));
        if (CheckBlock(std::as_const(old).span(), BlockNo(start + i), BlockType::kNone, geometry_.uuid).ok())
          floor = std::max<uint64_t>(floor, HeaderOf(std::as_const(old).span()).version + 1);
      }
      SetStateAt(bitmap, index, right);
      state = right;
    }
    switch (state) {
      case BlockState::kFree: ++counts.free; break;
      case BlockState::kData: ++counts.data; break;
      case BlockState::kMeta: ++counts.meta; break;
      case BlockState::kMetaFree: ++counts.meta_free; break;
    }
  }
  for (uint32_t b = 0; b < geometry_.bitmap_blocks; ++b) {
    AlignedBuffer out(kBlockSize);
    std::memcpy(out.data(), &group.bitmaps[b], kBlockSize);
    HF_CO_TRY(co_await WriteSealed(geometry_.BitmapOf(n, b), out.span()));
  }
  group.header.free_count = counts.free;
  group.header.data_count = counts.data;
  group.header.meta_count = counts.meta;
  group.header.meta_free_count = counts.meta_free;
  group.header.version_floor = floor;
  AlignedBuffer out(kBlockSize);
  std::memcpy(out.data(), &group.header, kBlockSize);
  HF_CO_TRY(co_await WriteSealed(geometry_.GroupStart(n), out.span()));
  for (Finding& f : report_.findings) {
    bool done = errors_too || (f.code != "bitmap-used-free" && f.code != "bitmap-kind");
    if (f.repair != RepairKind::kBitmap || f.repaired || !done || f.block < start || f.block >= start + geometry_.group_blocks) continue;
    f.repaired = true;
    ++report_.repaired;
  }
  co_return Status();
}

}  // namespace holdfast::fs
