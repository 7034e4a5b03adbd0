// Requests about open files and their data: CREATE, OPEN, READ, WRITE, FLUSH, RELEASE, FSYNC, FALLOCATE, LSEEK.
// Rules 2, 4 and 5 of filesystem.md meet here: which handles the kernel may cache for, and what a page READ must hold.
#include <cerrno>
#include <fcntl.h>
#include <unistd.h>

#include "base/log.h"
#include "fs/fuse/fuse_wire.h"
#include "fs/fuse/server.h"

namespace holdfast::fs::fuse {
namespace {

using Request = FuseServer::Request;
using DirRequest = KernelCache::DirRequest;
using PageRequest = KernelCache::PageRequest;

constexpr uint32_t kOpenKillSuidgid = 1u << 0;
constexpr uint32_t kWriteKillSuidgid = 1u << 2;

FileHandle* HandleOf(const fuse_file_info* info) { return reinterpret_cast<FileHandle*>(info->fh); }

bool Writes(int flags) { return (flags & O_ACCMODE) != O_RDONLY; }

FileHandle MakeHandle(KernelInode inode, int flags) {
  FileHandle h;
  h.inode = inode;
  h.write = Writes(flags);
  h.append = (flags & O_APPEND) != 0;
  h.direct = (flags & O_DIRECT) != 0 || (h.write && h.append);
  h.sync = (flags & (O_SYNC | O_DSYNC)) != 0;
  return h;
}

// The wire's fuse_open_out; libfuse 3.14 has no field for parallel direct writes.
fuse_open_out OpenOut(FuseServer* s, FileHandle* handle, int flags, bool keep_cache) {
  fuse_open_out out{};
  out.fh = reinterpret_cast<uint64_t>(handle);
  if (handle->direct) out.open_flags |= FOPEN_DIRECT_IO;
  if ((flags & O_DIRECT) != 0) out.open_flags |= kOpenParallelDirectWrites;
  if (keep_cache) out.open_flags |= FOPEN_KEEP_CACHE;
  if (!handle->direct) s->cache().GavePages(handle->inode);
  return out;
}

Task<void> DoOpen(FuseServer* s, Request r, KernelInode inode, int flags, bool kill) {
  OpenOptions options;
  options.write = Writes(flags);
  options.truncate = (flags & O_TRUNC) != 0;
  options.kill_privileges = kill;
  // Before the lock is taken: from then on its downgrade drops the pages (rule 5).
  if (options.write) s->cache().OpenedForWriting(inode);
  auto opened = co_await s->vfs().Open(inode, options);
  if (s->Suspended()) co_await s->AwaitLease();
  if (!opened.ok()) {
    if (options.write) s->cache().ClosedForWriting(inode);
    r.Error(opened.error());
    co_return;
  }
  FileHandle handle = MakeHandle(inode, flags);
  bool got_ex = !handle.write || opened->mode == LockMode::kEx;
  if (!got_ex) handle.direct = true;
  FileHandle* kept = s->NewHandle(handle);
  // Opening for write without EX empties the cache: its pages were read under PR, a store would send no request.
  fuse_open_out out = OpenOut(s, kept, flags, got_ex);
  r.Buffer(&out, sizeof(out));
}

Task<void> DoCreate(FuseServer* s, Request r, DirRequest, KernelInode parent, std::string name, uint32_t mode, int flags,
                    bool kill) {
  OpenOptions options;
  options.write = Writes(flags);
  options.truncate = (flags & O_TRUNC) != 0;
  options.kill_privileges = kill;
  auto entry = co_await s->vfs().Create(parent, name, mode, (flags & O_EXCL) != 0, CallerOf(r.raw()), options);
  if (s->Suspended()) co_await s->AwaitLease();
  if (!entry.ok()) {
    r.Error(entry.error());
    co_return;
  }
  KernelInode inode = entry->attr.node;
  bool existed = s->cache().Knows(inode);
  FileHandle handle = MakeHandle(inode, flags);
  if (handle.write) {
    s->cache().OpenedForWriting(inode);
    // Somebody else may have taken the lock since: then this handle is one without EX (rule 5).
    if (!s->cache().HeldEx(inode, entry->attr.acquisition)) handle.direct = true;
  }
  FileHandle* kept = s->NewHandle(handle);
  struct {
    fuse_entry_out entry;
    fuse_open_out open;
  } out{};
  s->FillEntryOut(parent, name, *entry, !existed, &out.entry);  // rule 3: CREATE of an existing file
  out.open = OpenOut(s, kept, flags, !existed || !handle.write);
  r.Buffer(&out, sizeof(out));
}

// page: from the page cache. A fault on a direct handle too: it has no lock owner.
Task<void> DoRead(FuseServer* s, Request r, std::optional<PageRequest> pages, FileHandle* handle, uint64_t offset,
                  size_t size) {
  AlignedBuffer buffer = s->TakeBuffer(size);
  KernelInode inode = handle->inode;
  ReadOptions options;
  options.page_io = pages.has_value();
  Result<ReadResult> read = Errc::kIo;
  for (;;) {
    if (options.page_io) {
      co_await s->cache().ReadGate(inode);
      options.mode = s->cache().PageReadMode(inode);
    }
    auto result = co_await s->vfs().Read(inode, offset, buffer.span().subspan(0, size), options);
    read = std::move(result);
    if (s->Suspended()) co_await s->AwaitLease();
    if (!read.ok() || !options.page_io) break;
    // Opened for writing while we read under PR, or the lock has gone meanwhile: such a page must not come into the
    // kernel's cache.
    bool mode_holds = options.mode == s->cache().PageReadMode(inode);
    if (mode_holds && s->cache().PageReplyValid(inode, read->acquisition, options.mode)) break;
  }
  if (read.ok()) {
    r.Buffer(buffer.data(), read->bytes);
  } else {
    r.Error(read.error());
  }
  s->GiveBuffer(std::move(buffer));
}

// memory and pages live as long as the request.
Task<void> DoWrite(FuseServer* s, Request r, [[maybe_unused]] RequestBuffer memory,
                   [[maybe_unused]] std::optional<PageRequest> pages, FileHandle* handle, uint64_t offset,
                   std::span<const std::byte> data, WriteOptions options) {
  KernelInode inode = handle->inode;
  auto written = co_await s->vfs().Write(inode, offset, data, options);
  if (s->Suspended()) co_await s->AwaitLease();
  if (!written.ok()) {
    r.Error(written.error());
    co_return;
  }
  // Rule 4: the kernel believes in another place; what it caches of the true one is old.
  if (options.append && written->offset != offset) {
    co_await s->cache().DropRange(inode, static_cast<int64_t>(written->offset), static_cast<int64_t>(written->bytes));
  }
  if (options.kill_privileges && s->cache().SetIdGiven(inode)) co_await s->cache().DropRange(inode, -1, 0);
  r.Write(written->bytes);
}

Task<void> DoFlush(FuseServer* s, Request r, FileHandle* handle, InodeNo number, uint64_t owner) {
  if (handle->locked || s->ranges().Holds(number)) {
    Status dropped = co_await s->ranges().Flushed(number, owner);
    if (!dropped.ok()) {
      r.Error(dropped.error());
      co_return;
    }
  }
  auto flushed = co_await s->vfs().Flush(handle->inode);
  r.Reply(flushed);
}

Task<void> DoRelease(FuseServer* s, Request r, FileHandle* handle, InodeNo number) {
  if (handle->locked) {
    Status dropped = co_await s->ranges().Released(number, reinterpret_cast<uint64_t>(handle));
    if (!dropped.ok()) HF_LOG(LogLevel::kDebug, "fuse", "release", {{"error", dropped.error().ToString()}});
  }
  auto released = co_await s->vfs().Release(handle->inode);
  if (handle->write) s->cache().ClosedForWriting(handle->inode);
  s->DropHandle(handle);
  r.Reply(released);
}

Task<void> DoFsync(FuseServer* s, Request r, DirRequest, KernelInode inode, bool data_only) {
  auto synced = co_await s->vfs().Fsync(inode, data_only);
  r.Reply(synced);
}

Task<void> DoFallocate(FuseServer* s, Request r, KernelInode inode, uint64_t offset, uint64_t length, uint32_t mode) {
  auto done = co_await s->vfs().Fallocate(inode, offset, length, mode);
  if (done.ok()) {
    r.Errno(0);
  } else {
    r.Error(done.error());
  }
}

Task<void> DoSeek(FuseServer* s, Request r, KernelInode inode, uint64_t offset, bool data) {
  Result<uint64_t> found = Errc::kIo;
  if (data) {
    auto result = co_await s->vfs().SeekData(inode, offset);
    found = std::move(result);
  } else {
    auto result = co_await s->vfs().SeekHole(inode, offset);
    found = std::move(result);
  }
  if (!found.ok()) {
    r.Errno(found.code() == Errc::kNoData ? ENXIO : ErrnoOf(found.code()));
    co_return;
  }
  fuse_lseek_out out{*found};
  r.Buffer(&out, sizeof(out));
}

// O_TMPFILE: a file without a name; the kernel keeps no entry of it.
Task<void> DoTmpFile(FuseServer* s, Request r, KernelInode parent, uint32_t mode, int flags) {
  auto entry = co_await s->vfs().TmpFile(parent, mode, CallerOf(r.raw()));
  if (s->Suspended()) co_await s->AwaitLease();
  if (!entry.ok()) {
    r.Error(entry.error());
    co_return;
  }
  KernelInode inode = entry->attr.node;
  FileHandle handle = MakeHandle(inode, flags);
  if (handle.write) {
    s->cache().OpenedForWriting(inode);
    if (!s->cache().HeldEx(inode, entry->attr.acquisition)) handle.direct = true;
  }
  FileHandle* kept = s->NewHandle(handle);
  struct {
    fuse_entry_out entry;
    fuse_open_out open;
  } out{};
  entry->parent_acquisition = 0;
  s->FillEntryOut(parent, "", *entry, true, &out.entry);
  out.open = OpenOut(s, kept, flags, true);
  r.Buffer(&out, sizeof(out));
}

void Open(fuse_req_t req, fuse_ino_t inode, fuse_file_info* info) {
  FuseServer* s = FuseServer::Of(req);
  if (!s->Begin(req)) return;
  bool kill = (s->session()->Body<fuse_open_in>()->open_flags & kOpenKillSuidgid) != 0;
  Detach(DoOpen(s, Request(s, req), inode, info->flags, kill));
}

void Create(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode, fuse_file_info* info) {
  FuseServer* s = FuseServer::Of(req);
  if (!s->Begin(req)) return;
  if (s->session()->IsTmpFile()) {
    Detach(DoTmpFile(s, Request(s, req), parent, mode, info->flags));
    return;
  }
  bool kill = (s->session()->Body<fuse_create_in>()->open_flags & kOpenKillSuidgid) != 0;
  Detach(DoCreate(s, Request(s, req), DirRequest(&s->cache(), parent), parent, name, mode, info->flags, kill));
}

void Read(fuse_req_t req, fuse_ino_t inode, size_t size, off_t offset, fuse_file_info* info) {
  FuseServer* s = FuseServer::Of(req);
  if (!s->Begin(req)) return;
  FileHandle* handle = HandleOf(info);
  std::optional<PageRequest> pages;
  if (!handle->direct || info->lock_owner == 0) pages.emplace(&s->cache(), inode, offset, size, false);
  Detach(DoRead(s, Request(s, req), std::move(pages), handle, offset, size));
}

void Write(fuse_req_t req, fuse_ino_t inode, const char* data, size_t size, off_t offset, fuse_file_info* info) {
  FuseServer* s = FuseServer::Of(req);
  if (!s->Begin(req)) return;
  FileHandle* handle = HandleOf(info);
  const auto* body = s->session()->Body<fuse_write_in>();
  WriteOptions options;
  options.page_io = info->writepage != 0;
  options.append = (info->flags & O_APPEND) != 0 && !options.page_io;
  options.kill_privileges = (body->write_flags & kWriteKillSuidgid) != 0 && !options.page_io;
  options.sync = (info->flags & (O_SYNC | O_DSYNC)) != 0 && !options.page_io;
  std::optional<PageRequest> pages;
  if (!handle->direct || options.page_io) pages.emplace(&s->cache(), inode, offset, size, true);
  std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data), size);
  Detach(DoWrite(s, Request(s, req), s->session()->TakeBuffer(), std::move(pages), handle, offset, bytes, options));
}

