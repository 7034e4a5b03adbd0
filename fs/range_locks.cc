#include "fs/range_locks.h"

#include "fs/resource.h"

namespace holdfast::fs {

dlm::RangeRequest RangeLocks::ToRequest(const Lock& lock, uint64_t token) {
  dlm::RangeRequest request;
  request.name = DlmName(RangeResource(lock.inode));
  request.space = lock.space;
  request.owner.key = lock.owner;
  request.handle = lock.handle;
  request.pid = lock.pid;
  request.start = lock.start;
  request.end = lock.end;
  request.type = lock.type;
  request.wait = lock.wait;
  request.token = token;
  return request;
}

Task<Status> RangeLocks::Set(Lock lock, uint64_t token) {
  while (BehindAbandoned(lock)) co_await abandoned_done_.Wait();
  running_[token] = {lock.inode, lock.owner, false};
  Status set = co_await space_.RangeSet(ToRequest(lock, token));
  bool abandoned = running_[token].abandoned;
  running_.erase(token);
  if (abandoned) abandoned_done_.WakeAll();
  co_return set;
}

bool RangeLocks::BehindAbandoned(const Lock& lock) const {
  for (const auto& [token, r] : running_) {
    if (r.abandoned && r.inode == lock.inode && r.owner == lock.owner) return true;
  }
  return false;
}

void RangeLocks::Abandon(uint64_t token) {
  auto it = running_.find(token);
  if (it == running_.end()) return;
  it->second.abandoned = true;
  space_.RangeCancel(token);
}

Task<Result<std::optional<dlm::RangeConflict>>> RangeLocks::Test(Lock lock) {
  auto conflict = co_await space_.RangeTest(ToRequest(lock, 0));
  co_return conflict;
}

bool RangeLocks::Holds(InodeNo inode) const { return space_.HoldsRanges(DlmName(RangeResource(inode))); }

Task<Status> RangeLocks::Flushed(InodeNo inode, uint64_t owner) {
  dlm::ResourceName name = DlmName(RangeResource(inode));
  if (!space_.HoldsRanges(name)) co_return Status();
  dlm::RangeOwner who;
  who.key = owner;
  Status dropped = co_await space_.RangeDropOwner(name, dlm::RangeSpace::kFcntl, who);
  co_return dropped;
}

Task<Status> RangeLocks::Released(InodeNo inode, uint64_t handle) {
  dlm::ResourceName name = DlmName(RangeResource(inode));
  if (!space_.HoldsRanges(name)) co_return Status();
  Status dropped = co_await space_.RangeDropHandle(name, handle);
  co_return dropped;
}

}  // namespace holdfast::fs
