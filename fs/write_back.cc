// Write-back of one file's dirty pages: blocks are taken from the file's reservation in memory, the data is written
// and awaited, then transactions insert the extents and log the size (ordered data: what a logged size covers is on
// disk). Runs under the inode's EX lock with nobody else at it, also from its Flush hook: takes no cluster lock.
#include <algorithm>
#include <cstring>

#include "base/mutants.h"
#include "fs/vfs_core.h"

namespace holdfast::fs {

struct VfsCore::Piece {
  enum class Kind : uint8_t { kOverwrite, kUnwritten, kNew };
  uint64_t first = 0;  // file block
  uint64_t count = 0;
  BlockNo start;
  Kind kind = Kind::kOverwrite;
};

namespace {
inline constexpr size_t kPiecesPerTransaction = 16;  // fewer where the journal is small

// Where new blocks of a file should go: behind its last ones.
BlockNo GoalOf(const Inode& inode) { return BlockNo(inode.read_ahead != 0 ? inode.read_ahead : inode.number.v); }
}  // namespace

// Splits the dirty pages into runs that are contiguous in the file and on the disk.
Task<Result<std::vector<VfsCore::Piece>>> VfsCore::PlanWrites(Inode* inode) {
  std::vector<Piece> pieces;
  InodeTree t(*parts.cache, *inode, NodeKind::kExtents);
  Extents extents(t.tree, parts.cache->geometry());
  const auto& pages = inode->data.pages();
  uint64_t most = parts.knobs.io_bytes_max / kBlockSize;
  for (auto it = pages.begin(); it != pages.end();) {
    uint64_t first = it->first, run = 0;
    for (auto next = it; next != pages.end() && next->first == first + run && run < most; ++next) ++run;
    HF_CO_LOAD(mapped, extents.Map(first, run), this, inode);
    Piece piece{first, mapped->count, mapped->start,
                mapped->unwritten ? Piece::Kind::kUnwritten : Piece::Kind::kOverwrite};
    if (mapped->hole()) {
      if (inode->data.reserved.data_left() == 0) {
        GiveBackPieces(inode, pieces);
        co_return Error(Errc::kNoSpace, "a dirty page lost its promise");
      }
      uint64_t want = std::min(piece.count, inode->data.reserved.data_left());
      Extent taken = inode->data.reserved.TakeData(want, GoalOf(*inode));
      piece = {first, taken.count, taken.start, Piece::Kind::kNew};
    }
    if (piece.kind == Piece::Kind::kNew) inode->read_ahead = piece.start.v + piece.count;
    pieces.push_back(piece);
    std::advance(it, piece.count);
  }
  co_return pieces;
}

// One of several writers that share a list.
Task<void> VfsCore::WritePieces(Inode* inode, std::vector<Piece>* pieces, size_t* next, Status* result) {
  AlignedBuffer bounce;
  while (*next < pieces->size() && result->ok()) {
    const Piece& piece = (*pieces)[(*next)++];
    auto it = inode->data.pages().find(piece.first);
    std::byte* start = it->second.bytes;
    bool contiguous = true;
    for (uint64_t i = 0; i < piece.count; ++i, ++it)
      if (it->second.bytes != start + i * kBlockSize) contiguous = false;
    std::span<const std::byte> out(start, piece.count * kBlockSize);
    if (!contiguous) {
      if (bounce.size() < out.size()) bounce = AlignedBuffer(out.size());
      it = inode->data.pages().find(piece.first);
      for (uint64_t i = 0; i < piece.count; ++i, ++it)
        std::memcpy(bounce.data() + i * kBlockSize, it->second.bytes, kBlockSize);
      out = std::span<const std::byte>(bounce.data(), out.size());
    }
    auto written = co_await parts.device->Write(piece.start.v * kBlockSize, out, WriteFlags::kNone);
    if (!written.ok() && result->ok()) *result = written;
  }
}

Task<Status> VfsCore::LogPieces(Inode* inode, std::vector<Piece>* pieces) {
  std::vector<Piece*> change;
  for (Piece& p : *pieces)
    if (p.kind != Piece::Kind::kOverwrite) change.push_back(&p);
  size_t done = 0;
  do {
    InodeTree t(*parts.cache, *inode, NodeKind::kExtents);
    Extents extents(t.tree, parts.cache->geometry());
    uint32_t each = t.tree.Height() + 3, fixed = 1 + TreeCredits(t.tree), room = parts.journal->max_transaction_blocks();
    size_t most = room > fixed + each ? (room - fixed) / each : 1;
    size_t batch = std::min({kPiecesPerTransaction, most, change.size() - done});
    for (size_t i = done; i < done + batch; ++i) {
      HF_CO_LOAD(loaded, extents.Load(change[i]->first, change[i]->count), this, inode);
    }
    auto tx = co_await parts.journal->Begin(fixed + static_cast<uint32_t>(batch) * each);
    if (!tx.ok()) co_return tx.error();
    t.store.Join(&*tx, &inode->data.reserved);
    for (size_t i = done; i < done + batch; ++i) {
      const Piece& p = *change[i];
      Status status;
      if (p.kind == Piece::Kind::kNew) {
        status = extents.Insert(p.first, {p.start, p.count}, false);
        parts.allocator->Commit(*tx, {p.start, p.count});
        inode->core.blocks = inode->core.blocks + p.count;
      } else {
        if (!HF_MUTANT(kWrittenUnordered)) tx->OrderAfterData();
        status = extents.MarkWritten(p.first, p.count);
      }
      if (!status.ok()) {
        tx->Abort();
        inode->Reload();
        co_return status;
      }
    }
    bool last = done + batch == change.size();
    if (!last) {
      uint64_t end = (change[done + batch - 1]->first + change[done + batch - 1]->count) * kBlockSize;
      inode->disk_size = std::max(inode->disk_size, std::min<uint64_t>(inode->core.size, end));
    }
    inode->Log(*tx, last);
    tx->Finish();
    for (size_t i = 0; i < batch; ++i) change[done + i]->kind = Piece::Kind::kOverwrite;
    done += batch;
  } while (done < change.size());
  co_return Status();
}

// What was taken and not logged is promised to the pages again.
void VfsCore::GiveBackPieces(Inode* inode, const std::vector<Piece>& pieces) {
  ReserveRequest again;
  for (const Piece& p : pieces) {
    if (p.kind != Piece::Kind::kNew) continue;
    parts.allocator->GiveBack({p.start, p.count});
    again.data += p.count;
  }
  auto reserved = parts.allocator->TryReserve(again);
  if (reserved) inode->data.reserved.Merge(std::move(*reserved));
}

Task<Status> VfsCore::WriteInline(Inode* inode) {
  auto tx = co_await parts.journal->Begin(1);
  if (!tx.ok()) co_return tx.error();
  DirtyPage* page = inode->data.Find(0);
  if (page != nullptr) {
    auto area = tx->Change(inode->block).subspan(kDataRootOffset, kDataRootBytes);
    size_t size = inode->core.size;
    std::memcpy(area.data(), page->bytes, size);
    std::memset(area.data() + size, 0, area.size() - size);
  }
  inode->Log(*tx, true);
  tx->Finish();
  co_return Status();
}

Task<Status> VfsCore::WriteBack(Inode* inode) {
  if (!inode->data.dirty() && !inode->dirty_core) co_return Status();
  if (abandoned) co_return Errc::kFenced;
  size_t before = inode->data.bytes();
  if (inode->inline_data() || !inode->regular()) {
    auto logged = co_await WriteInline(inode);
    if (!logged.ok()) co_return logged;
    inode->data.Clear();
    DirtyChanged(inode, before);
    co_return Status();
  }
  auto pieces = co_await PlanWrites(inode);
  if (!pieces.ok()) co_return pieces.error();
  Status result;
  size_t next = 0;
  size_t writers = std::min(parts.knobs.ios_in_flight, pieces->size());
  if (writers <= 1) {
    co_await WritePieces(inode, &*pieces, &next, &result);
  } else {
    Scope writing;
    for (size_t i = 0; i < writers; ++i) writing.Spawn(WritePieces(inode, &*pieces, &next, &result));
    co_await writing.Join();
  }
  if (result.ok()) {
    auto logged = co_await LogPieces(inode, &*pieces);
    result = logged;
  }
  if (!result.ok()) {
    GiveBackPieces(inode, *pieces);
    co_return result;
  }
  inode->data.Clear();
  DirtyChanged(inode, before);
  co_return Status();
}

}  // namespace holdfast::fs
