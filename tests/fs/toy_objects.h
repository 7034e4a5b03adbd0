// Toy objects on a StorageRig: an index block, cells (metadata blocks) that each own one extent of data. Enough to
// exercise journal, allocator and replay without inodes. State is the model: what the cells hold.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "fs/alloc_bits.h"
#include "tests/fs/storage_rig.h"

namespace holdfast::fs::test {

struct ToyCell {
  uint64_t value = 0;
  uint32_t data_blocks = 0;
  auto operator<=>(const ToyCell&) const = default;
};
using ToyState = std::map<uint32_t, ToyCell>;

struct DiskToyIndex {
  DiskBlockHeader header;
  Le64 cell[400];
};
struct DiskToyCell {
  DiskBlockHeader header;
  Le64 value;
  Le64 data_start;
  Le64 data_count;
};

inline constexpr uint64_t kToyIndexInode = 1'000'000;
inline Resource CellResource(uint32_t cell) { return ResourceOf(InodeNo(2'000'000 + cell)); }

class Toys {
 public:
  Toys(StorageRig* rig) : rig_(rig) {}
  BlockNo index_block() const { return index_.number(); }
  BlockNo PlaceOf(uint32_t cell) const { return BlockNo(index_.as<DiskToyIndex>().cell[cell]); }
  const ToyState& state() const { return state_; }

  Task<Status> CreateIndex() {
    auto guard = co_await rig_->locks->Lock(ResourceOf(InodeNo(kToyIndexInode)), LockMode::kEx);
    auto r = co_await rig_->alloc->Reserve({.meta = 1});
    if (!r.ok()) co_return r.error();
    auto tx = co_await rig_->journal->Begin(2);
    if (!tx.ok()) co_return tx.error();
    index_ = r->New(*tx, BlockType::kTree, ResourceOf(InodeNo(kToyIndexInode)), BlockNo());
    tx->Finish();
    co_return Status();
  }

  // Makes or overwrites a cell with new data of so many blocks.
  Task<Status> Put(uint32_t cell, uint64_t value, uint32_t blocks) {
    if (state_.contains(cell)) HF_CO_TRY(co_await Remove(cell));
    auto index_guard = co_await rig_->locks->Lock(ResourceOf(InodeNo(kToyIndexInode)), LockMode::kEx);
    auto r = co_await rig_->alloc->Reserve({.meta = 1, .data = blocks});
    if (!r.ok()) co_return r.error();
    std::vector<Extent> extents;
    // One extent only: a toy remembers one.
    Extent data = r->TakeData(blocks, BlockNo());
    AlignedBuffer bytes(data.count * kBlockSize);
    for (uint64_t i = 0; i < data.count; ++i) *reinterpret_cast<uint64_t*>(bytes.data() + i * kBlockSize) = value + i;
    HF_CO_TRY(co_await rig_->device->Write(data.start.v * kBlockSize, std::as_const(bytes).span(), WriteFlags::kNone));
    auto guard = co_await rig_->locks->Lock(CellResource(cell), LockMode::kEx);
    auto tx = co_await rig_->journal->Begin(4);
    if (!tx.ok()) co_return tx.error();
    BlockRef block = r->New(*tx, BlockType::kTree, CellResource(cell), BlockNo());
    auto& disk = As<DiskToyCell>(tx->Change(block));
    disk.value = value;
    disk.data_start = data.start.v;
    disk.data_count = data.count;
    rig_->alloc->Commit(*tx, data);
    As<DiskToyIndex>(tx->Change(index_)).cell[cell] = block.number().v;
    tx->Finish();
    state_[cell] = {value, static_cast<uint32_t>(data.count)};
    co_return Status();
  }

  Task<Status> Remove(uint32_t cell) {
    auto index_guard = co_await rig_->locks->Lock(ResourceOf(InodeNo(kToyIndexInode)), LockMode::kEx);
    auto guard = co_await rig_->locks->Lock(CellResource(cell), LockMode::kEx);
    BlockNo at(index_.as<DiskToyIndex>().cell[cell]);
    auto block = co_await rig_->cache->Read(at, BlockType::kTree, CellResource(cell));
    if (!block.ok()) co_return block.error();
    Extent data{BlockNo(block->as<DiskToyCell>().data_start), block->as<DiskToyCell>().data_count};
    std::vector<Extent> extents = {data, {at, 1}};
    auto groups = co_await rig_->alloc->LockGroupsFor(std::move(extents));
    if (!groups.ok()) co_return groups.error();
    auto tx = co_await rig_->journal->Begin(1 + groups->credits());
    if (!tx.ok()) co_return tx.error();
    HF_CO_TRY(rig_->alloc->FreeData(*tx, *groups, data));
    HF_CO_TRY(rig_->alloc->FreeMeta(*tx, *groups, *block));
    As<DiskToyIndex>(tx->Change(index_)).cell[cell] = 0;
    tx->Finish();
    state_.erase(cell);
    co_return Status();
  }

