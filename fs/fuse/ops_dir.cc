// Requests that read directories: READDIR, READDIRPLUS, FSYNCDIR. There is no OPENDIR: positions are cookies.
#include <cstring>

#include "fs/fuse/fuse_wire.h"
#include "fs/fuse/server.h"

namespace holdfast::fs::fuse {
namespace {

using Request = FuseServer::Request;
using DirRequest = KernelCache::DirRequest;

constexpr size_t kAlign = 8;
size_t Padded(size_t n) { return (n + kAlign - 1) / kAlign * kAlign; }

// One entry on the wire; false when it does not fit.
bool Append(FuseServer* s, KernelInode dir, const DirPage& page, const DirEntry& entry, bool plus, char* out,
            size_t* used, size_t size) {
  size_t head = plus ? FUSE_NAME_OFFSET_DIRENTPLUS : FUSE_NAME_OFFSET;
  size_t need = Padded(head + entry.name.size());
  if (*used + need > size) return false;
  char* at = out + *used;
  std::memset(at, 0, need);
  auto* dirent = reinterpret_cast<fuse_dirent*>(plus ? at + offsetof(fuse_direntplus, dirent) : at);
  if (plus && entry.has_attr && entry.name != "." && entry.name != "..") {
    Entry full;
    full.attr = entry.attr;
    full.parent_acquisition = page.parent_acquisition;
    s->FillEntryOut(dir, entry.name, full, true, &reinterpret_cast<fuse_direntplus*>(at)->entry_out, true);
  }
  dirent->ino = entry.number.v;
  dirent->off = entry.cookie;
  dirent->namelen = entry.name.size();
  dirent->type = static_cast<uint32_t>(entry.type);
  std::memcpy(dirent->name, entry.name.data(), entry.name.size());
  *used += need;
  return true;
}

Task<void> DoReadDir(FuseServer* s, Request r, DirRequest, KernelInode dir, size_t size, uint64_t cookie, bool plus) {
  ReadDirOptions options;
  options.cookie = cookie;
  options.bytes_max = size;
  options.plus = plus;
  auto page = co_await s->vfs().ReadDir(dir, options);
  if (s->Suspended()) co_await s->AwaitLease();
  if (!page.ok()) {
    r.Error(page.error());
    co_return;
  }
  AlignedBuffer buffer = s->TakeBuffer(size);
  size_t used = 0;
  for (const DirEntry& entry : page->entries) {
    if (!Append(s, dir, *page, entry, plus, reinterpret_cast<char*>(buffer.data()), &used, size)) break;
  }
  r.Buffer(buffer.data(), used);
  s->GiveBuffer(std::move(buffer));
}

Task<void> DoFsyncDir(FuseServer* s, Request r, DirRequest, KernelInode dir, bool data_only) {
  auto synced = co_await s->vfs().Fsync(dir, data_only);
  r.Reply(synced);
}

void ReadDir(fuse_req_t req, fuse_ino_t dir, size_t size, off_t offset, fuse_file_info*) {
  FuseServer* s = FuseServer::Of(req);
  if (s->Begin(req)) Detach(DoReadDir(s, Request(s, req), DirRequest(&s->cache(), dir), dir, size, offset, false));
}
void ReadDirPlus(fuse_req_t req, fuse_ino_t dir, size_t size, off_t offset, fuse_file_info*) {
  FuseServer* s = FuseServer::Of(req);
  if (s->Begin(req)) Detach(DoReadDir(s, Request(s, req), DirRequest(&s->cache(), dir), dir, size, offset, true));
}
void FsyncDir(fuse_req_t req, fuse_ino_t dir, int data_only, fuse_file_info*) {
  FuseServer* s = FuseServer::Of(req);
  if (s->Begin(req)) Detach(DoFsyncDir(s, Request(s, req), DirRequest(&s->cache(), dir), dir, data_only != 0));
}

}  // namespace

void AddDirOps(fuse_lowlevel_ops* ops) {
  ops->readdir = &ReadDir;
  ops->readdirplus = &ReadDirPlus;
  ops->fsyncdir = &FsyncDir;
}

}  // namespace holdfast::fs::fuse
