// Requests about extended attributes. The kernel does not cache them.
#include <cerrno>
#include <cstring>
#include <sys/xattr.h>
#include <unistd.h>

#include <linux/fuse.h>

#include "fs/fuse/server.h"
#include "fs/fuse/unmount.h"

namespace holdfast::fs::fuse {
namespace {

using Request = FuseServer::Request;
using DirRequest = KernelCache::DirRequest;

// size 0 asks for the length.
void ReplySized(FuseServer* s, Request* r, const void* data, size_t length, size_t size) {
  (void)s;
  if (size == 0) {
    fuse_getxattr_out out{};
    out.size = length;
    r->Buffer(&out, sizeof(out));
  } else if (length > size) {
    r->Errno(ERANGE);
  } else {
    r->Buffer(data, length);
  }
}

Task<void> DoGet(FuseServer* s, Request r, KernelInode inode, std::string name, size_t size) {
  auto value = co_await s->vfs().GetXattr(inode, name, r.interrupt());
  if (s->Suspended()) {
    bool valid = co_await s->AwaitLease(r.interrupt());
    if (!valid) value = Errc::kInterrupted;
  }
  if (value.ok()) {
    ReplySized(s, &r, value->data(), value->size(), size);
  } else {
    r.Error(value.error());
  }
}

Task<void> DoList(FuseServer* s, Request r, KernelInode inode, size_t size) {
  auto names = co_await s->vfs().ListXattr(inode, r.interrupt());
  if (s->Suspended()) {
    bool valid = co_await s->AwaitLease(r.interrupt());
    if (!valid) names = Errc::kInterrupted;
  }
  if (!names.ok()) {
    r.Error(names.error());
    co_return;
  }
  std::string all;
  for (const std::string& name : *names) all.append(name).push_back('\0');
  ReplySized(s, &r, all.data(), all.size(), size);
}

Task<void> DoSet(FuseServer* s, Request r, DirRequest, KernelInode inode, std::string name, Bytes value, XattrMode mode) {
  auto set = co_await s->vfs().SetXattr(inode, name, std::move(value), mode, r.interrupt());
  r.Reply(set);
}

Task<void> DoRemove(FuseServer* s, Request r, DirRequest, KernelInode inode, std::string name) {
  auto removed = co_await s->vfs().RemoveXattr(inode, name, r.interrupt());
  r.Reply(removed);
}

// Who serves this mount: answered here, also while it is ending.
void ReplyServer(FuseServer* s, Request r, size_t size) {
  std::string value = std::to_string(getpid()) + " " + std::to_string(s->session()->fd());
  ReplySized(s, &r, value.data(), value.size(), size);
}

void Get(fuse_req_t req, fuse_ino_t inode, const char* name, size_t size) {
  FuseServer* s = FuseServer::Of(req);
  if (inode == FUSE_ROOT_ID && std::strcmp(name, kServerXattr) == 0) {
    ReplyServer(s, Request(s, req), size);
    return;
  }
  if (s->Begin(req)) Detach(DoGet(s, Request(s, req), inode, name, size));
}
void List(fuse_req_t req, fuse_ino_t inode, size_t size) {
  FuseServer* s = FuseServer::Of(req);
  if (s->Begin(req)) Detach(DoList(s, Request(s, req), inode, size));
}
void Set(fuse_req_t req, fuse_ino_t inode, const char* name, const char* value, size_t size, int flags) {
  FuseServer* s = FuseServer::Of(req);
  if (!s->Begin(req)) return;
  const auto* bytes = reinterpret_cast<const std::byte*>(value);
  XattrMode mode = (flags & XATTR_CREATE) != 0    ? XattrMode::kCreate
                   : (flags & XATTR_REPLACE) != 0 ? XattrMode::kReplace
                                                  : XattrMode::kSet;
  Detach(DoSet(s, Request(s, req), DirRequest(&s->cache(), inode), inode, name, Bytes(bytes, bytes + size), mode));
}
void Remove(fuse_req_t req, fuse_ino_t inode, const char* name) {
  FuseServer* s = FuseServer::Of(req);
  if (s->Begin(req)) Detach(DoRemove(s, Request(s, req), DirRequest(&s->cache(), inode), inode, name));
}

}  // namespace

void AddXattrOps(fuse_lowlevel_ops* ops) {
  ops->getxattr = &Get;
  ops->listxattr = &List;
  ops->setxattr = &Set;
  ops->removexattr = &Remove;
}

}  // namespace holdfast::fs::fuse