  // Changes a cell, then changes its mind.
  Task<Status> AbortedChange(uint32_t cell) {
    auto guard = co_await rig_->locks->Lock(CellResource(cell), LockMode::kEx);
    BlockNo at(index_.as<DiskToyIndex>().cell[cell]);
    auto block = co_await rig_->cache->Read(at, BlockType::kTree, CellResource(cell));
    if (!block.ok()) co_return block.error();
    auto r = co_await rig_->alloc->Reserve({.meta = 1});
    if (!r.ok()) co_return r.error();
    auto tx = co_await rig_->journal->Begin(3);
    if (!tx.ok()) co_return tx.error();
    As<DiskToyCell>(tx->Change(*block)).value = 666;
    BlockRef extra = r->New(*tx, BlockType::kTree, CellResource(cell), BlockNo());
    As<DiskToyCell>(tx->Change(extra)).value = 667;
    co_return Status();  // no Finish
  }

  void ReleaseIndex() { index_.Reset(); }

 private:
  StorageRig* rig_;
  BlockRef index_;
  ToyState state_;
};

// Reads the toys of a volume back and checks that bitmaps and counts agree with them. "" or what is wrong.
// REQUIRES: claims returned, nothing pending (a clean volume).
inline Task<std::string> ReadToys(BlockDevice* device, Superblock super, BlockNo index_at, ToyState* out) {
  const Geometry& g = super.geometry;
  AlignedBuffer index(kBlockSize), block(kBlockSize);
  auto read = co_await device->Read(index_at.v * kBlockSize, index.span());
  if (!read.ok()) co_return read.error().ToString();
  auto checked = CheckBlock(std::as_const(index).span(), index_at, BlockType::kTree, g.uuid);
  if (!checked.ok()) co_return "index: " + checked.error().ToString();
  std::map<uint64_t, BlockState> used;
  used[super.root_inode.v] = BlockState::kMeta;
  used[index_at.v] = BlockState::kMeta;
  for (uint32_t c = 0; c < 400; ++c) {
    BlockNo at(As<DiskToyIndex>(std::as_const(index).span()).cell[c]);
    if (at.v == 0) continue;
    read = co_await device->Read(at.v * kBlockSize, block.span());
    if (!read.ok()) co_return read.error().ToString();
    checked = CheckBlock(std::as_const(block).span(), at, BlockType::kTree, g.uuid);
    if (!checked.ok()) co_return "cell " + std::to_string(c) + ": " + checked.error().ToString();
    if (BlockResource(std::as_const(block).span()) != CellResource(c)) co_return "cell " + std::to_string(c) + " belongs to another object";
    const auto& cell = As<DiskToyCell>(std::as_const(block).span());
    ToyCell toy{cell.value, static_cast<uint32_t>(cell.data_count)};
    (*out)[c] = toy;
    if (!used.emplace(at.v, BlockState::kMeta).second) co_return "block used twice";
    uint64_t start = cell.data_start;
    for (uint64_t i = 0; i < toy.data_blocks; ++i) {
      if (!used.emplace(start + i, BlockState::kData).second) co_return "data block used twice";
      read = co_await device->Read((start + i) * kBlockSize, block.span());
      if (!read.ok()) co_return read.error().ToString();
      if (*reinterpret_cast<uint64_t*>(block.data()) != toy.value + i) co_return "cell " + std::to_string(c) + ": data is not what was written";
    }
  }
  for (uint64_t n = 0; n < g.group_count; ++n) {
    read = co_await device->Read(g.GroupStart(n).v * kBlockSize, block.span());
    if (!read.ok()) co_return read.error().ToString();
    checked = CheckBlock(std::as_const(block).span(), g.GroupStart(n), BlockType::kGroup, g.uuid);
    if (!checked.ok()) co_return checked.error().ToString();
    const DiskGroup header = As<DiskGroup>(std::as_const(block).span());
    if (header.flags & kGroupBitmapsUnwritten) continue;
    StateCounts counts;
    for (uint32_t b = 0; b < g.bitmap_blocks; ++b) {
      BlockNo at = g.BitmapOf(n, b);
      read = co_await device->Read(at.v * kBlockSize, block.span());
      if (!read.ok()) co_return read.error().ToString();
      checked = CheckBlock(std::as_const(block).span(), at, BlockType::kBitmap, g.uuid);
      if (!checked.ok()) co_return checked.error().ToString();
      for (uint32_t i = 0; i < kBlocksPerBitmap; ++i) {
        uint64_t offset = uint64_t{b} * kBlocksPerBitmap + i;
        if (offset >= g.GroupBlocks(n)) break;
        BlockNo number(g.GroupStart(n).v + offset);
        if (g.IsOverhead(number)) continue;
        BlockState state = StateAt(As<DiskBitmap>(std::as_const(block).span()), i);
        auto it = used.find(number.v);
        bool free = state == BlockState::kFree || state == BlockState::kMetaFree;
        if (it == used.end() ? !free : state != it->second)
          co_return "bitmap: block " + std::to_string(number.v) + " is in state " + std::to_string(static_cast<int>(state)) +
              (it == used.end() ? ", nothing uses it" : ", used differently");
        switch (state) {
          case BlockState::kFree: ++counts.free; break;
          case BlockState::kData: ++counts.data; break;
          case BlockState::kMeta: ++counts.meta; break;
          case BlockState::kMetaFree: ++counts.meta_free; break;
        }
      }
    }
    if (counts.free != header.free_count || counts.data != header.data_count || counts.meta != header.meta_count ||
        counts.meta_free != header.meta_free_count)
      co_return "group " + std::to_string(n) + ": counts do not match the bitmaps";
  }
  co_return "";
}

}  // namespace holdfast::fs::test
