// Allocator: freeing, and changing states in bitmaps.
#include <algorithm>
#include <set>

#include "fs/alloc.h"
#include "base/mutants.h"
#include "fs/alloc_bits.h"

namespace holdfast::fs {
namespace {

uint32_t* CountOf(uint32_t (&counts)[4], BlockState state) { return &counts[static_cast<unsigned>(state)]; }

}  // namespace

Task<Result<GroupLocks>> Allocator::LockGroupsFor(std::vector<Extent> extents, Interrupt* interrupt) {
  std::map<uint64_t, std::set<uint32_t>> wanted;  // group -> bitmaps
  for (const Extent& e : extents) {
    if (!geometry_.ValidTarget(e.start, e.count))
      co_return Error(Errc::kCorrupt, "extent " + std::to_string(e.start.v) + "+" + std::to_string(e.count) + " is outside the groups");
    uint32_t first = geometry_.OffsetInGroup(e.start);
    auto last = static_cast<uint32_t>(first + e.count - 1);
    for (uint32_t b = first / kBlocksPerBitmap; b <= last / kBlocksPerBitmap; ++b) wanted[geometry_.GroupOf(e.start)].insert(b);
  }
  HF_CHECK(wanted.size() <= kFreeGroupsMax, "freeing in %zu groups at once", wanted.size());
  GroupLocks locks;
  for (auto& [number, bitmaps] : wanted) {
    auto group = co_await LockGroup(number, interrupt);
    if (!group.ok()) co_return group.error();
    GroupLocks::Group& into = locks.groups_[number];
    into = std::move(*group);
    if (into.header.as<DiskGroup>().flags & kGroupBitmapsUnwritten)
      co_return Error(Errc::kCorrupt, "group " + std::to_string(number) + " was never used, yet blocks of it are freed");
    for (uint32_t index : bitmaps) HF_CO_TRY(co_await LoadBitmap(&into, number, index));
    locks.credits_ += 1 + static_cast<uint32_t>(bitmaps.size());
  }
  co_return std::move(locks);
}

Status Allocator::SetStates(Transaction& tx, GroupLocks::Group& group, uint64_t number, Extent extent, BlockState from,
                            BlockState to) {
  auto offset = static_cast<uint32_t>(extent.start.v - geometry_.GroupStart(number).v);
  auto end = static_cast<uint32_t>(offset + extent.count);
  for (uint32_t i = offset; i < end;) {
    auto index = static_cast<uint32_t>(i / kBlocksPerBitmap);
    auto stop = static_cast<uint32_t>(std::min<uint64_t>(end, uint64_t{index + 1} * kBlocksPerBitmap));
    auto bitmap = group.bitmaps.find(index);
    HF_CHECK(bitmap != group.bitmaps.end(), "bitmap %u of group %llu is not locked", index, static_cast<unsigned long long>(number));
    const auto& states = bitmap->second.as<DiskBitmap>();
    for (uint32_t k = i; k < stop; ++k) {
      if (StateAt(states, k % kBlocksPerBitmap) != from)
        return Error(Errc::kCorrupt, "bitmap: block " + std::to_string(geometry_.GroupStart(number).v + k) + " is in state " +
                                         std::to_string(static_cast<int>(StateAt(states, k % kBlocksPerBitmap))) + ", expected " +
                                         std::to_string(static_cast<int>(from)));
    }
    auto& writable = As<DiskBitmap>(tx.Change(bitmap->second));
    for (uint32_t k = i; k < stop; ++k) SetStateAt(writable, k % kBlocksPerBitmap, to);
    i = stop;
  }
  auto& header = As<DiskGroup>(tx.Change(group.header));
  uint32_t counts[4] = {header.free_count, header.data_count, header.meta_count, header.meta_free_count};
  auto n = static_cast<uint32_t>(extent.count);
  if (*CountOf(counts, from) < n)
    return Error(Errc::kCorrupt, "group " + std::to_string(number) + ": its counts do not match its bitmaps");
  *CountOf(counts, from) -= n;
  *CountOf(counts, to) += n;
  header.free_count = counts[0];
  header.data_count = counts[1];
  header.meta_count = counts[2];
  header.meta_free_count = counts[3];
  auto is_free = [](BlockState s) { return s == BlockState::kFree || s == BlockState::kMetaFree; };
  int64_t gained = (is_free(to) ? int64_t{n} : 0) - (is_free(from) ? int64_t{n} : 0);
  BlockRef kept = group.header;
  tx.OnFinish([this, number, kept, gained] {
    free_sum_ += gained;
    delta_ += gained;
    Learn(number, kept);
  });
  return {};
}

Status Allocator::FreeData(Transaction& tx, GroupLocks& locks, Extent extent) {
  if (!geometry_.ValidTarget(extent.start, extent.count)) return Error(Errc::kCorrupt, "data extent outside the groups");
  uint64_t number = geometry_.GroupOf(extent.start);
  auto group = locks.groups_.find(number);
  HF_CHECK(group != locks.groups_.end(), "group %llu is not locked for freeing", static_cast<unsigned long long>(number));
  HF_TRY(SetStates(tx, group->second, number, extent, BlockState::kData, BlockState::kFree));
  uint64_t record = tx.sequence();
  tx.OnFinish([this, extent, record] { pending_free_.emplace(extent.start.v, std::pair(extent.count, record)); });
  return {};
}

Status Allocator::FreeMeta(Transaction& tx, GroupLocks& locks, BlockRef block) {
  BlockNo at = block.number();
  if (!geometry_.ValidTarget(at)) return Error(Errc::kCorrupt, "metadata block outside the groups");
  uint64_t number = geometry_.GroupOf(at);
  auto group = locks.groups_.find(number);
  HF_CHECK(group != locks.groups_.end(), "group %llu is not locked for freeing", static_cast<unsigned long long>(number));
  BlockState to = HF_MUTANT(kMetaFreeAtOnce) ? BlockState::kFree : BlockState::kMetaFree;
  HF_TRY(SetStates(tx, group->second, number, {at, 1}, BlockState::kMeta, to));
  auto& header = As<DiskGroup>(tx.Change(group->second.header));
  // One above: a changed image of the block may be in a record that has not been closed yet.
  if (!HF_MUTANT(kNoVersionFloor)) header.version_floor = std::max<uint64_t>(header.version_floor, block.version() + 1);
  tx.Forget(block);
  return {};
}

}  // namespace holdfast::fs
