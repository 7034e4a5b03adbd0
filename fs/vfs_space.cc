// Vfs: sizes and holes: truncation, fallocate, SEEK_DATA and SEEK_HOLE.
#include <algorithm>
#include <cstring>

#include "fs/vfs.h"
#include "fs/vfs_data.h"

namespace holdfast::fs {
namespace {

inline constexpr uint64_t kPreallocateStep = 16384;  // blocks of one transaction's reservation

uint64_t PageUp(uint64_t bytes) { return (bytes + kBlockSize - 1) / kBlockSize; }

Task<Status> Shrink(VfsCore* core, Inode* inode, uint64_t size) {
  // The last block keeps its bytes past the new end on disk (until the truncation is durable they may still be wanted);
  // whoever extends the file zeroes them (ZeroTail, PageForUpdate).
  DirtyPage* last = inode->data.Find(size / kBlockSize);
  if (last != nullptr && !inode->inline_data())
    std::memset(last->bytes + size % kBlockSize, 0, kBlockSize - size % kBlockSize);
  size_t before = inode->data.bytes();
  inode->data.Drop(PageUp(size));
  core->DirtyChanged(inode, before);
  if (inode->inline_data()) {
    if (DirtyPage* page = inode->data.Find(0)) std::memset(page->bytes + size, 0, kInlineDataMax - size);
    auto tx = co_await core->parts.journal->Begin(1);
    if (!tx.ok()) co_return tx.error();
    auto area = tx->Change(inode->block).subspan(kDataRootOffset, kDataRootBytes);
    std::memset(area.data() + size, 0, area.size() - size);
    inode->core.size = size;
    inode->disk_size = std::min(inode->disk_size, size);
    inode->Log(*tx, false);
    tx->Finish();
    co_return Status();
  }
  auto tx = co_await core->parts.journal->Begin(1);
  if (!tx.ok()) co_return tx.error();
  inode->core.size = size;
  inode->disk_size = std::min(inode->disk_size, size);
  inode->core.state = inode->core.state | kInodeTruncating;
  inode->Log(*tx, false);
  tx->Finish();
  auto freed = co_await core->FinishTruncate(inode);
  co_return freed;
}

Task<Status> Grow(VfsCore* core, Inode* inode, uint64_t size) {
  auto finished = co_await core->FinishTruncate(inode);
  if (!finished.ok()) co_return finished;
  if (inode->inline_data() && size > kInlineDataMax) {
    auto left = co_await core->LeaveInline(inode);
    if (!left.ok()) co_return left;
  } else {
    auto tail = co_await core->ZeroTail(inode, inode->size());
    if (!tail.ok()) co_return tail;
  }
  inode->core.size = size;
  inode->dirty_core = true;
  co_return Status();
}

}  // namespace

Task<Status> SetSize(VfsCore* core, Inode* inode, uint64_t size) {
  if (size > kFileSizeMax) co_return Errc::kFileTooBig;
  Status done;
  if (size < inode->size()) {
    done = co_await Shrink(core, inode, size);
  } else if (size > inode->size()) {
    done = co_await Grow(core, inode, size);
  } else if (size == 0 || (inode->core.state & kInodeTruncating) != 0) {
    done = co_await core->FinishTruncate(inode);
  }
  co_return done;
}

Task<Status> ZeroBytes(VfsCore* core, Inode* inode, uint64_t offset, uint64_t length) {
  if (length == 0) co_return Status();
  uint64_t page = offset / kBlockSize;
  if (inode->data.Find(page) == nullptr) {
    InodeTree t(*core->parts.cache, *inode, NodeKind::kExtents);
    Extents extents(t.tree, core->parts.cache->geometry());
    HF_CO_LOAD(mapped, extents.Map(page, 1), core, inode);
    if (mapped->hole() || mapped->unwritten) co_return Status();
  }
  size_t before = inode->data.bytes();
  auto prepared = co_await core->PreparePages(inode, offset, length);
  if (prepared.ok()) std::memset(inode->data.Find(page)->bytes + offset % kBlockSize, 0, length);
  core->DirtyChanged(inode, before);
  co_return prepared;
}

namespace {

// Whole blocks become a hole, the bytes at both ends zeroes.
Task<Status> Punch(VfsCore* core, Inode* inode, uint64_t offset, uint64_t end) {
  uint64_t first = PageUp(offset), last = end / kBlockSize;
  if (first > last) {
    auto inside = co_await ZeroBytes(core, inode, offset, end - offset);
    co_return inside;
  }
  auto head = co_await ZeroBytes(core, inode, offset, first * kBlockSize - offset);
  if (!head.ok()) co_return head;
  auto tail = co_await ZeroBytes(core, inode, last * kBlockSize, end - last * kBlockSize);
  if (!tail.ok()) co_return tail;
  if (first == last) co_return Status();
  size_t before = inode->data.bytes();
  inode->data.Drop(first, last - first);
  core->DirtyChanged(inode, before);
  auto freed = co_await core->FreeBlocks(inode, first, last - first, true);
  co_return freed;
}

// Holes of the range become unwritten extents, one reservation and transaction per step.
Task<Status> Preallocate(VfsCore* core, Inode* inode, uint64_t first, uint64_t last) {
  // Dirty pages over holes get their blocks now; what is left are true holes.
  auto written = co_await core->WriteBack(inode);
  if (!written.ok()) co_return written;
  InodeTree t(*core->parts.cache, *inode, NodeKind::kExtents);
  Extents extents(t.tree, core->parts.cache->geometry());
  for (uint64_t at = first; at < last;) {
    HF_CO_LOAD(mapped, extents.Map(at, std::min(last - at, kPreallocateStep)), core, inode);
    if (!mapped->hole()) {
      at += mapped->count;
      continue;
    }
    uint32_t nodes = static_cast<uint32_t>(t.tree.InsertBlocks() + 4);
    ReserveRequest request{nodes, mapped->count, BlockNo(inode->read_ahead != 0 ? inode->read_ahead : inode->number.v)};
    auto reserved = co_await core->Reserve(request);
    if (!reserved.ok()) co_return reserved.error();
    uint64_t step_end = at + mapped->count;
    while (at < step_end) {
      HF_CO_LOAD(loaded, extents.Load(at, 1), core, inode);
      auto tx = co_await core->parts.journal->Begin(1 + TreeCredits(t.tree));
      if (!tx.ok()) co_return tx.error();
      if (reserved->meta_left() < t.tree.InsertBlocks()) break;  // very fragmented: reserve anew
      Extent e = reserved->TakeData(step_end - at, request.goal);
      t.store.Join(&*tx, &*reserved);
      auto inserted = extents.Insert(at, e, true);
      if (!inserted.ok()) {
        core->parts.allocator->GiveBack(e);
        tx->Abort();
        inode->Reload();
        co_return inserted;
      }
      core->parts.allocator->Commit(*tx, e);
      inode->core.blocks = inode->core.blocks + e.count;
      inode->read_ahead = e.start.v + e.count;
      request.goal = BlockNo(inode->read_ahead);
      inode->Log(*tx, false);
      tx->Finish();
      at += e.count;
    }
  }
  co_return Status();
}

}  // namespace

Task<Result<Attr>> Vfs::Fallocate(KernelInode node, uint64_t offset, uint64_t length, uint32_t flags,
                                   Interrupt* interrupt) {
  VfsCore* core = core_.get();
  bool keep = (flags & kFallocKeepSize) != 0, punch = (flags & kFallocPunchHole) != 0;
  bool zero = (flags & kFallocZeroRange) != 0;
  if ((flags & ~(kFallocKeepSize | kFallocPunchHole | kFallocZeroRange | kFallocKillPrivileges)) != 0) co_return Errc::kUnsupported;
  if (length == 0 || (punch && (!keep || zero))) co_return Errc::kInvalid;
  if (offset > kFileSizeMax - length) co_return Errc::kFileTooBig;
  auto locked = co_await core->Lock(node, LockMode::kEx, Interruptible(interrupt));
  if (!locked.ok()) co_return locked.error();
  Inode* inode = &**locked;
  if (!inode->regular()) co_return inode->directory() ? Errc::kIsDirectory : Errc::kUnsupported;
  uint64_t end = offset + length;
  Status done = co_await core->FinishTruncate(inode);
  if (done.ok()) done = co_await core->LeaveInline(inode);
  if (!done.ok()) co_return done.error();
  // Punching past the end of the file has nothing to keep there.
  if (punch || zero) done = co_await Punch(core, inode, offset, end);
  if (done.ok() && !punch) done = co_await Preallocate(core, inode, offset / kBlockSize, PageUp(end));
  if (done.ok() && !punch && !keep && end > inode->size()) done = co_await SetSize(core, inode, end);
  if (!done.ok()) co_return done.error();
  auto tx = co_await core->parts.journal->Begin(1);
  if (!tx.ok()) co_return tx.error();
  if ((flags & kFallocKillPrivileges) != 0) KillPrivileges(inode);
  inode->Touch(core->Now(), true);
  inode->Log(*tx, !inode->data.dirty());
  tx->Finish();
  co_return core->AttrOf(*inode);
}

namespace {

Task<Result<uint64_t>> Seek(VfsCore* core, KernelInode node, uint64_t offset, bool want_data, Interrupt* interrupt) {
  auto locked = co_await core->Lock(node, LockMode::kPr, Interruptible(interrupt));
  if (!locked.ok()) co_return locked.error();
  if ((*locked)->data.dirty()) {
    locked->Release();
    auto again = co_await core->Lock(node, LockMode::kEx, Interruptible(interrupt));
    if (!again.ok()) co_return again.error();
    *locked = std::move(*again);
    auto written = co_await core->WriteBack(&**locked);
    if (!written.ok()) co_return written.error();
  }
  Inode* inode = &**locked;
  if (!inode->regular()) co_return Errc::kInvalid;
  if (offset >= inode->size()) co_return Errc::kNoData;
  if (inode->inline_data()) co_return want_data ? offset : inode->size();
  InodeTree t(*core->parts.cache, *inode, NodeKind::kExtents);
  Extents extents(t.tree, core->parts.cache->geometry());
  uint64_t end = PageUp(inode->size());
  for (uint64_t at = offset / kBlockSize; at < end;) {
    HF_CO_LOAD(mapped, extents.Map(at, end - at), core, inode);
    bool data = !mapped->hole() && !mapped->unwritten;
    if (data == want_data) co_return std::max(offset, at * kBlockSize);
    at += mapped->count;
  }
  if (want_data) co_return Errc::kNoData;
  co_return inode->size();
}

}  // namespace

Task<Result<uint64_t>> Vfs::SeekData(KernelInode node, uint64_t offset, Interrupt* interrupt) {
  return Seek(core_.get(), node, offset, true, interrupt);
}
Task<Result<uint64_t>> Vfs::SeekHole(KernelInode node, uint64_t offset, Interrupt* interrupt) {
  return Seek(core_.get(), node, offset, false, interrupt);
}

}  // namespace holdfast::fs
