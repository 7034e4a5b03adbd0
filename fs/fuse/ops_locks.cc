// Requests about range locks: GETLK, SETLK(W), flock. Rule 7: INTERRUPT comes for every signal; waits for these end with EINTR.
#include <cerrno>
#include <fcntl.h>
#include <sys/file.h>

#include <linux/fuse.h>

#include "fs/fuse/server.h"

namespace holdfast::fs::fuse {
namespace {

using Request = FuseServer::Request;

FileHandle* HandleOf(const fuse_file_info* info) { return reinterpret_cast<FileHandle*>(info->fh); }

dlm::RangeType ToType(int type) {
  return type == F_WRLCK ? dlm::RangeType::kExclusive : type == F_RDLCK ? dlm::RangeType::kShared : dlm::RangeType::kUnlock;
}

RangeLocks::Lock ToLock(FuseServer* s, fuse_ino_t inode, const fuse_file_info* info, const struct flock* l) {
  RangeLocks::Lock lock;
  lock.inode = s->cache().NumberOf(inode);
  lock.owner = info->lock_owner;
  lock.handle = info->fh;
  lock.pid = static_cast<uint32_t>(l->l_pid);
  lock.start = static_cast<uint64_t>(l->l_start);
  lock.end = l->l_len == 0 ? UINT64_MAX : static_cast<uint64_t>(l->l_start + l->l_len - 1);
  lock.type = ToType(l->l_type);
  return lock;
}

// Any signal ends a wait, when the lock manager has decided; a killed process waits for no decision.
Task<void> DoSet(FuseServer* s, Request r, RangeLocks::Lock lock) {
  RangeLocks* ranges = &s->ranges();
  uint64_t token = ranges->NextToken();
  if (lock.wait) {
    r.call()->OnSignal([ranges, token] { ranges->Cancel(token); });
    // Before we listened there was nothing to end.
    if (r.call()->signalled()) {
      r.Errno(EINTR);
      co_return;
    }
  }
  Task<Status> work = ranges->Set(lock, token);
  auto set = co_await OrInterrupted<Status>(&s->requests().background(), r.interrupt(), std::move(work));
  if (r.interrupt()->raised()) ranges->Abandon(token);
  if (s->Suspended()) {
    bool valid = co_await s->AwaitLease(r.interrupt());
    if (!valid) set = Errc::kInterrupted;
  }
  r.Reply(set);
}

Task<void> DoGet(FuseServer* s, Request r, RangeLocks::Lock lock) {
  Task<Result<std::optional<dlm::RangeConflict>>> test = s->ranges().Test(lock);
  auto conflict = co_await OrInterrupted<Result<std::optional<dlm::RangeConflict>>>(&s->requests().background(), r.interrupt(),
                                                                                   std::move(test));
  if (s->Suspended()) {
    bool valid = co_await s->AwaitLease(r.interrupt());
    if (!valid) conflict = Errc::kInterrupted;
  }
  if (!conflict.ok()) {
    r.Error(conflict.error());
    co_return;
  }
  fuse_lk_out out{};
  out.lk.type = F_UNLCK;
  if (*conflict) {
    const dlm::RangeConflict& c = **conflict;
    out.lk.type = c.type == dlm::RangeType::kExclusive ? F_WRLCK : F_RDLCK;
    out.lk.start = c.start;
    out.lk.end = c.end > static_cast<uint64_t>(INT64_MAX) ? INT64_MAX : c.end;
    // A process id of another node means nothing here; 0 would mean nobody.
    out.lk.pid = c.pid;
  }
  r.Buffer(&out, sizeof(out));
}

void GetLock(fuse_req_t req, fuse_ino_t inode, fuse_file_info* info, struct flock* l) {
  FuseServer* s = FuseServer::Of(req);
  if (s->Begin(req)) Detach(DoGet(s, Request(s, req), ToLock(s, inode, info, l)));
}

void SetLock(fuse_req_t req, fuse_ino_t inode, fuse_file_info* info, struct flock* l, int sleep) {
  FuseServer* s = FuseServer::Of(req);
  if (!s->Begin(req)) return;
  RangeLocks::Lock lock = ToLock(s, inode, info, l);
  lock.wait = sleep != 0 && lock.type != dlm::RangeType::kUnlock;
  HandleOf(info)->locked = true;
  Detach(DoSet(s, Request(s, req), lock));
}

void Flock(fuse_req_t req, fuse_ino_t inode, fuse_file_info* info, int operation) {
  FuseServer* s = FuseServer::Of(req);
  if (!s->Begin(req)) return;
  RangeLocks::Lock lock;
  lock.inode = s->cache().NumberOf(inode);
  lock.space = dlm::RangeSpace::kFlock;
  lock.owner = info->lock_owner;
  lock.handle = info->fh;
  lock.pid = static_cast<uint32_t>(fuse_req_ctx(req)->pid);
  int type = operation & ~LOCK_NB;
  lock.type = type == LOCK_EX ? dlm::RangeType::kExclusive : type == LOCK_SH ? dlm::RangeType::kShared : dlm::RangeType::kUnlock;
  lock.wait = (operation & LOCK_NB) == 0 && lock.type != dlm::RangeType::kUnlock;
  HandleOf(info)->locked = true;
  Detach(DoSet(s, Request(s, req), lock));
}

}  // namespace

void AddLockOps(fuse_lowlevel_ops* ops) {
  ops->getlk = &GetLock;
  ops->setlk = &SetLock;
  ops->flock = &Flock;
}

}  // namespace holdfast::fs::fuse
