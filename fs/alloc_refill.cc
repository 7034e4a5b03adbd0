// Allocator: taking claims out of the bitmaps and giving them back; finding space when it is short.
#include <algorithm>

#include "base/log.h"
#include "base/mutants.h"
#include "fs/alloc.h"
#include "fs/alloc_bits.h"
#include "fs/alloc_claims.h"

namespace holdfast::fs {
namespace {

constexpr size_t kExtentsPerClaim = 24;  // taken from one group at a time
constexpr size_t kExtentsMax = 600;      // claimed at all: they fit the claims blocks with room to split
constexpr uint32_t kGoodRun = 64;        // blocks; shorter runs are taken when nothing better is near

}  // namespace

// What is still wanted: at least `min`, gladly `want`.
struct Allocator::Need {
  uint64_t data_min = 0, data_want = 0;
  uint64_t meta_min = 0, meta_want = 0;
  bool satisfied() const { return data_min == 0 && meta_min == 0; }
  void Got(uint64_t data, uint64_t meta) {
    auto less = [](uint64_t* x, uint64_t n) { *x -= std::min(*x, n); };
    less(&data_min, data);
    less(&data_want, data);
    less(&meta_min, meta);
    less(&meta_want, meta);
  }
};

namespace {

// The group's own blocks, the superblock's backup and what lies behind the volume's end are never given out.
bool OwnBlocksMarked(const Geometry& geometry, uint64_t group, uint32_t index, const DiskBitmap& bitmap) {
  uint64_t first = uint64_t{index} * kBlocksPerBitmap, start = geometry.GroupStart(group).v;
  auto marked = [&](uint64_t offset) {
    return offset < first || offset >= first + kBlocksPerBitmap || StateAt(bitmap, static_cast<uint32_t>(offset - first)) == BlockState::kMeta;
  };
  for (uint64_t offset = 0; offset < geometry.GroupOverhead(); ++offset)
    if (!marked(offset)) return false;
  uint64_t backup = geometry.LastBackup().v;
  if (backup >= start && backup - start < geometry.group_blocks && !marked(backup - start)) return false;
  uint64_t end = std::max<uint64_t>(geometry.GroupBlocks(group), first) - first;  // in this bitmap
  for (; end < kBlocksPerBitmap && end % 4 != 0; ++end)
    if (StateAt(bitmap, static_cast<uint32_t>(end)) != BlockState::kMeta) return false;
  constexpr uint8_t kAllMeta = 0xaa;
  return end >= kBlocksPerBitmap || std::all_of(bitmap.states + end / 4, bitmap.states + sizeof bitmap.states, [](uint8_t b) { return b == kAllMeta; });
}

}  // namespace

Task<Result<GroupLocks::Group>> Allocator::LockGroup(uint64_t number, Interrupt* interrupt) {
  auto guard = co_await locks_.Lock(GroupResource(number), LockMode::kEx, Interruptible(interrupt));
  if (!guard.ok()) co_return guard.error();
  auto header = co_await cache_.Read(geometry_.GroupStart(number), BlockType::kGroup, GroupResource(number));
  if (!header.ok()) co_return header.error();
  const auto& disk = header->as<DiskGroup>();
  if (disk.group != number || disk.block_count != geometry_.GroupBlocks(number) || disk.version_floor > kVersionMax)
    co_return Error(Errc::kCorrupt, "group " + std::to_string(number) + ": its header does not match the superblock");
  Learn(number, *header);
  GroupLocks::Group group;
  group.guard = std::move(*guard);
  group.header = std::move(*header);
  co_return std::move(group);
}

Task<Status> Allocator::LoadBitmap(GroupLocks::Group* into, uint64_t number, uint32_t index) {
  if (into->bitmaps.contains(index)) co_return Status();
  auto bitmap = co_await cache_.Read(geometry_.BitmapOf(number, index), BlockType::kBitmap, GroupResource(number));
  if (!bitmap.ok()) co_return bitmap.error();
  if (!OwnBlocksMarked(geometry_, number, index, bitmap->as<DiskBitmap>()))
    co_return Error(Errc::kCorrupt, "group " + std::to_string(number) + ": a bitmap calls blocks free that never are");
  into->bitmaps[index] = std::move(*bitmap);
  co_return Status();
}

void Allocator::Learn(uint64_t number, const BlockRef& header) {
  const auto& disk = header.as<DiskGroup>();
  GroupHint& hint = hints_[number];
  hint.known = true;
  hint.free = disk.free_count;
  hint.meta_free = disk.meta_free_count;
}

// mkfs leaves the bitmaps unwritten; the first user of the group fills them in.
Task<Status> Allocator::InitialiseBitmaps(uint64_t number, GroupLocks::Group* into) {
  auto tx = co_await journal_.Begin(1 + geometry_.bitmap_blocks);
  if (!tx.ok()) co_return tx.error();
  uint32_t blocks = geometry_.GroupBlocks(number);
  uint64_t floor = into->header.as<DiskGroup>().version_floor;
  for (uint32_t b = 0; b < geometry_.bitmap_blocks; ++b) {
    BlockRef bitmap = tx->New({geometry_.BitmapOf(number, b), BlockType::kBitmap, GroupResource(number)}, floor);
    auto& states = As<DiskBitmap>(tx->Change(bitmap));
    for (uint32_t i = 0; i < kBlocksPerBitmap; ++i) {
      uint64_t offset = uint64_t{b} * kBlocksPerBitmap + i;
      bool own = offset >= blocks || geometry_.IsOverhead(BlockNo(geometry_.GroupStart(number).v + offset));
      if (own) SetStateAt(states, i, BlockState::kMeta);
    }
    into->bitmaps[b] = bitmap;
  }
  auto& header = As<DiskGroup>(tx->Change(into->header));
  header.flags = header.flags & ~kGroupBitmapsUnwritten;
  tx->Finish();
  co_return Status();
}

void Allocator::PrunePending() {
  uint64_t durable = journal_.committed_sequence();
  std::erase_if(pending_free_, [&](const auto& entry) { return entry.second.second <= durable; });
}

// Does the run touch data blocks freed by a record that is not durable? A crash would give them back to their file.
bool Allocator::Blocked(uint64_t start, uint64_t count) const {
  if (HF_MUTANT(kReuseUndurable)) return false;
  for (const auto& [freed, what] : pending_free_) {
    if (freed < start + count && start < freed + what.first) return true;
  }
  return false;
}

Task<Status> Allocator::ClaimFrom(uint64_t number, Need* need) {
  auto locked = co_await LockGroup(number);
  if (!locked.ok()) co_return locked.error();
  GroupLocks::Group group = std::move(*locked);
  const auto& header = group.header.as<DiskGroup>();
  bool useful = (need->data_want > 0 && header.free_count > 0) || (need->meta_want > 0 && header.free_count + header.meta_free_count > 0);
  if (!useful) co_return Status();
  if (header.flags & kGroupBitmapsUnwritten) HF_CO_TRY(co_await InitialiseBitmaps(number, &group));
  PrunePending();

  struct Found {
    Extent extent;
    BlockState was;
    bool meta;
  };
  std::vector<Found> found;
  std::set<uint32_t> bitmaps;
  uint64_t start_of_group = geometry_.GroupStart(number).v;
  uint64_t data = 0, meta = 0;
  auto overlaps = [&](uint64_t start, uint64_t count) {
    for (const Found& f : found) {
      if (f.extent.start.v < start + count && start < f.extent.start.v + f.extent.count) return true;
    }
    return false;
  };
  // One pass over the group's bitmaps from the cursor on; runs shorter than `least` are left.
  auto scan = [&](BlockState state, bool for_meta, uint32_t least, uint32_t index, uint32_t from, uint32_t to) {
    uint64_t& got = for_meta ? meta : data;
    uint64_t want = for_meta ? need->meta_want : need->data_want;
    const auto& states = group.bitmaps[index].as<DiskBitmap>();
    ForEachRun(states, state, from, to, 1u << 20, [&](uint32_t start, uint32_t count) {
      if (got >= want || found.size() >= kExtentsPerClaim) return false;
      uint64_t block = start_of_group + uint64_t{index} * kBlocksPerBitmap + start;
      if (count < least && count < want - got) return true;
      auto n = std::min<uint64_t>(count, want - got);
      if (overlaps(block, n) || Blocked(block, n)) return true;
      found.push_back({{BlockNo(block), n}, state, for_meta});
      bitmaps.insert(index);
      got += n;
      return true;
    });
  };
  auto bitmap_count = geometry_.bitmap_blocks;
  uint32_t cursor = hints_[number].cursor;
  auto first = static_cast<uint32_t>(cursor / kBlocksPerBitmap % bitmap_count);
  for (uint32_t pass = 0; pass < 4; ++pass) {
    bool for_meta = pass < 2;
    BlockState state = pass == 0 ? BlockState::kMetaFree : BlockState::kFree;
    uint32_t least = pass == 2 ? kGoodRun : 1;
    // The first bitmap is looked at from the cursor, and last of all before it.
    for (uint32_t k = 0; k <= bitmap_count; ++k) {
      uint64_t got = for_meta ? meta : data;
      if (got >= (for_meta ? need->meta_want : need->data_want) || found.size() >= kExtentsPerClaim) break;
      uint32_t index = (first + k) % bitmap_count;
      HF_CO_TRY(co_await LoadBitmap(&group, number, index));
      auto within = static_cast<uint32_t>(cursor % kBlocksPerBitmap);
      uint32_t from = k == 0 && !for_meta ? within : 0;
      uint32_t to = k == bitmap_count && !for_meta ? within : static_cast<uint32_t>(kBlocksPerBitmap);
      if (k == bitmap_count && for_meta) break;
      scan(state, for_meta, least, index, from, to);
    }
  }
  if (found.empty()) co_return Status();
  for (const Found& f : found)
    for (uint64_t i = 0; i < f.extent.count; ++i)
      if (cache_.Dirty(BlockNo(f.extent.start.v + i)))
        co_return Error(Errc::kCorrupt, "the bitmap calls block " + std::to_string(f.extent.start.v + i) + " free, which is in use");
  auto tx = co_await journal_.Begin(static_cast<uint32_t>(1 + bitmaps.size()));
  if (!tx.ok()) co_return tx.error();
  uint64_t floor = group.header.as<DiskGroup>().version_floor;
  for (const Found& f : found)
    HF_CO_TRY(SetStates(*tx, group, number, f.extent, f.was, f.meta ? BlockState::kMeta : BlockState::kData));
  claims_changed_ = true;
  for (const Found& f : found) {
    if (f.meta) {
      for (uint64_t i = 0; i < f.extent.count; ++i)
        claims_->AddMeta(f.extent.start.v + i, {floor, f.was == BlockState::kFree});
    } else {
      claims_->AddData(f.extent.start.v, f.extent.count);
      hints_[number].cursor = static_cast<uint32_t>(f.extent.start.v + f.extent.count - start_of_group);
    }
  }
  tx->Finish();
  need->Got(data, meta);
  group_ = number;
  co_return Status();
}

Task<Status> Allocator::ClaimRound(Need* need, uint64_t first_group, bool probe) {
  for (uint64_t k = 0; k < geometry_.group_count && !need->satisfied(); ++k) {
    uint64_t number = (first_group + k) % geometry_.group_count;
    const GroupHint& hint = hints_[number];
    bool promising = !hint.known || (need->data_min > 0 && hint.free > 0) || (need->meta_min > 0 && hint.free + hint.meta_free > 0);
    if (!probe && !promising) continue;
    HF_CO_TRY(co_await ClaimFrom(number, need));
  }
  co_return Status();
}

// REQUIRES: the refill mutex held.
Task<Status> Allocator::Refill(ReserveRequest request) {
  HF_CHECK(open_, "space is reserved before the allocator is open");
  Need need;
  uint64_t have_data = claims_->data_free() - data_promised_;
  uint64_t have_meta = claims_->meta_free() - meta_promised_;
  uint64_t kept = request.emergency ? 0 : knobs_.emergency_meta;
  uint64_t want_meta = request.meta + kept;
  // Near full the pool is kept small: what lies in it is missed elsewhere.
  uint64_t free = free_sum_ > 0 ? static_cast<uint64_t>(free_sum_) : 0;
  uint64_t ahead_data = std::min<uint64_t>(knobs_.data_pool_blocks, free / 64);
  uint64_t ahead_meta = std::min<uint64_t>(knobs_.meta_pool, free / 64 + knobs_.emergency_meta);
  if (claims_->extents() > kExtentsMax) ahead_data = ahead_meta = 0;
  if (request.data > have_data) {
    need.data_min = request.data - have_data;
    need.data_want = need.data_min + ahead_data;
  }
  if (request.meta > 0 && want_meta > have_meta) {
    need.meta_min = want_meta - have_meta;
    need.meta_want = need.meta_min + ahead_meta;
  }
  uint64_t first = geometry_.InGroups(request.goal) ? geometry_.GroupOf(request.goal) : group_;
  // A round takes only so many extents of each group: where space is in small pieces it takes several.
  for (uint64_t missing = UINT64_MAX; need.data_min + need.meta_min < missing;) {
    missing = need.data_min + need.meta_min;
    HF_CO_TRY(co_await ClaimRound(&need, first, false));
    if (need.satisfied()) co_return Status();
  }

  // Short of space. What was freed but is not durable yet, what is free for metadata only, what hints do not know.
  if (!pending_free_.empty()) {
    HF_CO_TRY(co_await journal_.Commit());
    HF_CO_TRY(co_await ClaimRound(&need, first, false));
    if (need.satisfied()) co_return Status();
  }
  Instant now = Executor::Current().clock().Now();
  if (probed_.ns != 0 && now < probed_ + Seconds(1)) co_return Errc::kNoSpace;
  // While no group is locked here: the others lock groups to give back.
  if (shrink_others_) co_await shrink_others_();
  HF_CO_TRY(co_await ClaimRound(&need, first, true));
  if (need.satisfied()) co_return Status();
  bool any = false;
  if (need.data_min > 0) {
    HF_CO_TRY(co_await ReleaseMetaFree(&any));
    if (any) HF_CO_TRY(co_await ClaimRound(&need, first, false));
  }
  if (need.satisfied()) co_return Status();
  probed_ = now;
  co_return Errc::kNoSpace;
}

// Every journal is checkpointed while the group's lock keeps others from freeing more into it; then no old image of
// these blocks is left anywhere, and they become plain free.
Task<Status> Allocator::ReleaseMetaFree(bool* any) {
  constexpr uint32_t kWorthwhile = 1;
  for (uint64_t number = 0; number < geometry_.group_count; ++number) {
    if (hints_[number].meta_free < kWorthwhile) continue;
    auto locked = co_await LockGroup(number);
    if (!locked.ok()) co_return locked.error();
    GroupLocks::Group group = std::move(*locked);
    if (group.header.as<DiskGroup>().meta_free_count == 0) continue;
    if (checkpoint_others_ && !HF_MUTANT(kMetaFreeUnasked)) {
      Status others = co_await checkpoint_others_();
      if (!others.ok()) {
        HF_LOG(LogLevel::kInfo, "alloc", "metadata_space_kept", {{"group", number}, {"why", others.error().ToString()}});
        co_return Status();
      }
    }
    HF_CO_TRY(co_await journal_.Checkpoint());
    for (uint32_t b = 0; b < geometry_.bitmap_blocks; ++b) {
      HF_CO_TRY(co_await LoadBitmap(&group, number, b));
      std::vector<Extent> runs;
      uint64_t base = geometry_.GroupStart(number).v + uint64_t{b} * kBlocksPerBitmap;
      ForEachRun(group.bitmaps[b].as<DiskBitmap>(), BlockState::kMetaFree, 0, kBlocksPerBitmap, kBlocksPerBitmap, [&](uint32_t start, uint32_t count) {
        runs.push_back({BlockNo(base + start), count});
        return true;
      });
      if (runs.empty()) continue;
      auto tx = co_await journal_.Begin(2);
      if (!tx.ok()) co_return tx.error();
      for (const Extent& run : runs) HF_CO_TRY(SetStates(*tx, group, number, run, BlockState::kMetaFree, BlockState::kFree));
      tx->Finish();
      *any = true;
    }
    HF_LOG(LogLevel::kInfo, "alloc", "metadata_space_released", {{"group", number}});
  }
  co_return Status();
}

Task<Status> Allocator::ReturnPool(uint64_t keep_data, uint64_t keep_meta) {
  uint64_t spare_data = claims_->data_free() - std::min(claims_->data_free(), data_promised_ + keep_data);
  uint64_t spare_meta = claims_->meta_free() - std::min(claims_->meta_free(), meta_promised_ + keep_meta);
  std::vector<ClaimExtent> out = claims_->TakeSpare(spare_data, spare_meta);
  // They stay claimed until the transaction that frees them; an error on the way leaves the rest claimed.
  while (!out.empty()) {
    std::set<uint64_t> groups;
    std::vector<ClaimExtent> batch;
    while (!out.empty()) {
      groups.insert(geometry_.GroupOf(BlockNo(out.back().start)));
      if (groups.size() > kFreeGroupsMax / 2) break;
      batch.push_back(out.back());
      out.pop_back();
    }
    std::vector<Extent> extents;
    for (const ClaimExtent& e : batch) extents.push_back({BlockNo(e.start), e.count});
    auto locks = co_await LockGroupsFor(std::move(extents));
    if (!locks.ok()) co_return locks.error();
    auto tx = co_await journal_.Begin(locks->credits());
    if (!tx.ok()) co_return tx.error();
    for (const ClaimExtent& e : batch) {
      uint64_t number = geometry_.GroupOf(BlockNo(e.start));
      BlockState from = e.kind == ClaimKind::kData ? BlockState::kData : BlockState::kMeta;
      BlockState to = e.kind == ClaimKind::kMeta ? BlockState::kMetaFree : BlockState::kFree;
      HF_CO_TRY(SetStates(*tx, locks->groups_.at(number), number, {BlockNo(e.start), e.count}, from, to));
    }
    for (const ClaimExtent& e : batch) {
      if (e.kind == ClaimKind::kData) {
        claims_->EndData(e.start, e.count);
      } else {
        claims_->EndMeta(e.start);
      }
    }
    claims_changed_ = true;
    tx->Finish();
  }
  co_return Status();
}

Task<Status> Allocator::ReturnClaims(MountNo journal, Interrupt* interrupt) {
  if (journal.v >= geometry_.journal_count) co_return Error(Errc::kInvalid, "no journal " + std::to_string(journal.v));
  uint64_t first = geometry_.JournalStart(journal).v + kJournalClaimsIndex;
  for (uint32_t i = 0; i < kClaimsBlocks; ++i) {
    auto block = co_await cache_.Read(BlockNo(first + i), BlockType::kClaims, JournalResource(journal));
    if (!block.ok()) co_return block.error();
    HF_CO_TRY(co_await ReturnClaimsOf(*block, interrupt));
  }
  co_return Status();
}

// A few groups per transaction; the claims block shrinks in the same one.
Task<Status> Allocator::ReturnClaimsOf(BlockRef block, Interrupt* interrupt) {
  for (;;) {
    auto claims = DecodeClaims(block.as<DiskClaims>());
    if (!claims.ok()) co_return claims.error();
    if (claims->empty()) co_return Status();
    std::set<uint64_t> groups;
    std::vector<Extent> extents;
    size_t n = 0;
    for (; n < claims->size(); ++n) {
      const ClaimExtent& e = (*claims)[claims->size() - 1 - n];
      if (!geometry_.ValidTarget(BlockNo(e.start), e.count)) co_return Error(Errc::kCorrupt, "a claim lies outside the groups");
      groups.insert(geometry_.GroupOf(BlockNo(e.start)));
      if (groups.size() > kFreeGroupsMax / 2) break;
      extents.push_back({BlockNo(e.start), e.count});
    }
    auto locks = co_await LockGroupsFor(std::move(extents), interrupt);
    if (!locks.ok()) co_return locks.error();
    auto tx = co_await journal_.Begin(locks->credits() + 1);
    if (!tx.ok()) co_return tx.error();
    for (size_t i = 0; i < n; ++i) {
      ClaimExtent e = claims->back();
      claims->pop_back();
      uint64_t number = geometry_.GroupOf(BlockNo(e.start));
      BlockState from = e.kind == ClaimKind::kData ? BlockState::kData : BlockState::kMeta;
      BlockState to = e.kind == ClaimKind::kMeta ? BlockState::kMetaFree : BlockState::kFree;
      HF_CO_TRY(SetStates(*tx, locks->groups_.at(number), number, {BlockNo(e.start), e.count}, from, to));
    }
    EncodeClaims(*claims, &As<DiskClaims>(tx->Change(block)));
    tx->Finish();
  }
}

Task<Status> Allocator::ShrinkPool() {
  // One that is short itself has nothing to give, and may be waiting for the very mount that asks.
  if (refill_.locked()) co_return Status();
  auto guard = co_await refill_.Lock();
  auto done = co_await ReturnPool(0, knobs_.emergency_meta);
  co_return done;
}

Task<Status> Allocator::LoadTotals() {
  AlignedBuffer buffer(kBlockSize);
  int64_t sum = 0;
  for (uint64_t number = 0; number < geometry_.group_count; ++number) {
    BlockNo at = geometry_.GroupStart(number);
    auto read = co_await cache_.device().Read(at.v * kBlockSize, buffer.span());
    if (!read.ok()) co_return read.error();
    // Without the lock a header may be torn or old: it is a hint.
    if (!CheckBlock(std::as_const(buffer).span(), at, BlockType::kGroup, geometry_.uuid).ok()) continue;
    const auto& header = As<DiskGroup>(std::as_const(buffer).span());
    sum += header.free_count + header.meta_free_count;
    hints_[number] = {true, header.free_count, header.meta_free_count, hints_[number].cursor};
  }
  free_sum_ = sum;
  co_return Status();
}

}  // namespace holdfast::fs
