// Requests about attributes: GETATTR, SETATTR, STATFS.
#include <sys/statvfs.h>

#include <linux/fuse.h>

#include "fs/fuse/server.h"

namespace holdfast::fs::fuse {
namespace {

using Request = FuseServer::Request;

constexpr uint32_t kFattrKillSuidgid = 1u << 11;

Task<void> DoStatFs(FuseServer* s, Request r) {
  auto stat = co_await s->vfs().GetStatFs();
  if (s->Suspended()) {
    bool valid = co_await s->AwaitLease(r.interrupt());
    if (!valid) stat = Errc::kInterrupted;
  }
  if (!stat.ok()) {
    r.Error(stat.error());
    co_return;
  }
  fuse_statfs_out out{};
  out.st.blocks = stat->blocks;
  out.st.bfree = stat->free;
  out.st.bavail = stat->available;
  out.st.files = stat->files;
  out.st.ffree = stat->files_free;
  out.st.bsize = out.st.frsize = kBlockSize;
  out.st.namelen = kNameMax;
  r.Buffer(&out, sizeof(out));
}

void GetAttr(fuse_req_t req, fuse_ino_t inode, fuse_file_info*) {
  FuseServer* s = FuseServer::Of(req);
  s->requests().GetAttr(ReplyAttr(s, req, s->session()->IsStatx()), inode);
}

WallTime ToWall(const timespec& t) { return WallTime{t.tv_sec, static_cast<uint32_t>(t.tv_nsec)}; }

void DoSet(fuse_req_t req, fuse_ino_t inode, struct stat* st, int which, fuse_file_info*) {
  FuseServer* s = FuseServer::Of(req);
  SetAttr set;
  auto take = [&](int fuse, uint32_t ours) {
    if ((which & fuse) != 0) set.which |= ours;
  };
  take(FUSE_SET_ATTR_MODE, kSetMode);
  take(FUSE_SET_ATTR_UID, kSetUid);
  take(FUSE_SET_ATTR_GID, kSetGid);
  take(FUSE_SET_ATTR_SIZE, kSetSize);
  take(FUSE_SET_ATTR_ATIME, kSetAtime);
  take(FUSE_SET_ATTR_MTIME, kSetMtime);
  take(FUSE_SET_ATTR_CTIME, kSetCtime);
  take(FUSE_SET_ATTR_ATIME_NOW, kSetAtimeNow);
  take(FUSE_SET_ATTR_MTIME_NOW, kSetMtimeNow);
  set.mode = st->st_mode & 07777;
  set.uid = st->st_uid;
  set.gid = st->st_gid;
  set.size = static_cast<uint64_t>(st->st_size);
  set.atime = ToWall(st->st_atim);
  set.mtime = ToWall(st->st_mtim);
  set.ctime = ToWall(st->st_ctim);
  set.caller = fuse_req_ctx(req)->uid;
  set.kill_privileges = (s->session()->Body<fuse_setattr_in>()->valid & kFattrKillSuidgid) != 0;
  s->requests().Set(ReplyTo(s, req), inode, set);
}

void StatFsOp(fuse_req_t req, fuse_ino_t) {
  FuseServer* s = FuseServer::Of(req);
  if (s->Begin(req)) Detach(DoStatFs(s, Request(s, req)));
}

}  // namespace

void AddAttrOps(fuse_lowlevel_ops* ops) {
  ops->getattr = &GetAttr;
  ops->setattr = &DoSet;
  ops->statfs = &StatFsOp;
}

}  // namespace holdfast::fs::fuse
