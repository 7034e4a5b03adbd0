// Requests about names: LOOKUP, FORGET, MKNOD, MKDIR, SYMLINK, LINK, UNLINK, RMDIR, RENAME, READLINK.
#include <sys/sysmacros.h>

#include "fs/fuse/server.h"

namespace holdfast::fs::fuse {
namespace {

void Lookup(fuse_req_t req, fuse_ino_t parent, const char* name) {
  FuseServer* s = FuseServer::Of(req);
  s->requests().Lookup(ReplyTo(s, req), parent, name);
}

void Forget(fuse_req_t req, fuse_ino_t inode, uint64_t count) {
  FuseServer::Of(req)->requests().Forget(inode, count);
  fuse_reply_none(req);
}
void ForgetMulti(fuse_req_t req, size_t count, fuse_forget_data* forgets) {
  FuseServer* s = FuseServer::Of(req);
  for (size_t i = 0; i < count; ++i) s->requests().Forget(forgets[i].ino, forgets[i].nlookup);
  fuse_reply_none(req);
}

void MakeNode(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode, dev_t rdev) {
  FuseServer* s = FuseServer::Of(req);
  uint64_t device = (static_cast<uint64_t>(major(rdev)) << 32) | minor(rdev);
  s->requests().MakeNode(ReplyTo(s, req), parent, name, mode, device, CallerOf(req));
}
void MakeDir(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode) {
  FuseServer* s = FuseServer::Of(req);
  s->requests().MakeDir(ReplyTo(s, req), parent, name, mode, CallerOf(req));
}
void Symlink(fuse_req_t req, const char* target, fuse_ino_t parent, const char* name) {
  FuseServer* s = FuseServer::Of(req);
  s->requests().Symlink(ReplyTo(s, req), parent, name, target, CallerOf(req));
}
void Link(fuse_req_t req, fuse_ino_t inode, fuse_ino_t parent, const char* name) {
  FuseServer* s = FuseServer::Of(req);
  s->requests().Link(ReplyTo(s, req), inode, parent, name);
}
void Unlink(fuse_req_t req, fuse_ino_t parent, const char* name) {
  FuseServer* s = FuseServer::Of(req);
  s->requests().Remove(ReplyTo(s, req), parent, name, false);
}
void RemoveDir(fuse_req_t req, fuse_ino_t parent, const char* name) {
  FuseServer* s = FuseServer::Of(req);
  s->requests().Remove(ReplyTo(s, req), parent, name, true);
}
void Rename(fuse_req_t req, fuse_ino_t parent, const char* name, fuse_ino_t new_parent, const char* new_name,
            unsigned flags) {
  FuseServer* s = FuseServer::Of(req);
  s->requests().Rename(ReplyTo(s, req), parent, name, new_parent, new_name, flags);
}
void ReadLink(fuse_req_t req, fuse_ino_t inode) {
  FuseServer* s = FuseServer::Of(req);
  s->requests().ReadLink(ReplyTo(s, req), inode);
}

}  // namespace

void AddNameOps(fuse_lowlevel_ops* ops) {
  ops->lookup = &Lookup;
  ops->forget = &Forget;
  ops->forget_multi = &ForgetMulti;
  ops->mknod = &MakeNode;
  ops->mkdir = &MakeDir;
  ops->symlink = &Symlink;
  ops->link = &Link;
  ops->unlink = &Unlink;
  ops->rmdir = &RemoveDir;
  ops->rename = &Rename;
  ops->readlink = &ReadLink;
}

}  // namespace holdfast::fs::fuse