void Flush(fuse_req_t req, fuse_ino_t inode, fuse_file_info* info) {
  FuseServer* s = FuseServer::Of(req);
  if (!s->Begin(req)) return;
  Detach(DoFlush(s, Request(s, req), HandleOf(info), s->cache().NumberOf(inode), info->lock_owner));
}

void Release(fuse_req_t req, fuse_ino_t inode, fuse_file_info* info) {
  FuseServer* s = FuseServer::Of(req);
  Detach(DoRelease(s, Request(s, req), HandleOf(info), s->cache().NumberOf(inode)));
}

void Fsync(fuse_req_t req, fuse_ino_t inode, int data_only, fuse_file_info*) {
  FuseServer* s = FuseServer::Of(req);
  if (s->Begin(req)) Detach(DoFsync(s, Request(s, req), DirRequest(&s->cache(), inode), inode, data_only != 0));
}

void Fallocate(fuse_req_t req, fuse_ino_t inode, int mode, off_t offset, off_t length, fuse_file_info*) {
  FuseServer* s = FuseServer::Of(req);
  if (s->Begin(req)) Detach(DoFallocate(s, Request(s, req), inode, offset, length, static_cast<uint32_t>(mode)));
}

void Seek(fuse_req_t req, fuse_ino_t inode, off_t offset, int whence, fuse_file_info*) {
  FuseServer* s = FuseServer::Of(req);
  if (s->Begin(req)) Detach(DoSeek(s, Request(s, req), inode, offset, whence == SEEK_DATA));
}

}  // namespace

void AddDataOps(fuse_lowlevel_ops* ops) {
  ops->open = &Open;
  ops->create = &Create;
  ops->read = &Read;
  ops->write = &Write;
  ops->flush = &Flush;
  ops->release = &Release;
  ops->fsync = &Fsync;
  ops->fallocate = &Fallocate;
  ops->lseek = &Seek;
}

}  // namespace holdfast::fs::fuse
