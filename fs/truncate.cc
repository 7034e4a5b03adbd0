// Pages for writing into (promising their blocks first), leaving inline data, and freeing the blocks of a range in as
// many transactions as it takes. All under the inode's EX lock.
#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "fs/vfs_core.h"

namespace holdfast::fs {
namespace {

struct Run {
  uint64_t first = 0;
  uint64_t count = 0;
  bool hole = false;
};

// Tree nodes that the extents of so many dirty pages may need in the end.
uint32_t NodesFor(InodeTree& t, Inode& inode, uint64_t records, uint64_t runs) {
  NodeView root(inode.data_area());
  if (root.level() == 0 && root.FreeBytes() >= 2 * records * NodeView::Cost(sizeof(DiskExtent))) return 0;
  // Each run may split a leaf of its own (twice: in the middle of unwritten space); what it is fragmented into is near.
  return static_cast<uint32_t>(t.tree.InsertBlocks() + 2 * runs + records / 32 + 2);
}

}  // namespace

// Bytes of the file in one page that is not dirty yet: read, or zero.
Task<Result<DirtyPage*>> VfsCore::PageForUpdate(Inode* inode, uint64_t page) {
  DirtyPage* dirty = inode->data.Find(page);
  HF_CHECK(dirty != nullptr, "a page that was not prepared");
  if (dirty->promised || page * kBlockSize >= inode->core.size) co_return dirty;
  InodeTree t(*parts.cache, *inode, NodeKind::kExtents);
  Extents extents(t.tree, parts.cache->geometry());
  HF_CO_LOAD(mapped, extents.Map(page, 1), this, inode);
  if (mapped->hole() || mapped->unwritten) co_return dirty;
  auto read = co_await parts.device->Read(mapped->start.v * kBlockSize, std::span<std::byte>(dirty->bytes, kBlockSize));
  if (!read.ok()) co_return read.error();
  // After a crash between a truncation and its zeroed tail the block may have more than the file.
  uint64_t valid = inode->core.size - page * kBlockSize;
  if (valid < kBlockSize) std::memset(dirty->bytes + valid, 0, kBlockSize - valid);
  co_return dirty;
}

Task<Status> VfsCore::PreparePages(Inode* inode, uint64_t offset, uint64_t length, Interrupt* interrupt,
                                   PageSource source) {
  uint64_t end = offset + length;
  uint64_t first = offset / kBlockSize, last = (end - 1) / kBlockSize;
  if (inode->inline_data()) {
    if (end <= kInlineDataMax) {
      if (inode->data.Find(0) == nullptr) {
        inode->data.Add(0, 1, false);
        std::memcpy(inode->data.Find(0)->bytes, inode->data_area().data(), inode->core.size);
      }
      co_return Status();
    }
    auto left = co_await LeaveInline(inode);
    if (!left.ok()) co_return left;
  }
  InodeTree t(*parts.cache, *inode, NodeKind::kExtents);
  Extents extents(t.tree, parts.cache->geometry());
  std::vector<Run> runs;
  uint64_t holes = 0, added = 0;
  for (uint64_t at = first; at <= last;) {
    auto dirty = inode->data.pages().lower_bound(at);
    if (dirty != inode->data.pages().end() && dirty->first == at) {
      ++at;
      continue;
    }
    uint64_t stop = dirty == inode->data.pages().end() ? last + 1 : std::min(last + 1, dirty->first);
    HF_CO_LOAD(mapped, extents.Map(at, stop - at), this, inode);
    runs.push_back({at, mapped->count, mapped->hole()});
    if (mapped->hole()) holes += mapped->count;
    added += mapped->count;
    at += mapped->count;
  }
  if (runs.empty()) co_return Status();
  uint32_t nodes = NodesFor(t, *inode, inode->data.pages().size() + added, inode->data.runs() + runs.size());
  uint32_t have = inode->data.reserved.meta_left();
  ReserveRequest request{nodes > have ? nodes - have : 0, holes, BlockNo(inode->number.v)};
  if (request.meta > 0 || request.data > 0) {
    auto reserved = co_await Reserve(request, interrupt);
    if (!reserved.ok()) co_return reserved.error();
    inode->data.reserved.Merge(std::move(*reserved));
  }
  for (const Run& run : runs) {
    if (source.bytes != nullptr) {
      inode->data.Adopt(run.first, run.count, run.hole, source.bytes + (run.first - first) * kBlockSize, source.owner);
    } else {
      inode->data.Add(run.first, run.count, run.hole);
    }
  }
  // Partly overwritten pages at both ends keep what they had.
  for (const Run& run : runs) {
    bool head = run.first == first && offset % kBlockSize != 0;
    bool tail = run.first + run.count - 1 == last && end % kBlockSize != 0;
    if (run.hole || (!head && !tail)) continue;
    Status failed;
    if (head) {
      auto page = co_await PageForUpdate(inode, first);
      if (!page.ok()) failed = page.error();
    }
    if (failed.ok() && tail && !(head && first == last)) {
      auto page = co_await PageForUpdate(inode, last);
      if (!page.ok()) failed = page.error();
    }
    if (!failed.ok()) {
      for (const Run& r : runs) inode->data.Drop(r.first, r.count);
      co_return failed;
    }
  }
  co_return Status();
}

// The inline bytes go to a block of their own before the inode says so: what was synced stays synced.
Task<Status> VfsCore::LeaveInline(Inode* inode) {
  if (!inode->inline_data()) co_return Status();
  ReserveRequest request{0, 1, BlockNo(inode->number.v)};
  auto reserved = co_await Reserve(request);
  if (!reserved.ok()) co_return reserved.error();
  size_t before = inode->data.bytes();
  bool has_data = inode->core.size > 0;
  bool logged = inode->disk_size > 0;
  Extent block;
  if (has_data && logged) {
    AlignedBuffer buffer(kBlockSize);
    DirtyPage* page = inode->data.Find(0);
    std::memcpy(buffer.data(), page != nullptr ? page->bytes : inode->data_area().data(), inode->core.size);
    block = reserved->TakeData(1, BlockNo(inode->number.v));
    auto written = co_await parts.device->Write(block.start.v * kBlockSize, buffer.span(), WriteFlags::kNone);
    if (!written.ok()) {
      parts.allocator->GiveBack(block);
      co_return written;
    }
  }
  auto tx = co_await parts.journal->Begin(2);
  if (!tx.ok()) {
    if (block.count > 0) parts.allocator->GiveBack(block);
    co_return tx.error();
  }
  inode->core.state = inode->core.state & ~kInodeInlineData;
  fs::Node(tx->Change(inode->block).subspan(kDataRootOffset, kDataRootBytes)).Init(NodeKind::kExtents, 0, inode->owner());
  if (block.count > 0) {
    InodeTree t(*parts.cache, *inode, NodeKind::kExtents);
    t.store.Join(&*tx, nullptr);
    Extents extents(t.tree, parts.cache->geometry());
    auto inserted = extents.Insert(0, block, false);
    HF_CHECK(inserted.ok(), "an empty root takes an extent");
    parts.allocator->Commit(*tx, block);
    inode->core.blocks = inode->core.blocks + 1;
    inode->data.Drop(0, 1);
  }
  inode->Log(*tx, block.count > 0);
  tx->Finish();
  // Never logged inline: the page waits like any other, now with a promise.
  if (has_data && !logged) {
    DirtyPage* page = inode->data.Find(0);
    HF_CHECK(page != nullptr, "inline bytes that are neither logged nor dirty");
    page->promised = true;
    inode->data.AddPromise(1);
    inode->data.reserved.Merge(std::move(*reserved));
  }
  DirtyChanged(inode, before);
  co_return Status();
}

// REQUIRES: no dirty pages in the range.
Task<Status> VfsCore::FreeBlocks(Inode* inode, uint64_t first, uint64_t count, bool emergency) {
  for (;;) {
    InodeTree t(*parts.cache, *inode, NodeKind::kExtents);
    Extents extents(t.tree, parts.cache->geometry());
    HF_CO_LOAD(end, extents.End(), this, inode);
    if (*end <= first) co_return Status();
    uint64_t most = std::min(count, *end - first);
    HF_CO_LOAD(batch, extents.LastBatch(first, most, parts.knobs.free_extents_max), this, inode);
    if (batch->extents.empty()) co_return Status();
    HF_CO_LOAD(loaded, extents.Load(batch->first, batch->count), this, inode);
    // Cutting the middle out of an extent makes two of it.
    ReserveRequest request{static_cast<uint32_t>(t.tree.InsertBlocks() + 1), 0, BlockNo(inode->number.v), emergency};
    auto reserved = co_await Reserve(request);
    if (!reserved.ok()) co_return reserved.error();
    std::vector<Extent> lock_for = batch->extents;
    t.tree.NodesOfRange(batch->first, batch->first + batch->count, [&](BlockNo node) { AddGroup(&lock_for, node); });
    auto groups = co_await parts.allocator->LockGroupsFor(lock_for);
    if (!groups.ok()) co_return groups.error();
    uint32_t nodes = static_cast<uint32_t>(batch->extents.size()) / 16 + 2 * TreeCredits(t.tree);
    auto tx = co_await parts.journal->Begin(1 + nodes + groups->credits());
    if (!tx.ok()) co_return tx.error();
    t.store.Join(&*tx, &*reserved, parts.allocator, &*groups);
    std::vector<Extent> freed;
    Status status = extents.Remove(batch->first, batch->count, &freed);
    for (const Extent& e : freed) {
      if (status.ok()) status = parts.allocator->FreeData(*tx, *groups, e);
      inode->core.blocks = inode->core.blocks - e.count;
    }
    if (status.ok()) status = t.store.error();
    if (!status.ok()) {
      tx->Abort();
      inode->Reload();
      co_return status;
    }
    bool finished = !batch->more;
    inode->Log(*tx, false);
    tx->Finish();
    if (finished) co_return Status();
    count = batch->first - first;
  }
}

void VfsCore::AddGroup(std::vector<Extent>* extents, BlockNo block) {
  const Geometry& g = parts.cache->geometry();
  std::vector<uint64_t> groups;
  for (const Extent& e : *extents) groups.push_back(g.GroupOf(e.start));
  std::sort(groups.begin(), groups.end());
  groups.erase(std::unique(groups.begin(), groups.end()), groups.end());
  bool known = std::binary_search(groups.begin(), groups.end(), g.GroupOf(block));
  if (known || groups.size() < kFreeGroupsMax) extents->push_back({block, 1});
}

Task<Status> VfsCore::FinishTruncate(Inode* inode) {
  if ((inode->core.state & kInodeTruncating) == 0) co_return Status();
  uint64_t first = (inode->core.size + kBlockSize - 1) / kBlockSize;
  auto freed = co_await FreeBlocks(inode, first, UINT64_MAX - first, true);
  if (!freed.ok()) co_return freed;
  auto tx = co_await parts.journal->Begin(1);
  if (!tx.ok()) co_return tx.error();
  inode->core.state = inode->core.state & ~kInodeTruncating;
  inode->Log(*tx, false);
  tx->Finish();
  co_return Status();
}

// The bytes of the last page past new_size become zero, so that a later extension shows zeroes.
Task<Status> VfsCore::ZeroTail(Inode* inode, uint64_t new_size) {
  if (new_size % kBlockSize == 0 || inode->inline_data()) co_return Status();
  uint64_t page = new_size / kBlockSize;
  size_t before = inode->data.bytes();
  if (inode->data.Find(page) == nullptr) {
    InodeTree t(*parts.cache, *inode, NodeKind::kExtents);
    Extents extents(t.tree, parts.cache->geometry());
    HF_CO_LOAD(mapped, extents.Map(page, 1), this, inode);
    if (mapped->hole() || mapped->unwritten) co_return Status();
    inode->data.Add(page, 1, false);
    auto filled = co_await PageForUpdate(inode, page);
    if (!filled.ok()) {
      inode->data.Drop(page, 1);
      co_return filled.error();
    }
  }
  DirtyPage* dirty = inode->data.Find(page);
  std::memset(dirty->bytes + new_size % kBlockSize, 0, kBlockSize - new_size % kBlockSize);
  DirtyChanged(inode, before);
  co_return Status();
}

}  // namespace holdfast::fs
