// Requests about range locks: GETLK, SETLK(W), flock. Rule 7: INTERRUPT comes for every signal; lock waits end with EINTR.
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

// Lives as long as the request: libfuse calls back for INTERRUPT until the reply.
struct Interruptible {
  RangeLocks* ranges;
  uint64_t token;
};
void OnInterrupt(fuse_req_t, void* data) {
  auto* wait = static_cast<Interruptible*>(data);
  wait->ranges->Cancel(wait->token);
}

Task<void> DoSet(FuseServer* s, Request r, RangeLocks::Lock lock) {
  Interruptible wait{&s->ranges(), s->ranges().NextToken()};
  if (lock.wait) fuse_req_interrupt_func(r.raw(), &OnInterrupt, &wait);
  // Interrupted before we could listen: libfuse has called back at once, when nothing waited yet.
  if (lock.wait && fuse_req_interrupted(r.raw())) {
    r.Errno(EINTR);
    co_return;
  }
  auto set = co_await s->ranges().Set(lock, wait.token);
  if (s->Suspended()) co_await s->AwaitLease();
  fuse_req_interrupt_func(r.raw(), nullptr, nullptr);
  r.Reply(set);
}

Task<void> DoGet(FuseServer* s, Request r, RangeLocks::Lock lock) {
  auto conflict = co_await s->ranges().Test(lock);
  if (s->Suspended()) co_await s->AwaitLease();
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
