// Vfs: read and write.
#include <sys/stat.h>

#include <algorithm>
#include <cstring>

#include "fs/vfs.h"
#include "base/mutants.h"
#include "fs/vfs_data.h"

namespace holdfast::fs {

void KillPrivileges(Inode* inode) {
  uint32_t mode = inode->core.mode;
  uint32_t kill = mode & S_ISUID;
  if ((mode & S_IXGRP) != 0) kill |= mode & S_ISGID;
  inode->core.mode = mode & ~kill;
}

namespace {

bool Aligned(uint64_t offset, const std::byte* memory, uint64_t length) {
  return (offset | reinterpret_cast<uintptr_t>(memory) | length) % kBlockSize == 0;
}

// Disk blocks from file offset `at` on into memory: straight where everything is aligned, else through a buffer.
Task<Status> ReadBlocks(VfsCore* core, Mapping mapped, uint64_t at, std::span<std::byte> out) {
  uint64_t skip = at % kBlockSize;
  uint64_t disk = mapped.start.v * kBlockSize;
  if (skip == 0 && Aligned(0, out.data(), out.size())) {
    auto read = co_await core->parts.device->Read(disk, out);
    co_return read;
  }
  AlignedBuffer bounce(skip + out.size());
  auto read = co_await core->parts.device->Read(disk, bounce.span());
  if (!read.ok()) co_return read;
  std::memcpy(out.data(), bounce.data() + skip, out.size());
  co_return Status();
}

// Fills out with [offset, offset + out.size()) of the file; `room` is how far the memory behind it may be used.
Task<Status> ReadRange(VfsCore* core, Inode* inode, uint64_t offset, std::span<std::byte> out, uint64_t room) {
  InodeTree t(*core->parts.cache, *inode, NodeKind::kExtents);
  Extents extents(t.tree, core->parts.cache->geometry());
  uint64_t end = offset + out.size();
  for (uint64_t at = offset; at < end;) {
    uint64_t page = at / kBlockSize, skip = at % kBlockSize;
    std::byte* to = out.data() + (at - offset);
    auto dirty = inode->data.pages().lower_bound(page);
    bool any = dirty != inode->data.pages().end();
    if (any && dirty->first == page) {
      uint64_t n = std::min(end - at, kBlockSize - skip);
      std::memcpy(to, dirty->second.bytes + skip, n);
      at += n;
      continue;
    }
    uint64_t stop = (end + kBlockSize - 1) / kBlockSize;
    if (any) stop = std::min(stop, dirty->first);
    HF_CO_LOAD(mapped, extents.Map(page, stop - page), core, inode);
    uint64_t n = std::min(end - at, mapped->count * kBlockSize - skip);
    if (mapped->hole() || mapped->unwritten) {
      std::memset(to, 0, n);
    } else {
      // The end of the file may be read to the end of its block if the buffer has the room.
      uint64_t whole = mapped->count * kBlockSize;
      uint64_t used = static_cast<uint64_t>(to - out.data());
      uint64_t length = skip == 0 && used + whole <= room && whole - n < kBlockSize ? whole : n;
      auto read = co_await ReadBlocks(core, *mapped, at, std::span<std::byte>(to, length));
      if (!read.ok()) co_return read;
    }
    at += n;
  }
  co_return Status();
}

void ReadInline(const Inode& inode, uint64_t offset, std::span<std::byte> out) {
  auto page = inode.data.pages().find(0);
  const std::byte* from = page != inode.data.pages().end() ? page->second.bytes : inode.data_area().data();
  std::memcpy(out.data(), from + offset, out.size());
}

}  // namespace

Task<Result<ReadResult>> Vfs::Read(KernelInode node, uint64_t offset, std::span<std::byte> out, ReadOptions options) {
  VfsCore* core = core_.get();
  LockOptions lock_options;
  lock_options.page_io = options.page_io;
  lock_options.page_read = options.page_io;
  lock_options.interrupt = options.interrupt;
  auto locked = co_await core->Lock(node, options.mode, lock_options);
  if (!locked.ok()) co_return locked.error();
  Inode* inode = &**locked;
  if (inode->directory()) co_return Errc::kIsDirectory;
  if (!inode->regular()) co_return Errc::kInvalid;
  ReadResult result;
  result.file_size = inode->size();
  result.mode = locked->guard().mode();
  result.acquisition = locked->guard().acquisition();
  if (offset >= inode->size() || out.empty()) co_return result;
  uint64_t n = std::min<uint64_t>(out.size(), inode->size() - offset);
  if (inode->inline_data()) {
    ReadInline(*inode, offset, out.first(n));
  } else {
    auto read = co_await ReadRange(core, inode, offset, out.first(n), out.size());
    if (!read.ok()) co_return read.error();
  }
  result.bytes = n;
  co_return result;
}

namespace {

void CopyIn(Inode* inode, uint64_t offset, std::span<const std::byte> in) {
  auto it = inode->data.pages().find(offset / kBlockSize);
  for (size_t done = 0; done < in.size(); ++it) {
    uint64_t skip = (offset + done) % kBlockSize;
    size_t n = std::min<size_t>(in.size() - done, kBlockSize - skip);
    if (it->second.bytes + skip != in.data() + done) std::memcpy(it->second.bytes + skip, in.data() + done, n);
    done += n;
  }
}

// Memory is kept as long as one of its pages is dirty: only if most of it is.
PageSource SourceOf(uint64_t offset, std::span<const std::byte> in, const std::shared_ptr<void>& memory) {
  constexpr size_t kWorthKeeping = 512 * 1024;
  if (!memory || in.size() < kWorthKeeping || !Aligned(offset, in.data(), in.size())) return {};
  return {const_cast<std::byte*>(in.data()), memory};
}

// Room in memory for what is coming: this file's data is written back first when it, or all files', are much.
Task<Status> MakeRoom(VfsCore* core, Inode* inode) {
  const VfsKnobs& knobs = core->parts.knobs;
  bool much = inode->data.bytes() >= knobs.inode_dirty_bytes_max || inode->data.runs() >= knobs.inode_dirty_runs_max ||
              core->dirty_bytes() >= knobs.dirty_bytes_max;
  if (!much || !inode->data.dirty()) co_return Status();
  auto written = co_await core->WriteBack(inode);
  co_return written;
}

}  // namespace

Task<Result<WriteResult>> Vfs::Write(KernelInode node, uint64_t offset, std::span<const std::byte> in,
                                     WriteOptions options) {
  VfsCore* core = core_.get();
  LockOptions lock_options;
  lock_options.page_io = options.page_io;
  lock_options.interrupt = options.interrupt;
  auto locked = co_await core->Lock(node, LockMode::kEx, lock_options);
  if (!locked.ok()) co_return locked.error();
  Inode* inode = &**locked;
  if (!inode->regular()) co_return inode->directory() ? Errc::kIsDirectory : Errc::kInvalid;
  if (options.append && !HF_MUTANT(kAppendAtOffset)) offset = inode->size();
  WriteResult result;
  result.offset = offset;
  result.bytes = in.size();
  result.acquisition = locked->guard().acquisition();
  if (options.page_io) in = in.first(offset >= inode->size() ? 0 : std::min<uint64_t>(in.size(), inode->size() - offset));
  result.file_size = inode->size();
  if (in.empty()) co_return result;
  if (offset > kFileSizeMax - in.size()) co_return Errc::kFileTooBig;
  auto room = co_await MakeRoom(core, inode);
  if (!room.ok()) co_return room.error();
  if (offset + in.size() > inode->size()) {
    auto finished = co_await core->FinishTruncate(inode);
    if (!finished.ok()) co_return finished.error();
    if (offset > inode->size()) {
      auto tail = co_await core->ZeroTail(inode, inode->size());
      if (!tail.ok()) co_return tail.error();
    }
  }
  size_t before = inode->data.bytes();
  PageSource source = SourceOf(offset, in, options.memory);
  auto prepared = co_await core->PreparePages(inode, offset, in.size(), options.interrupt, std::move(source));
  if (prepared.ok()) {
    CopyIn(inode, offset, in);
    inode->core.size = std::max<uint64_t>(inode->core.size, offset + in.size());
    if (options.kill_privileges) KillPrivileges(inode);
    inode->Touch(core->Now(), true);
    inode->dirty_core = true;
  }
  core->DirtyChanged(inode, before);
  if (!prepared.ok()) co_return prepared.error();
  result.file_size = inode->size();
  if (options.sync) {
    auto written = co_await core->WriteBack(inode);
    if (!written.ok()) co_return written.error();
    locked->Release();
    auto synced = co_await core->parts.journal->Sync();
    if (!synced.ok()) co_return synced.error();
  }
  co_return result;
}

}  // namespace holdfast::fs
