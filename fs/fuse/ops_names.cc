// Requests about names: LOOKUP, FORGET, MKNOD, MKDIR, SYMLINK, LINK, UNLINK, RMDIR, RENAME, READLINK.
#include <sys/sysmacros.h>

#include "fs/fuse/server.h"

namespace holdfast::fs::fuse {
namespace {

using Request = FuseServer::Request;
using DirRequest = KernelCache::DirRequest;

Task<void> DoLookup(FuseServer* s, Request r, DirRequest, KernelInode parent, std::string name) {
  auto entry = co_await s->vfs().Lookup(parent, name);
  if (s->Suspended()) co_await s->AwaitLease();
  if (entry.ok()) {
    r.EntryReply(parent, name, *entry, true);
  } else {
    r.Error(entry.error());
  }
}

Task<void> ReplyNew(FuseServer* s, Request* r, KernelInode parent, std::string name, Result<Entry> entry, bool keep_attr) {
  if (s->Suspended()) co_await s->AwaitLease();
  if (entry.ok()) {
    r->EntryReply(parent, name, *entry, keep_attr);
  } else {
    r->Error(entry.error());
  }
}

Task<void> DoMakeNode(FuseServer* s, Request r, DirRequest, KernelInode parent, std::string name, uint32_t mode,
                      uint64_t rdev) {
  auto entry = co_await s->vfs().MakeNode(parent, name, mode, rdev, CallerOf(r.raw()));
  co_await ReplyNew(s, &r, parent, name, std::move(entry), true);
}

Task<void> DoMakeDir(FuseServer* s, Request r, DirRequest, KernelInode parent, std::string name, uint32_t mode) {
  auto entry = co_await s->vfs().MakeDir(parent, name, mode, CallerOf(r.raw()));
  co_await ReplyNew(s, &r, parent, name, std::move(entry), true);
}

Task<void> DoSymlink(FuseServer* s, Request r, DirRequest, KernelInode parent, std::string name, std::string target) {
  auto entry = co_await s->vfs().Symlink(parent, name, target, CallerOf(r.raw()));
  co_await ReplyNew(s, &r, parent, name, std::move(entry), true);
}

Task<void> DoLink(FuseServer* s, Request r, DirRequest, KernelInode inode, KernelInode parent, std::string name) {
  auto entry = co_await s->vfs().Link(inode, parent, name);
  // Rule 3: the kernel takes LINK's attributes whatever has happened since.
  co_await ReplyNew(s, &r, parent, name, std::move(entry), false);
}

Task<void> DoRemove(FuseServer* s, Request r, DirRequest, KernelInode parent, std::string name, bool directory) {
  Result<RemoveResult> removed = Errc::kIo;
  if (directory) {
    auto result = co_await s->vfs().RemoveDir(parent, name);
    removed = std::move(result);
  } else {
    auto result = co_await s->vfs().Unlink(parent, name);
    removed = std::move(result);
  }
  if (s->Suspended()) co_await s->AwaitLease();
  if (removed.ok()) {
    // The kernel turns the name into a negative entry of its own, without a timeout: it will ask.
    r.Errno(0);
  } else {
    r.Error(removed.error());
  }
}

Task<void> DoRename(FuseServer* s, Request r, DirRequest, DirRequest, KernelInode parent, std::string name,
                    KernelInode new_parent, std::string new_name, uint32_t flags) {
  auto renamed = co_await s->vfs().Rename(parent, name, new_parent, new_name, flags);
  if (s->Suspended()) co_await s->AwaitLease();
  if (renamed.ok()) {
    // The kernel moves its dentry with the timeout that it has; it is a name of the new parent now.
    bool is_dir = renamed->moved.type() == FileType::kDirectory;
    s->cache().Renamed(new_parent, renamed->new_parent_acquisition, new_name, renamed->moved.node, is_dir);
    if ((flags & kRenameExchange) != 0) {
      s->cache().Renamed(parent, renamed->old_parent_acquisition, name, renamed->replaced, true);
    }
    r.Errno(0);
  } else {
    r.Error(renamed.error());
  }
}

Task<void> DoReadLink(FuseServer* s, Request r, KernelInode inode) {
  auto target = co_await s->vfs().ReadLink(inode);
  if (s->Suspended()) co_await s->AwaitLease();
  if (target.ok()) {
    r.Buffer(target->data(), target->size());
  } else {
    r.Error(target.error());
  }
}

void Lookup(fuse_req_t req, fuse_ino_t parent, const char* name) {
  FuseServer* s = FuseServer::Of(req);
  if (s->Begin(req)) Detach(DoLookup(s, Request(s, req), DirRequest(&s->cache(), parent), parent, name));
}

void ForgetOne(FuseServer* s, KernelInode inode, uint64_t count) {
  if (s->cache().Forget(inode, count)) s->vfs().Forget(inode);
}
void Forget(fuse_req_t req, fuse_ino_t inode, uint64_t count) {
  ForgetOne(FuseServer::Of(req), inode, count);
  fuse_reply_none(req);
}
void ForgetMulti(fuse_req_t req, size_t count, fuse_forget_data* forgets) {
  FuseServer* s = FuseServer::Of(req);
  for (size_t i = 0; i < count; ++i) ForgetOne(s, forgets[i].ino, forgets[i].nlookup);
  fuse_reply_none(req);
}

void MakeNode(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode, dev_t rdev) {
  FuseServer* s = FuseServer::Of(req);
  uint64_t device = (static_cast<uint64_t>(major(rdev)) << 32) | minor(rdev);
  if (s->Begin(req)) Detach(DoMakeNode(s, Request(s, req), DirRequest(&s->cache(), parent), parent, name, mode, device));
}
void MakeDir(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode) {
  FuseServer* s = FuseServer::Of(req);
  if (s->Begin(req)) Detach(DoMakeDir(s, Request(s, req), DirRequest(&s->cache(), parent), parent, name, mode));
}
void Symlink(fuse_req_t req, const char* target, fuse_ino_t parent, const char* name) {
  FuseServer* s = FuseServer::Of(req);
  if (s->Begin(req)) Detach(DoSymlink(s, Request(s, req), DirRequest(&s->cache(), parent), parent, name, target));
}
void Link(fuse_req_t req, fuse_ino_t inode, fuse_ino_t parent, const char* name) {
  FuseServer* s = FuseServer::Of(req);
  if (s->Begin(req)) Detach(DoLink(s, Request(s, req), DirRequest(&s->cache(), parent), inode, parent, name));
}
void Unlink(fuse_req_t req, fuse_ino_t parent, const char* name) {
  FuseServer* s = FuseServer::Of(req);
  if (s->Begin(req)) Detach(DoRemove(s, Request(s, req), DirRequest(&s->cache(), parent), parent, name, false));
}
void RemoveDir(fuse_req_t req, fuse_ino_t parent, const char* name) {
  FuseServer* s = FuseServer::Of(req);
  if (s->Begin(req)) Detach(DoRemove(s, Request(s, req), DirRequest(&s->cache(), parent), parent, name, true));
}
void Rename(fuse_req_t req, fuse_ino_t parent, const char* name, fuse_ino_t new_parent, const char* new_name,
            unsigned flags) {
  FuseServer* s = FuseServer::Of(req);
  if (!s->Begin(req)) return;
  Detach(DoRename(s, Request(s, req), DirRequest(&s->cache(), parent), DirRequest(&s->cache(), new_parent), parent, name,
                  new_parent, new_name, flags));
}
void ReadLink(fuse_req_t req, fuse_ino_t inode) {
  FuseServer* s = FuseServer::Of(req);
  if (s->Begin(req)) Detach(DoReadLink(s, Request(s, req), inode));
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
