// Requests that read directories: READDIR, READDIRPLUS, FSYNCDIR. There is no OPENDIR: positions are cookies.
#include "fs/fuse/server.h"

namespace holdfast::fs::fuse {
namespace {

void ReadDir(fuse_req_t req, fuse_ino_t dir, size_t size, off_t offset, fuse_file_info*) {
  FuseServer* s = FuseServer::Of(req);
  s->requests().ReadDir(ReplyTo(s, req), dir, size, offset, false);
}
void ReadDirPlus(fuse_req_t req, fuse_ino_t dir, size_t size, off_t offset, fuse_file_info*) {
  FuseServer* s = FuseServer::Of(req);
  s->requests().ReadDir(ReplyTo(s, req), dir, size, offset, true);
}
void FsyncDir(fuse_req_t req, fuse_ino_t dir, int data_only, fuse_file_info*) {
  FuseServer* s = FuseServer::Of(req);
  s->requests().Fsync(ReplyTo(s, req), dir, data_only != 0);
}

}  // namespace

void AddDirOps(fuse_lowlevel_ops* ops) {
  ops->readdir = &ReadDir;
  ops->readdirplus = &ReadDirPlus;
  ops->fsyncdir = &FsyncDir;
}

}  // namespace holdfast::fs::fuse
