// KernelRequests: open files and their data. Rules 2, 4 and 5 of filesystem.md meet here: which handles the kernel may
// cache for, and what a page READ must hold.
#include "base/log.h"
#include "base/mutants.h"
#include "fs/kernel_requests.h"

namespace holdfast::fs {
namespace {

constexpr Duration kFlushPatience = Milliseconds(300);  // of a process that is ending

FileHandle MakeHandle(KernelInode inode, OpenMode open) {
  FileHandle h;
  h.inode = inode;
  h.write = open.write;
  h.append = open.append;
  h.direct = open.direct || (h.write && h.append && !HF_MUTANT(kCachesAppends));
  h.sync = open.sync;
  return h;
}

}  // namespace

OpenAnswer KernelRequests::OpenedWith(FileHandle handle, OpenMode open, bool keep_pages) {
  ++handles_;
  OpenAnswer answer;
  answer.handle = new FileHandle(handle);
  answer.direct = handle.direct;
  answer.parallel_writes = open.direct;
  answer.keep_pages = keep_pages;
  if (!handle.direct) cache().OpenedCached(handle.inode);
  if (open.truncate) cache().TruncatedTo(handle.inode, 0);
  return answer;
}

// Opened for a process that is killed before it can be told.
Task<holdfast::Error> KernelRequests::CloseAgain(KernelInode inode) {
  auto released = co_await vfs().Release(inode);
  co_return released.ok() ? holdfast::Error(Errc::kInterrupted) : released.error();
}

Task<void> KernelRequests::DoOpen(KernelReplyPtr reply, KernelInode inode, OpenMode open) {
  OpenOptions options;
  options.write = open.write;
  options.truncate = open.truncate;
  options.kill_privileges = open.kill_privileges;
  // Before the lock is taken: from then on its downgrade drops the pages (rule 5).
  if (options.write) cache().OpenedForWriting(inode);
  options.interrupt = reply->interrupt();
  auto opened = co_await vfs().Open(inode, options);
  if (opened.ok() && Suspended()) {
    bool valid = co_await AwaitLease(reply->interrupt());
    if (!valid) opened = co_await CloseAgain(inode);
  }
  if (!opened.ok()) {
    if (options.write) cache().ClosedForWriting(inode);
    reply->Fail(opened.error());
    co_return;
  }
  FileHandle handle = MakeHandle(inode, open);
  bool got_ex = !handle.write || opened->mode == LockMode::kEx || HF_MUTANT(kKeepsPagesWithoutEx);
  if (!got_ex) handle.direct = true;
  // Opening for write without EX empties the cache: its pages were read under PR, a store would send no request.
  reply->Opened(OpenedWith(handle, open, got_ex));
}

FileHandle KernelRequests::NewFile(const fs::Attr& attr, OpenMode open) {
  FileHandle handle = MakeHandle(attr.node, open);
  if (!handle.write) return handle;
  cache().OpenedForWriting(attr.node);
  // Somebody else may have taken the lock since: then this handle is one without EX (rule 5).
  if (!cache().HeldEx(attr.node, attr.acquisition)) handle.direct = true;
  return handle;
}

Task<void> KernelRequests::DoCreate(KernelReplyPtr reply, DirRequest, KernelInode parent, std::string name, uint32_t mode,
                                    OpenMode open, Caller caller) {
  OpenOptions options;
  options.write = open.write;
  options.truncate = open.truncate;
  options.kill_privileges = open.kill_privileges;
  caller.interrupt = options.interrupt = reply->interrupt();
  auto entry = co_await vfs().Create(parent, name, mode, open.exclusive, caller, options);
  if (entry.ok() && Suspended()) {
    bool valid = co_await AwaitLease(reply->interrupt());
    if (!valid) entry = co_await CloseAgain(entry->attr.node);
  }
  if (!entry.ok()) {
    reply->Fail(entry.error());
    co_return;
  }
  bool existed = cache().Knows(entry->attr.node);
  FileHandle handle = NewFile(entry->attr, open);
  EntryAnswer answer = Judge(parent, name, *entry, !existed);  // rule 3: CREATE of an existing file
  reply->Created(answer, OpenedWith(handle, open, !existed || !handle.write));
}

// O_TMPFILE: a file without a name; the kernel keeps no entry of it.
Task<void> KernelRequests::DoTmpFile(KernelReplyPtr reply, KernelInode parent, uint32_t mode, OpenMode open, Caller caller) {
  caller.interrupt = reply->interrupt();
  auto entry = co_await vfs().TmpFile(parent, mode, caller);
  if (entry.ok() && Suspended()) {
    bool valid = co_await AwaitLease(reply->interrupt());
    if (!valid) entry = co_await CloseAgain(entry->attr.node);
  }
  if (!entry.ok()) {
    reply->Fail(entry.error());
    co_return;
  }
  FileHandle handle = NewFile(entry->attr, open);
  entry->parent_acquisition = 0;
  EntryAnswer answer = Judge(parent, "", *entry, true);
  reply->Created(answer, OpenedWith(handle, open, true));
}

// pages: it is the page cache that reads.
Task<void> KernelRequests::DoRead(KernelReplyPtr reply, std::optional<PageRequest> pages, FileHandle* handle,
                                  uint64_t offset, size_t size) {
  AlignedBuffer buffer = TakeBuffer(size);
  KernelInode inode = handle->inode;
  ReadOptions options;
  options.page_io = pages.has_value();
  options.interrupt = reply->interrupt();
  Result<ReadResult> read = Errc::kIo;
  for (;;) {
    if (options.page_io) {
      co_await cache().ReadGate(inode);
      options.mode = HF_MUTANT(kPagesUnderPr) ? LockMode::kPr : cache().PageReadMode(inode);
    }
    auto result = co_await vfs().Read(inode, offset, buffer.span().subspan(0, size), options);
    read = std::move(result);
    if (Suspended()) {
      bool valid = co_await AwaitLease(reply->interrupt());
      if (!valid) read = Errc::kInterrupted;
    }
    if (!read.ok() || !options.page_io) break;
    // Opened for writing while we read under PR, or the lock has gone meanwhile: such a page must not come into the
    // kernel's cache.
    bool mode_holds = options.mode == cache().PageReadMode(inode) || HF_MUTANT(kPagesUnderPr);
    if (HF_MUTANT(kPageRepliesUnchecked)) break;
    if (mode_holds && cache().PageReplyValid(inode, read->acquisition, options.mode)) break;
  }
  if (read.ok()) {
    if (options.page_io && read->bytes < size) cache().ReadEndsAt(inode, offset + read->bytes);
    reply->Data(buffer.span().subspan(0, read->bytes));
  } else {
    reply->Fail(read.error());
  }
  GiveBuffer(std::move(buffer));
}

// pages live as long as the request.
Task<void> KernelRequests::DoWrite(KernelReplyPtr reply, [[maybe_unused]] std::optional<PageRequest> pages,
                                   FileHandle* handle, uint64_t offset, std::span<const std::byte> data,
                                   WriteOptions options) {
  KernelInode inode = handle->inode;
  options.interrupt = reply->interrupt();
  auto written = co_await vfs().Write(inode, offset, data, options);
  if (Suspended()) {
    bool valid = co_await AwaitLease(reply->interrupt());
    if (!valid) written = Errc::kInterrupted;
  }
  if (!written.ok()) {
    reply->Fail(written.error());
    co_return;
  }
  // Rule 4: the kernel believes in another place; what it caches of the true one is old. And a direct WRITE drops the pages
  // of its range before it is sent, in older kernels not after: what was read in between is old as well.
  bool elsewhere = options.append && written->offset != offset;
  bool beside = handle->direct && !options.page_io && cache().HasPages(inode);
  if ((elsewhere || beside) && !HF_MUTANT(kAppendRangeKept)) {
    co_await cache().DropRange(inode, static_cast<int64_t>(written->offset), static_cast<int64_t>(written->bytes));
  }
  if (options.kill_privileges && cache().SetIdGiven(inode)) co_await cache().DropRange(inode, -1, 0);
  co_await cache().LetSizeArrive(inode);
  cache().WroteTo(inode, offset + written->bytes);
  reply->Written(written->bytes);
}

Task<void> KernelRequests::DoFlush(KernelReplyPtr reply, FileHandle* handle, uint64_t owner) {
  InodeNo number = cache().NumberOf(handle->inode);
  if (handle->locked || ranges().Holds(number)) {
    // The locks go all the same when nobody waits for it any more: the lock manager may be frozen.
    reply->EndWhenExiting(kFlushPatience);
    Task<Status> drop = ranges().Flushed(number, owner);
    auto dropped = co_await OrInterrupted<Status>(&background_, reply->interrupt(), std::move(drop));
    if (!dropped.ok()) {
      reply->Fail(dropped.error());
      co_return;
    }
  }
  auto flushed = co_await vfs().Flush(handle->inode);
  reply->Reply(flushed);
}

Task<void> KernelRequests::DoRelease(KernelReplyPtr reply, FileHandle* handle) {
  if (handle->locked) {
    Status dropped = co_await ranges().Released(cache().NumberOf(handle->inode), reinterpret_cast<uint64_t>(handle));
    if (!dropped.ok()) HF_LOG(LogLevel::kDebug, "fuse", "release", {{"error", dropped.error().ToString()}});
  }
  auto released = co_await vfs().Release(handle->inode);
  if (handle->write) cache().ClosedForWriting(handle->inode);
  if (!handle->direct) cache().ClosedCached(handle->inode);
  --handles_;
  delete handle;
  reply->Reply(released);
}

Task<void> KernelRequests::DoFallocate(KernelReplyPtr reply, KernelInode inode, uint64_t offset, uint64_t length,
                                       uint32_t mode) {
  auto done = co_await vfs().Fallocate(inode, offset, length, mode, reply->interrupt());
  if (!done.ok()) {
    reply->Fail(done.error());
    co_return;
  }
  // The kernel expects a new size and new times, not a new mode.
  if ((mode & kFallocKillPrivileges) != 0 && cache().SetIdGiven(inode)) co_await cache().DropRange(inode, -1, 0);
  reply->Done();
}

Task<void> KernelRequests::DoSeek(KernelReplyPtr reply, KernelInode inode, uint64_t offset, bool data) {
  Result<uint64_t> found = Errc::kIo;
  if (data) {
    auto result = co_await vfs().SeekData(inode, offset, reply->interrupt());
    found = std::move(result);
  } else {
    auto result = co_await vfs().SeekHole(inode, offset, reply->interrupt());
    found = std::move(result);
  }
  if (found.ok()) {
    reply->Position(*found);
  } else {
    reply->Fail(found.error());
  }
}

void KernelRequests::Open(KernelReplyPtr reply, KernelInode inode, OpenMode open) {
  if (!Refused(*reply)) Detach(DoOpen(std::move(reply), inode, open));
}

void KernelRequests::Create(KernelReplyPtr reply, KernelInode parent, std::string name, uint32_t mode, OpenMode open,
                            Caller caller) {
  if (Refused(*reply)) return;
  DirRequest request(&cache(), parent, reply->interrupt());
  Detach(DoCreate(std::move(reply), std::move(request), parent, std::move(name), mode, open, caller));
}

void KernelRequests::TmpFile(KernelReplyPtr reply, KernelInode parent, uint32_t mode, OpenMode open, Caller caller) {
  if (!Refused(*reply)) Detach(DoTmpFile(std::move(reply), parent, mode, open, caller));
}

void KernelRequests::Read(KernelReplyPtr reply, FileHandle* handle, uint64_t offset, size_t size, uint64_t owner) {
  if (Refused(*reply)) return;
  std::optional<PageRequest> pages;
  // A fault on a direct handle fills the page cache too: it has no lock owner.
  if (!handle->direct || owner == 0) pages.emplace(&cache(), handle->inode, offset, size, false);
  Detach(DoRead(std::move(reply), std::move(pages), handle, offset, size));
}

void KernelRequests::Write(KernelReplyPtr reply, FileHandle* handle, uint64_t offset, std::span<const std::byte> data,
                           WriteOptions options) {
  if (Refused(*reply)) return;
  std::optional<PageRequest> pages;
  if (!handle->direct || options.page_io) {
    pages.emplace(&cache(), handle->inode, offset, data.size(), true, options.page_io);
  }
  Detach(DoWrite(std::move(reply), std::move(pages), handle, offset, data, options));
}

void KernelRequests::Flush(KernelReplyPtr reply, FileHandle* handle, uint64_t owner) {
  if (!Refused(*reply)) Detach(DoFlush(std::move(reply), handle, owner));
}

void KernelRequests::Release(KernelReplyPtr reply, FileHandle* handle) { Detach(DoRelease(std::move(reply), handle)); }

void KernelRequests::Fallocate(KernelReplyPtr reply, KernelInode inode, uint64_t offset, uint64_t length, uint32_t mode) {
  if (!Refused(*reply)) Detach(DoFallocate(std::move(reply), inode, offset, length, mode));
}

void KernelRequests::Seek(KernelReplyPtr reply, KernelInode inode, uint64_t offset, bool data) {
  if (!Refused(*reply)) Detach(DoSeek(std::move(reply), inode, offset, data));
}

}  // namespace holdfast::fs
