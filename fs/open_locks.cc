#include "fs/open_locks.h"

#include "base/mutants.h"

namespace holdfast::fs {

OpenLocks::OpenLocks(LockTable& locks) : locks_(locks) { locks_.SetPolite(LockType::kOpen); }

Task<Status> OpenLocks::Opened(InodeNo inode, Interrupt* interrupt) {
  auto it = counts_.find(inode.v);
  if (it != counts_.end()) {
    ++it->second.count;
    co_return Status();
  }
  auto guard = co_await locks_.Lock(OpenResource(inode), LockMode::kPr, Interruptible(interrupt));
  if (!guard.ok()) co_return guard.error();
  // Another open of this mount may have come first meanwhile; then its guard serves both.
  Open& open = counts_[inode.v];
  if (open.count++ == 0) open.guard = std::move(*guard);
  co_return Status();
}

bool OpenLocks::Released(InodeNo inode) {
  auto it = counts_.find(inode.v);
  HF_CHECK(it != counts_.end(), "release of inode %llu, which is not open", static_cast<unsigned long long>(inode.v));
  if (--it->second.count > 0) return false;
  bool wanted = locks_.Wanted(OpenResource(inode));
  counts_.erase(it);
  if (wanted && last_close_) last_close_(inode);
  return true;
}

Task<Result<LockGuard>> OpenLocks::TryReap(InodeNo inode) {
  if (OpenHere(inode)) co_return LockGuard();
  LockOptions options;
  options.noqueue = true;
  auto guard = co_await locks_.Lock(OpenResource(inode), HF_MUTANT(kReapsOpenFiles) ? LockMode::kPr : LockMode::kEx, options);
  if (!guard.ok() && guard.code() == Errc::kWouldBlock) co_return LockGuard();
  co_return guard;
}

}  // namespace holdfast::fs
