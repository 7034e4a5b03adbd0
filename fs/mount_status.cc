// Mount: what `holdfast status` shows of it: who waits on what since when, locks, journal, caches.
#include "fs/alloc.h"
#include "fs/journal.h"
#include "fs/mount.h"
#include "fs/recovery_driver.h"

namespace holdfast::fs {
namespace {

constexpr size_t kLocksShown = 20;
constexpr Duration kWorthShowing = Milliseconds(500);

std::string Holders(const dlm::LockSpaceDump& dump, const Resource& resource) {
  dlm::ResourceName name = DlmName(resource);
  std::string text;
  for (const dlm::DumpResource& r : dump.resources) {
    if (r.name != name) continue;
    for (const dlm::DumpLock& lock : r.granted) text += (text.empty() ? " held by " : ", ") + ToString(lock.owner);
    if (r.frozen) text += ", frozen until a journal is replayed";
    if (r.readers_gated) text += ", closed until a dead mount's readers have ended";
  }
  return text;
}

}  // namespace

dlm::LinkStatus Mount::Describe() const {
  dlm::LinkStatus status;
  dlm::LockSpaceDump dump = options_.space->Dump();
  if (locks_) {
    for (const LockStatus& lock : locks_->Dump(kLocksShown)) {
      if (lock.waiters == 0 || lock.oldest_wait < kWorthShowing) continue;
      dlm::Waiting w;
      w.what = std::to_string(lock.waiters) + " operation" + (lock.waiters == 1 ? "" : "s") + " for " + ToString(lock.resource);
      w.on = lock.state + Holders(dump, lock.resource);
      w.since = lock.oldest_wait;
      status.waits.push_back(std::move(w));
    }
  }
  if (recovery_) {
    for (dlm::Waiting& w : recovery_->Waits()) status.waits.push_back(std::move(w));
  }
  for (const dlm::DumpWait& wait : dump.waits) {
    if (wait.since < kWorthShowing || ResourceFromName(wait.name).type != LockType::kRange) continue;
    dlm::Waiting w;
    w.what = wait.what + " on " + ToString(ResourceFromName(wait.name));
    w.on = "another lock owner";
    w.since = wait.since;
    status.waits.push_back(std::move(w));
  }
  StatusTree& tree = status.tree;
  tree.Add("number", std::to_string(options_.owner.mount.v));
  tree.Add("state", withdrawn_ ? "withdrawn" : fatal_ ? "withdrawing" : started_ ? "running" : "starting");
  if (fatal_) tree.Add("reason", reason_.ToString());
  LeaseState lease = gate_.state();
  tree.Add("lease", lease == LeaseState::kValid ? "valid" : lease == LeaseState::kExpired ? "over: suspended" : "evicted");
  if (locks_) tree.Add("cached_locks", std::to_string(locks_->cached()));
  tree.Add("lock_manager", dump.state);
  tree.Add("lock_generation", std::to_string(dump.generation.v));
  if (journal_) {
    StatusTree& journal = tree.Add("journal");
    journal.Add("used_blocks", std::to_string(journal_->used_blocks()) + " of " + std::to_string(journal_->log_blocks()));
    journal.Add("commits", std::to_string(journal_->counters().commits));
    journal.Add("not_in_place", std::to_string(journal_->not_in_place()));
  }
  if (allocator_) {
    SpaceTotals totals = allocator_->totals();
    tree.Add("free_blocks", std::to_string(totals.free) + " of " + std::to_string(totals.total));
  }
  if (kernel_cache_) {
    const KernelCache::Counters& c = kernel_cache_->counters();
    StatusTree& kernel = tree.Add("kernel_caches");
    kernel.Add("inode_drops", std::to_string(c.inode_drops));
    kernel.Add("entry_drops", std::to_string(c.entry_drops));
    kernel.Add("epochs", std::to_string(c.epochs));
    kernel.Add("retries", std::to_string(c.retries));
  }
  return status;
}

}  // namespace holdfast::fs
