// Requests about open files and their data: CREATE, TMPFILE, OPEN, READ, WRITE, FLUSH, RELEASE, FSYNC, FALLOCATE, LSEEK.
#include <cerrno>
#include <fcntl.h>
#include <unistd.h>

#include "fs/fuse/fuse_wire.h"
#include "fs/fuse/server.h"

namespace holdfast::fs::fuse {
namespace {

constexpr uint32_t kOpenKillSuidgid = 1u << 0;
constexpr uint32_t kWriteKillSuidgid = 1u << 2;

FileHandle* HandleOf(const fuse_file_info* info) { return reinterpret_cast<FileHandle*>(info->fh); }

OpenMode ModeOf(int flags, uint32_t open_flags) {
  OpenMode open;
  open.write = (flags & O_ACCMODE) != O_RDONLY;
  open.append = (flags & O_APPEND) != 0;
  open.direct = (flags & O_DIRECT) != 0;
  open.sync = (flags & (O_SYNC | O_DSYNC)) != 0;
  open.truncate = (flags & O_TRUNC) != 0;
  open.exclusive = (flags & O_EXCL) != 0;
  open.kill_privileges = (open_flags & kOpenKillSuidgid) != 0;
  return open;
}

void Open(fuse_req_t req, fuse_ino_t inode, fuse_file_info* info) {
  FuseServer* s = FuseServer::Of(req);
  OpenMode open = ModeOf(info->flags, s->session()->Body<fuse_open_in>()->open_flags);
  s->requests().Open(ReplyTo(s, req), inode, open);
}

void Create(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode, fuse_file_info* info) {
  FuseServer* s = FuseServer::Of(req);
  if (s->session()->IsTmpFile()) {
    s->requests().TmpFile(ReplyTo(s, req), parent, mode, ModeOf(info->flags, 0), CallerOf(req));
    return;
  }
  OpenMode open = ModeOf(info->flags, s->session()->Body<fuse_create_in>()->open_flags);
  s->requests().Create(ReplyTo(s, req), parent, name, mode, open, CallerOf(req));
}

void Read(fuse_req_t req, fuse_ino_t, size_t size, off_t offset, fuse_file_info* info) {
  FuseServer* s = FuseServer::Of(req);
  s->requests().Read(ReplyTo(s, req), HandleOf(info), offset, size, info->lock_owner);
}

void Write(fuse_req_t req, fuse_ino_t, const char* data, size_t size, off_t offset, fuse_file_info* info) {
  FuseServer* s = FuseServer::Of(req);
  const auto* body = s->session()->Body<fuse_write_in>();
  WriteOptions options;
  options.page_io = info->writepage != 0;
  options.append = (info->flags & O_APPEND) != 0 && !options.page_io;
  options.kill_privileges = (body->write_flags & kWriteKillSuidgid) != 0 && !options.page_io;
  options.sync = (info->flags & (O_SYNC | O_DSYNC)) != 0 && !options.page_io;
  std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data), size);
  options.memory = std::make_shared<RequestBuffer>(s->session()->TakeBuffer());
  s->requests().Write(ReplyTo(s, req), HandleOf(info), offset, bytes, options);
}

void Flush(fuse_req_t req, fuse_ino_t, fuse_file_info* info) {
  FuseServer* s = FuseServer::Of(req);
  s->requests().Flush(ReplyTo(s, req), HandleOf(info), info->lock_owner);
}

void Release(fuse_req_t req, fuse_ino_t, fuse_file_info* info) {
  FuseServer* s = FuseServer::Of(req);
  s->requests().Release(ReplyTo(s, req), HandleOf(info));
}

void Fsync(fuse_req_t req, fuse_ino_t inode, int data_only, fuse_file_info*) {
  FuseServer* s = FuseServer::Of(req);
  s->requests().Fsync(ReplyTo(s, req), inode, data_only != 0);
}

void Fallocate(fuse_req_t req, fuse_ino_t inode, int mode, off_t offset, off_t length, fuse_file_info*) {
  FuseServer* s = FuseServer::Of(req);
  // No flag of the protocol says so: who is not root may not keep set-id bits.
  auto flags = static_cast<uint32_t>(mode);
  if (fuse_req_ctx(req)->uid != 0) flags |= kFallocKillPrivileges;
  s->requests().Fallocate(ReplyTo(s, req), inode, offset, length, flags);
}

void Seek(fuse_req_t req, fuse_ino_t inode, off_t offset, int whence, fuse_file_info*) {
  FuseServer* s = FuseServer::Of(req);
  s->requests().Seek(ReplyTo(s, req, ENXIO), inode, offset, whence == SEEK_DATA);
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
