// KernelModel: open files: read(2), write(2), fsync, close, range locks. fs/fuse/file.c of Linux 6.18.
#include <algorithm>
#include <cstring>
#include <fcntl.h>

#include "tests/whole/model/kernel_model.h"

namespace holdfast::whole {

using fs::KernelReplyPtr;
using fs::KernelRequests;

namespace {
bool Writes(int flags) { return (flags & O_ACCMODE) != O_RDONLY; }

fs::OpenMode ModeOf(int flags) {
  fs::OpenMode open;
  open.write = Writes(flags);
  open.append = (flags & O_APPEND) != 0;
  open.direct = (flags & O_DIRECT) != 0;
  open.sync = (flags & (O_SYNC | O_DSYNC)) != 0;
  open.truncate = (flags & O_TRUNC) != 0;
  open.exclusive = (flags & O_EXCL) != 0;
  return open;
}
}  // namespace

// fuse_create_open. i_rwsem is held.
Task<Result<FilePtr>> KernelModel::CreateFile(NodePtr dir, std::string name, int flags) {
  uint64_t epoch = epoch_;
  KernelInode parent = dir->node;
  fs::OpenMode open = ModeOf(flags);
  Send send = [parent, name, open](KernelRequests& r, KernelReplyPtr reply) {
    r.Create(std::move(reply), parent, name, 0100644, open, fs::Caller{0, 0, 022});
  };
  auto answer = co_await Ask("CREATE", parent, std::move(send));
  if (!answer->ok()) co_return answer->error;
  NodePtr node = co_await Get(answer.get(), 0);
  Splice(dir, name, node, answer->keep_entry, epoch);
  dir->attr_valid = false;
  FilePtr file = FinishOpen(node, answer->open, flags);
  if ((flags & O_TRUNC) != 0) {
    co_await Truncated(node);
  } else if (!answer->open.keep_pages) {
    co_await InvalidatePages(node, 0, UINT64_MAX);
  }
  co_return file;
}

// fuse_truncate_update_attr and truncate_pagecache, without i_rwsem.
Task<void> KernelModel::Truncated(NodePtr node) {
  node->attr_version = ++version_;
  node->size = 0;
  node->attr_valid = false;
  co_await TruncatePages(node, 0);
}

FilePtr KernelModel::FinishOpen(NodePtr node, const fs::OpenAnswer& open, int flags) {
  auto file = std::make_shared<OpenFile>();
  file->node = node;
  file->handle = open.handle;
  file->connection = connection_;
  file->flags = flags;
  file->direct = open.direct;
  file->owner = next_owner_++;
  if (Writes(flags)) node->write_files.push_back(open.handle);
  return file;
}

Task<Result<FilePtr>> KernelModel::OpenNode(NodePtr node, int flags) {
  KernelInode inode = node->node;
  fs::OpenMode open = ModeOf(flags & ~(O_CREAT | O_EXCL));
  Send send = [inode, open](KernelRequests& r, KernelReplyPtr reply) { r.Open(std::move(reply), inode, open); };
  auto answer = co_await Ask("OPEN", inode, std::move(send));
  if (!answer->ok()) co_return answer->error;
  FilePtr file = FinishOpen(node, answer->open, flags);
  if ((flags & O_TRUNC) != 0) {
    co_await Truncated(node);
  } else if (!answer->open.keep_pages) {
    co_await InvalidatePages(node, 0, UINT64_MAX);
  }
  co_return file;
}

// ---- reading ----------------------------------------------------------------------------------------------------

Task<Result<Bytes>> KernelModel::Read(FilePtr file, uint64_t offset, uint64_t length) {
  if (file->direct) {
    auto direct = co_await ReadDirect(file, offset, length);
    co_return direct;
  }
  auto cached = co_await ReadCached(file, offset, length);
  co_return cached;
}

Task<Result<Bytes>> KernelModel::ReadCached(FilePtr file, uint64_t offset, uint64_t length) {
  NodePtr node = file->node;
  if (offset + length > node->size) {
    auto attr = co_await Stat(node);
    if (!attr.ok()) co_return attr.error();
  }
  Bytes out;
  while (out.size() < length) {
    uint64_t at = offset + out.size();
    if (at >= node->size) break;
    uint64_t index = at / kPageBytes;
    auto it = node->pages.find(index);
    PagePtr page = it == node->pages.end() ? nullptr : it->second;
    if (!page || !page->uptodate) {
      auto filled = co_await FillPages(node, file->handle, index, 2);
      if (!filled.ok()) co_return filled.error();
      page = *filled;
      if (!page) continue;
    }
    uint64_t end = std::min({offset + length, (index + 1) * kPageBytes, node->size});
    if (end <= at) break;
    auto begin = page->data.begin() + static_cast<ptrdiff_t>(at % kPageBytes);
    out.insert(out.end(), begin, begin + static_cast<ptrdiff_t>(end - at));
  }
  co_return out;
}

Task<Result<Bytes>> KernelModel::ReadDirect(FilePtr file, uint64_t offset, uint64_t length) {
  NodePtr node = file->node;
  auto written = co_await WriteDirty(node, offset / kPageBytes, (offset + length - 1) / kPageBytes);
  if (!written.ok()) co_return written.error();
  fs::FileHandle* handle = file->handle;
  uint64_t owner = file->owner;
  Send send = [handle, offset, length, owner](KernelRequests& r, KernelReplyPtr reply) {
    r.Read(std::move(reply), handle, offset, length, owner);
  };
  auto answer = co_await Ask("READ direct", node->node, std::move(send));
  if (!answer->ok()) co_return answer->error;
  co_return std::move(answer->data);
}

// ---- writing ----------------------------------------------------------------------------------------------------

// fuse_write_update_attr, and mtime must be asked for again.
void KernelModel::Wrote(KernelNode& node, uint64_t end) {
  node.attr_version = ++version_;
  node.size = std::max(node.size, end);
  node.attr_valid = false;
}

Task<Result<uint64_t>> KernelModel::SendWrite(FilePtr file, uint64_t offset, Bytes data) {
  auto bytes = std::make_shared<Bytes>(std::move(data));
  fs::FileHandle* handle = file->handle;
  int flags = file->flags;
  Send send = [handle, offset, bytes, flags](KernelRequests& r, KernelReplyPtr reply) {
    fs::WriteOptions options;
    options.append = (flags & O_APPEND) != 0;
    options.sync = (flags & (O_SYNC | O_DSYNC)) != 0;
    r.Write(std::move(reply), handle, offset, *bytes, options);
  };
  auto answer = co_await Ask("WRITE", file->node->node, std::move(send));
  (void)bytes->size();
  if (!answer->ok()) co_return answer->error;
  co_return answer->written;
}

Task<Result<uint64_t>> KernelModel::Write(FilePtr file, uint64_t offset, Bytes data) {
  RwLock::Guard guard = co_await file->node->rwsem.Lock(false);
  if ((file->flags & O_APPEND) != 0) offset = file->node->size;  // generic_write_checks: what is cached
  if (file->direct) {
    auto direct = co_await WriteDirect(file, offset, std::move(data));
    co_return direct;
  }
  auto cached = co_await WriteCached(file, offset, std::move(data));
  co_return cached;
}

// fuse_direct_io: dirty pages go first, the range is dropped before the WRITE, by newer kernels after it too.
Task<Result<uint64_t>> KernelModel::WriteDirect(FilePtr file, uint64_t offset, Bytes data) {
  NodePtr node = file->node;
  uint64_t first = offset / kPageBytes, last = (offset + data.size() - 1) / kPageBytes;
  auto written = co_await WriteDirty(node, first, last);
  if (!written.ok()) co_return written.error();
  co_await InvalidatePages(node, first, last);
  auto sent = co_await SendWrite(file, offset, std::move(data));
  if (sent.ok()) Wrote(*node, offset + *sent);
  if (knobs_.drops_after_direct_write) co_await InvalidatePages(node, first, last);
  co_return sent;
}

// fuse_perform_write: pages are filled first. A page that is not up to date and not written whole stays locked until the
// reply and ends the request.
Task<Result<uint64_t>> KernelModel::WriteCached(FilePtr file, uint64_t offset, Bytes data) {
  NodePtr node = file->node;
  uint64_t done = 0;
  while (done < data.size()) {
    std::vector<PagePtr> pages;
    Mutex::Guard last_locked;
    uint64_t start = offset + done, at = start, end = offset + data.size();
    while (at < end) {
      uint64_t index = at / kPageBytes;
      uint64_t stop = std::min(end, (index + 1) * kPageBytes);
      PagePtr page = PageAt(*node, index);
      Mutex::Guard locked = co_await page->lock.Lock();
      if (!page->attached) continue;
      while (page->writeback > 0) co_await page->written.Wait();
      std::memcpy(page->data.data() + at % kPageBytes, data.data() + (at - offset), stop - at);
      pages.push_back(page);
      if (stop - at == kPageBytes) page->uptodate = true;
      at = stop;
      if (!page->uptodate) {
        last_locked = std::move(locked);
        break;
      }
    }
    Bytes part(data.begin() + static_cast<ptrdiff_t>(done), data.begin() + static_cast<ptrdiff_t>(at - offset));
    uint64_t length = part.size();
    auto sent = co_await SendWrite(file, start, std::move(part));
    if (!sent.ok() || *sent < length) {
      for (PagePtr& page : pages) page->uptodate = false;
      if (!sent.ok()) co_return sent;
    }
    Wrote(*node, start + *sent);
    done += *sent;
    if (*sent < length) break;
  }
  co_return done;
}

// ---- the rest ---------------------------------------------------------------------------------------------------

Task<Status> KernelModel::Fsync(FilePtr file) {
  NodePtr node = file->node;
  RwLock::Guard guard = co_await node->rwsem.Lock(false);
  auto written = co_await WriteDirty(node, 0, UINT64_MAX);
  if (!written.ok()) co_return written;
  KernelInode inode = node->node;
  Send send = [inode](KernelRequests& r, KernelReplyPtr reply) { r.Fsync(std::move(reply), inode, false); };
  auto answer = co_await Ask("FSYNC", inode, std::move(send));
  co_return answer->ok() ? Status() : Status(answer->error);
}

// close(2) of the only descriptor: FLUSH, then RELEASE, which nobody waits for.
Task<Status> KernelModel::Close(FilePtr file) {
  NodePtr node = file->node;
  if (file->connection != connection_ || !requests_) co_return Errc::kDisconnected;
  auto written = co_await WriteDirty(node, 0, UINT64_MAX);
  fs::FileHandle* handle = file->handle;
  uint64_t owner = file->owner;
  Send flush = [handle, owner](KernelRequests& r, KernelReplyPtr reply) { r.Flush(std::move(reply), handle, owner); };
  auto answer = co_await Ask("FLUSH", node->node, std::move(flush));
  std::erase(node->write_files, handle);
  if (file->connection == connection_ && requests_) {
    auto pending = std::make_shared<Pending>();
    pending->what = "RELEASE";
    pending->since = world_->now();
    pending_.push_back(pending);
    fs::Mount* mount = mount_;
    Deliver([this, pending, mount, handle, requests = requests_](KernelRequests& r) {
      r.Release(ReplyFor(pending, mount, requests), handle);
    });
  }
  file->handle = nullptr;
  if (!written.ok()) co_return written;
  co_return answer->ok() ? Status() : Status(answer->error);
}

Task<Status> KernelModel::LockRange(FilePtr file, uint64_t start, uint64_t end, dlm::RangeType type, dlm::RangeSpace space) {
  fs::FileHandle* handle = file->handle;
  uint64_t owner = file->owner;
  Send send = [this, handle, owner, start, end, type, space](KernelRequests& r, KernelReplyPtr reply) {
    fs::RangeLocks::Lock lock;
    lock.space = space;
    lock.inode = r.cache().NumberOf(handle->inode);
    lock.owner = owner;
    lock.handle = reinterpret_cast<uint64_t>(handle);
    lock.start = start;
    lock.end = end;
    lock.type = type;
    lock.wait = type != dlm::RangeType::kUnlock;
    handle->locked = true;
    holdfast::Detach(SetRange(&r, std::move(reply), lock));
  };
  auto answer = co_await Ask("SETLKW", file->node->node, std::move(send));
  co_return answer->ok() ? Status() : Status(answer->error);
}

// fuse_file_fallocate.
Task<Status> KernelModel::Fallocate(FilePtr file, uint64_t offset, uint64_t length, uint32_t flags) {
  NodePtr node = file->node;
  RwLock::Guard guard = co_await node->rwsem.Lock(false);
  bool zeroes = (flags & (fs::kFallocPunchHole | fs::kFallocZeroRange)) != 0;
  if (zeroes) {
    auto written = co_await WriteDirty(node, offset / kPageBytes, (offset + length - 1) / kPageBytes);
    if (!written.ok()) co_return written;
  }
  KernelInode inode = node->node;
  Send send = [inode, offset, length, flags](KernelRequests& r, KernelReplyPtr reply) {
    r.Fallocate(std::move(reply), inode, offset, length, flags);
  };
  auto answer = co_await Ask("FALLOCATE", inode, std::move(send));
  if (!answer->ok()) co_return answer->error;
  if ((flags & fs::kFallocKeepSize) == 0) Wrote(*node, offset + length);
  if (zeroes) co_await TruncateRange(node, offset, length);
  node->attr_valid = false;
  co_return Status();
}

// truncate_pagecache_range.
Task<void> KernelModel::TruncateRange(NodePtr node, uint64_t offset, uint64_t length) {
  uint64_t end = offset + length;
  for (uint64_t index = offset / kPageBytes; index * kPageBytes < end; ++index) {
    auto it = node->pages.find(index);
    if (it == node->pages.end()) continue;
    PagePtr page = it->second;
    Mutex::Guard locked = co_await page->lock.Lock();
    if (!page->attached) continue;
    while (page->writeback > 0) co_await page->written.Wait();
    uint64_t from = std::max(offset, index * kPageBytes), to = std::min(end, (index + 1) * kPageBytes);
    if (to - from == kPageBytes) {
      page->dirty = false;
      Detach(*node, index);
    } else if (page->uptodate) {
      std::fill_n(page->data.begin() + static_cast<ptrdiff_t>(from % kPageBytes), to - from, std::byte{0});
    }
  }
}

// As fs/fuse/ops_locks.cc. The reply keeps the requests alive.
Task<void> KernelModel::SetRange(fs::KernelRequests* requests, fs::KernelReplyPtr reply, fs::RangeLocks::Lock lock) {
  auto set = co_await requests->ranges().Set(lock, requests->ranges().NextToken());
  if (requests->Suspended()) {
    bool valid = co_await requests->AwaitLease(nullptr);
    (void)valid;
  }
  reply->Reply(set);
}

}  // namespace holdfast::whole
