// Check: superblock, journals, groups; bitmaps against what the walk found.
#include <algorithm>
#include <cstring>

#include "fs/alloc_bits.h"
#include "fs/check_state.h"

namespace holdfast::fs {

Task<Result<CheckReport>> CheckVolume(BlockDevice& device, CheckOptions options) {
  auto checker = std::make_unique<Checker>(device, std::move(options));
  auto report = co_await checker->Run();
  co_return report;
}

Task<Result<CheckReport>> Checker::Run() {
  HF_CO_TRY(co_await LoadSuper());
  HF_CO_TRY(co_await LoadJournals());
  HF_CO_TRY(co_await LoadGroups());
  HF_CO_TRY(co_await WalkNames());
  HF_CO_TRY(co_await CheckOrphans());
  CountLinks();
  CompareBitmaps();
  if (options_.repair_safe || options_.repair_all) HF_CO_TRY(co_await Repair());
  if (options_.progress) options_.progress(total_, total_);
  co_return std::move(report_);
}

void Checker::Add(Finding finding) {
  (finding.level == Finding::Level::kError ? report_.errors : report_.notes) += 1;
  if (report_.findings.size() < options_.findings_max || finding.repair != RepairKind::kNone) {
    report_.findings.push_back(std::move(finding));
    return;
  }
  for (Finding& f : report_.findings) {
    if (f.code == finding.code) {
      ++f.count;
      return;
    }
  }
  report_.findings.push_back(std::move(finding));
}

void Checker::Error(std::string code, std::string text, uint64_t block, uint64_t inode, RepairKind repair) {
  Finding f;
  f.code = std::move(code);
  f.text = std::move(text);
  f.block = block;
  f.inode = inode;
  f.repair = repair;
  Add(std::move(f));
}

void Checker::Progress() {
  if (options_.progress && done_ % 256 == 0) options_.progress(std::min(done_, total_), total_);
}

// True: the block is good. False: it is not, and a finding says so. An error: the device failed.
Task<Result<bool>> Checker::ReadBlock(BlockNo at, BlockType type, std::span<std::byte> out, const char* who, uint64_t inode,
                                      RepairKind repair) {
  if (auto it = overlay_.find(at.v); it != overlay_.end()) {
    std::memcpy(out.data(), it->second.bytes().data(), kBlockSize);
  } else if (auto fetched = fetched_.find(at.v); fetched != fetched_.end()) {
    std::memcpy(out.data(), fetched->second->data(), kBlockSize);
    fetched_.erase(fetched);
  } else {
    auto read = co_await device_.Read(at.v * kBlockSize, out);
    if (!read.ok()) co_return read.error();
  }
  auto checked = CheckBlock(out, at, type, geometry_.uuid);
  if (checked.ok() && BlockResource(out) != LockOf(at, type, inode))
    checked = holdfast::Error(Errc::kCorrupt, "block " + std::to_string(at.v) + ": belongs to the lock " + ToString(BlockResource(out)));
  if (!checked.ok()) {
    Error("bad-block", std::string(who) + ": " + checked.error().message, at.v, inode, repair);
    co_return false;
  }
  co_return true;
}

// The lock that a good block in that place names.
Resource Checker::LockOf(BlockNo at, BlockType type, uint64_t inode) const {
  switch (type) {
    case BlockType::kGroup:
    case BlockType::kBitmap:
      return GroupResource(geometry_.GroupOf(at));
    case BlockType::kJournalOwner:
    case BlockType::kClaims:
      return JournalResource(MountNo(static_cast<uint32_t>((at.v - geometry_.first_journal_block) / geometry_.journal_blocks)));
    case BlockType::kInode:
      return ResourceOf(InodeNo(at.v));
    default:
      return ResourceOf(InodeNo(inode));
  }
}

Task<Status> Checker::LoadSuper() {
  ReadSuperblockReport copies;
  auto super = co_await ReadSuperblock(device_, &copies);
  if (!super.ok()) co_return super.error();
  report_.super = *super;
  geometry_ = super->geometry;
  for (size_t i = 0; i < copies.at.size(); ++i) {
    if (copies.same[i]) continue;
    super_copy_bad_ = true;
    Error("superblock-copy", "superblock copy " + std::to_string(i) + " in block " + std::to_string(copies.at[i].v) +
                                 (copies.good[i] ? " describes another volume" : " is bad"),
          copies.at[i].v, 0, RepairKind::kSuper);
  }
  co_return Status();
}

Task<Status> Checker::LoadJournals() {
  journals_.resize(geometry_.journal_count);
  for (uint32_t j = 0; j < geometry_.journal_count; ++j) {
    auto log = co_await ReadLog(device_, geometry_, MountNo(j));
    if (!log.ok()) {
      if (log.code() != Errc::kCorrupt) co_return log.error();
      Error("journal-header", "journal " + std::to_string(j) + ": " + log.error().message, geometry_.JournalStart(MountNo(j)).v);
      continue;
    }
    journals_[j].good = true;
    unsigned good_copies = 0;
    auto header = co_await ReadJournalHeader(device_, geometry_, MountNo(j), &good_copies);
    if (!header.ok()) co_return header.error();
    // Two copies so that a write torn by a power loss leaves the one before: legal after a crash, and the next write mends it.
    if (good_copies < 2) {
      Finding note;
      note.level = Finding::Level::kNote;
      note.repair = RepairKind::kJournal;
      note.code = "journal-header-copy";
      note.text = "journal " + std::to_string(j) + ": one of the two copies of its header is bad";
      note.block = geometry_.JournalStart(MountNo(j)).v;
      Add(std::move(note));
    }
    if (log->header.state == fs::JournalState::kClean) continue;
    if (!log->hole.empty()) Error("journal-hole", log->hole, geometry_.JournalStart(MountNo(j)).v);
    report_.dirty_journals.push_back(j);
    for (auto& [block, image] : log->newest) {
      auto& slot = overlay_[block];
      if (!slot.record || slot.version < image.version) slot = image;
    }
  }
  // What is in place may be newer than what a journal holds.
  AlignedBuffer now(kBlockSize);
  for (auto it = overlay_.begin(); it != overlay_.end();) {
    auto read = co_await device_.Read(it->first * kBlockSize, now.span());
    if (!read.ok()) co_return read.error();
    bool good = CheckBlock(std::as_const(now).span(), BlockNo(it->first), BlockType::kNone, geometry_.uuid).ok();
    bool newer = good && HeaderOf(std::as_const(now).span()).version >= it->second.version;
    it = newer ? overlay_.erase(it) : std::next(it);
  }
  for (uint32_t j = 0; j < geometry_.journal_count; ++j) {
    if (!journals_[j].good) continue;
    BlockNo start = geometry_.JournalStart(MountNo(j));
    auto good = co_await ReadBlock(BlockNo(start.v + kJournalOwnerIndex), BlockType::kJournalOwner, now.span(), "orphan list head", 0);
    if (!good.ok()) co_return good.error();
    if (*good && As<DiskJournalOwner>(now.span()).orphan_head != 0)
      journals_[j].orphans.push_back(As<DiskJournalOwner>(now.span()).orphan_head);
    for (uint32_t i = 0; i < kClaimsBlocks; ++i) {
      BlockNo at(start.v + kJournalClaimsIndex + i);
      good = co_await ReadBlock(at, BlockType::kClaims, now.span(), "claims", 0);
      if (!good.ok()) co_return good.error();
      if (!*good) continue;
      auto claims = DecodeClaims(As<DiskClaims>(std::as_const(now).span()));
      if (!claims.ok()) {
        Error("claims", "journal " + std::to_string(j) + ": " + claims.error().message, at.v);
        continue;
      }
      journals_[j].claims.insert(journals_[j].claims.end(), claims->begin(), claims->end());
    }
  }
  co_return Status();
}

Task<Status> Checker::LoadGroups() {
  groups_.resize(geometry_.group_count);
  AlignedBuffer block(kBlockSize);
  for (uint64_t n = 0; n < geometry_.group_count; ++n) {
    GroupState& group = groups_[n];
    auto good = co_await ReadBlock(geometry_.GroupStart(n), BlockType::kGroup, block.span(), "group header", 0, RepairKind::kBitmap);
    if (!good.ok()) co_return good.error();
    if (!*good) {
      group.lost = true;
      continue;
    }
    group.header = As<DiskGroup>(std::as_const(block).span());
    const DiskGroup& h = group.header;
    if (h.group != n || h.first_block != geometry_.GroupStart(n).v || h.block_count != geometry_.GroupBlocks(n) ||
        h.version_floor > kVersionMax || (h.flags & ~kGroupBitmapsUnwritten) != 0) {
      Error("group-header", "group " + std::to_string(n) + ": its header describes another one", geometry_.GroupStart(n).v, 0,
            RepairKind::kBitmap);
      group.lost = true;
      continue;
    }
    group.good = true;
    group.unwritten = (h.flags & kGroupBitmapsUnwritten) != 0;
    total_ += h.meta_count;
    if (group.unwritten) continue;
    group.bitmaps.resize(geometry_.bitmap_blocks);
    group.bitmap_good.resize(geometry_.bitmap_blocks);
    for (uint32_t b = 0; b < geometry_.bitmap_blocks; ++b) {
      good = co_await ReadBlock(geometry_.BitmapOf(n, b), BlockType::kBitmap, block.span(), "bitmap", 0, RepairKind::kBitmap);
      if (!good.ok()) co_return good.error();
      group.bitmap_good[b] = *good;
      group.lost = group.lost || !*good;
      std::memcpy(&group.bitmaps[b], block.data(), kBlockSize);
    }
  }
  co_return Status();
}

bool Checker::Use(BlockNo start, uint64_t count, BlockState state, uint64_t inode, const char* what) {
  if (!geometry_.ValidTarget(start, count)) {
    Error("bad-pointer", std::string(what) + " of inode " + std::to_string(inode) + " points to blocks " + std::to_string(start.v) + "+" +
                             std::to_string(count) + ", outside the groups", start.v, inode);
    return false;
  }
  uint64_t number = geometry_.GroupOf(start);
  GroupState& group = groups_[number];
  if (!group.found) group.found = std::make_unique<uint8_t[]>(geometry_.GroupBlocks(number));
  uint32_t first = geometry_.OffsetInGroup(start);
  for (uint64_t i = 0; i < count; ++i) {
    uint8_t& slot = group.found[first + i];
    if (slot != 0) {
      Error("block-shared", "block " + std::to_string(start.v + i) + " is used twice, the second time by inode " + std::to_string(inode) +
                                " (" + what + ")", start.v + i, inode);
      return false;
    }
    slot = static_cast<uint8_t>(state);
  }
  if (in_orphans_) used_by_orphans_.push_back({start.v, count, inode});
  (state == BlockState::kData ? report_.counts.data_blocks : report_.counts.meta_blocks) += count;
  return true;
}

BlockState Checker::FoundAt(BlockNo at) const {
  const GroupState& group = groups_[geometry_.GroupOf(at)];
  return group.found ? static_cast<BlockState>(group.found[geometry_.OffsetInGroup(at)]) : BlockState::kFree;
}

void Checker::CountLinks() {
  for (auto& [number, known] : inodes_) {
    if (known.bad) continue;
    bool directory = known.type == 4;
    uint32_t expected = directory ? (known.names > 0 || number == report_.super.root_inode.v ? 2 + known.children : 0) : known.names;
    if (known.nlink == expected) continue;
    Error("nlink", "inode " + std::to_string(number) + ": link count " + std::to_string(known.nlink) + ", found " + std::to_string(expected),
          number, number, expected > 0 ? RepairKind::kLinks : RepairKind::kNone);
  }
}

void Checker::CompareBitmaps() {
  // Claims are taken out of the bitmaps, and nothing else may use them.
  for (uint32_t j = 0; j < journals_.size(); ++j) {
    uint64_t blocks = 0;
    for (const ClaimExtent& e : journals_[j].claims) {
      Use(BlockNo(e.start), e.count, e.kind == ClaimKind::kData ? BlockState::kData : BlockState::kMeta, 0, "a claim");
      blocks += e.count;
    }
    report_.counts.claims += blocks;
    if (blocks == 0) continue;
    Finding note;
    note.level = Finding::Level::kNote;
    note.repair = RepairKind::kClaims;
    note.code = "claims-left";
    note.text = "journal " + std::to_string(j) + ": " + std::to_string(blocks) + " blocks claimed by a mount that is gone";
    note.block = geometry_.JournalStart(MountNo(j)).v;
    Add(std::move(note));
  }
  for (uint64_t n = 0; n < groups_.size(); ++n) {
    if (groups_[n].good) CompareGroup(n, groups_[n]);
    report_.counts.total_blocks += geometry_.GroupBlocks(n);
  }
}

void Checker::CompareGroup(uint64_t n, GroupState& group) {
  uint32_t size = geometry_.GroupBlocks(n);
  uint64_t start = geometry_.GroupStart(n).v;
  uint64_t errors_before = report_.errors;
  StateCounts counts;
  if (group.unwritten) {
    for (uint32_t i = 0; group.found && i < size; ++i) {
      if (group.found[i] == 0) continue;
      Error("bitmap-used-free", "block " + std::to_string(start + i) + " is in use in a group that was never allocated from", start + i, 0);
      return;
    }
    counts.free = size - geometry_.GroupOverhead() - (geometry_.InGroups(geometry_.LastBackup()) && geometry_.GroupOf(geometry_.LastBackup()) == n ? 1 : 0);
  } else {
    // Runs of the same disagreement are one finding.
    uint32_t run_start = 0, run = 0;
    int run_kind = 0;
    auto end_run = [&](uint32_t at) {
      if (run == 0) return;
      std::string which = "blocks " + std::to_string(start + run_start) + "+" + std::to_string(run);
      if (run_kind == 1) Error("bitmap-leak", which + " are marked as used, nothing uses them", start + run_start, 0, RepairKind::kBitmap);
      if (run_kind == 2) Error("bitmap-used-free", which + " are in use and marked as free", start + run_start, 0, RepairKind::kBitmap);
      if (run_kind == 3) Error("bitmap-kind", which + " are marked as the wrong kind", start + run_start, 0, RepairKind::kBitmap);
      if (run_kind == 4) Error("bitmap-kind", which + " are never free, and not marked so", start + run_start, 0, RepairKind::kBitmap);
      run = 0;
      run_start = at;
    };
    for (uint32_t i = 0; i < geometry_.group_blocks; ++i) {
      auto b = static_cast<uint32_t>(i / kBlocksPerBitmap);
      BlockNo at(start + i);
      if (!group.bitmap_good[b]) continue;
      if (i >= size || geometry_.IsOverhead(at)) {  // the group's own blocks, the backup, what lies behind the volume's end
        int kind = StateAt(group.bitmaps[b], i % kBlocksPerBitmap) == BlockState::kMeta ? 0 : 4;
        if (kind != run_kind || kind == 0) end_run(i);
        if (kind != 0 && run++ == 0) run_start = i;
        run_kind = kind;
        continue;
      }
      BlockState state = StateAt(group.bitmaps[b], i % kBlocksPerBitmap);
      auto found = static_cast<BlockState>(group.found ? group.found[i] : 0);
      bool free = state == BlockState::kFree || state == BlockState::kMetaFree;
      int kind = found == BlockState::kFree ? (free ? 0 : 1) : free ? 2 : state != found ? 3 : 0;
      switch (state) {
        case BlockState::kFree: ++counts.free; break;
        case BlockState::kData: ++counts.data; break;
        case BlockState::kMeta: ++counts.meta; break;
        case BlockState::kMetaFree: ++counts.meta_free; break;
      }
      if (kind != run_kind || kind == 0) end_run(i);
      if (kind != 0) {
        if (run == 0) run_start = i;
        ++run;
      }
      run_kind = kind;
    }
    end_run(geometry_.group_blocks);
  }
  report_.counts.free_blocks += counts.free;
  report_.counts.meta_free_blocks += counts.meta_free;
  const DiskGroup& h = group.header;
  bool all_good = group.unwritten || std::find(group.bitmap_good.begin(), group.bitmap_good.end(), false) == group.bitmap_good.end();
  if (all_good && (h.free_count != counts.free || h.data_count != counts.data || h.meta_count != counts.meta || h.meta_free_count != counts.meta_free))
    Error("group-counts", "group " + std::to_string(n) + ": free " + std::to_string(uint32_t{h.free_count}) + "/" + std::to_string(counts.free) +
                              ", data " + std::to_string(uint32_t{h.data_count}) + "/" + std::to_string(counts.data) + ", metadata " +
                              std::to_string(uint32_t{h.meta_count}) + "/" + std::to_string(counts.meta) + ", metadata only " +
                              std::to_string(uint32_t{h.meta_free_count}) + "/" + std::to_string(counts.meta_free) + " (header/bitmap)",
          start, 0, RepairKind::kBitmap);
  if (report_.errors > errors_before && all_good && !group.unwritten) groups_to_repair_.push_back(n);
}

}  // namespace holdfast::fs
