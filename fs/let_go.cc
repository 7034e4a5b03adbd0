// Letting go, and its opposite: the driver of one cached lock. It runs while there is something to do (a waiter that
// needs more than is held, or another member that wants the lock) and ends; timers and guards start it again.
// Order of letting go (filesystem.md): stop new guards; present ones finish; the kernel's caches, while page I/O that
// the kernel needs for that is still served; EX: data, commit, in place, flush; our caches; the DLM.
#include <algorithm>

#include "base/log.h"
#include "base/mutants.h"
#include "base/probe.h"
#include "fs/cached_lock.h"
#include "fs/lock_port.h"
#include "fs/lock_table.h"

namespace holdfast::fs {

void LockTable::Kick(CachedLock& lock) {
  if (lock.driving) return;
  lock.driving = true;
  Touch(lock);
  scope_.Spawn(Drive(lock));
}

// The minimum hold follows what letting go costs here: if writing back and emptying caches takes 5 ms, a new lock is worth
// keeping for 10. What the grant took to come is no measure: it contains the other side's minimum hold, and two nodes
// that pass one lock to and fro would drive each other up to the maximum.
// One that is no longer used goes after a short grace: a user's next call would have come by then.
Instant LockTable::HoldUntil(const CachedLock& lock) const {
  Duration hold = std::clamp(let_go_cost_ * 2, knobs_.min_hold_floor, knobs_.min_hold_max);
  Instant until = lock.granted_at + hold;
  if (lock.guards() > 0) return until;
  Duration grace = std::clamp(hold / 4, std::min(hold, knobs_.grace_min), knobs_.grace_max);
  return std::min(until, lock.last_used + grace);
}

void LockTable::OnBlocking(Resource resource, LockMode wanted) {
  auto it = locks_.find(resource);
  if (it == locks_.end() || failed_) return;
  CachedLock& lock = *it->second;
  LockMode to = wanted == LockMode::kPr ? LockMode::kPr : LockMode::kNone;
  if (!lock.demote || to == LockMode::kNone) lock.demote_to = to;
  lock.demote = true;
  Kick(lock);
}

Task<void> LockTable::Drive(CachedLock& lock) {
  while (!failed_) {
    if (lock.demote && Covers(lock.demote_to, lock.held)) lock.demote = lock.hurry = false;
    if (lock.demote && lock.acquiring == LockMode::kNone) {
      if (polite_[static_cast<uint8_t>(lock.resource.type)] && lock.guards() > 0) {
        if (lock.held != LockMode::kEx || lock.ex_guards > 0) break;
        co_await Relax(lock);
        continue;
      }
      bool stuck = !lock.waiters.empty() && !Covers(lock.held, lock.waiters.front()->mode);
      Instant until = HoldUntil(lock);
      if (!lock.hurry && !stuck && clock_.Now() < until) {
        GrantWaiters(lock);
        if (!lock.timer_set || until < lock.timer_at) {
          lock.timer_set = true;
          lock.timer_at = until;
          Resource resource = lock.resource;
          Executor::Current().PostAt(until, [this, resource] {
            auto it = locks_.find(resource);
            if (it == locks_.end()) return;
            it->second->timer_set = false;
            Kick(*it->second);
          });
        }
        break;
      }
      co_await LetGo(lock, lock.demote_to);
      continue;
    }
    GrantWaiters(lock);
    if (lock.waiters.empty() || Covers(lock.held, lock.waiters.front()->mode)) break;
    Waiter* front = lock.waiters.front();
    bool again = co_await Acquire(lock, front->mode, front->options.noqueue);
    if (!again) break;
  }
  lock.driving = false;
  if (failed_) FailWaiters(lock, failure_);
  if (lock.held == LockMode::kNone && lock.guards() == 0 && lock.waiters.empty()) {
    lock.step = "idle";
    lock.changed.WakeAll();
    // A timer or a Demote() looks the lock up by name, so it may go.
    if (lock.on_idle_list) Touch(lock);
    Erase(lock);
    co_return;
  }
  lock.step = lock.demote ? "held, wanted elsewhere" : "held";
  Touch(lock);
  TrimIdle();
}

// False: final failure; the waiters have been told.
Task<bool> LockTable::Acquire(CachedLock& lock, LockMode mode, bool noqueue) {
  lock.acquiring = mode;
  lock.step = lock.held == LockMode::kNone ? "waiting for the lock" : "waiting to raise the lock";
  Status got = co_await port_.Acquire(lock.resource, lock.held, mode, noqueue);
  lock.acquiring = LockMode::kNone;
  if (failed_) co_return false;
  if (got.ok()) {
    if (lock.held == LockMode::kNone && !(HF_MUTANT(kLetGoUnforgotten) && lock.acquisition != 0)) lock.acquisition = next_acquisition_++;
    lock.held = mode;
    lock.granted_at = lock.last_used = clock_.Now();
    lock.step = "held";
    GrantWaiters(lock);
    lock.changed.WakeAll();
    co_return true;
  }
  switch (got.code()) {
    case Errc::kWouldBlock: {
      // Answer those in front that did not want to wait; the others ask again, waiting.
      while (!lock.waiters.empty() && lock.waiters.front()->options.noqueue) {
        Waiter* w = lock.waiters.front();
        lock.waiters.pop_front();
        w->error = Errc::kWouldBlock;
        w->home->Post(w->handle);
      }
      co_return true;
    }
    case Errc::kDeadlock:
      HF_PROBE("locks: stepped back from a conversion deadlock");
      // Another holder of PR wants EX too, and the master chose us to step back.
      co_await LetGo(lock, LockMode::kNone);
      co_return true;
    case Errc::kCancelled:
      HF_PROBE("locks: request cancelled");
      co_return true;
    default:
      HF_LOG(LogLevel::kError, "locks", "request_failed",
             {{"resource", ToString(lock.resource)}, {"error", got.error().ToString()}});
      FailWaiters(lock, got.error());
      if (fatal_) fatal_(got.error());
      co_return false;
  }
}

void LockTable::CountRelief() {
  constexpr unsigned kMany = 8;
  Instant now = clock_.Now();
  if (relief_window_ + Seconds(1) < now) {
    relief_window_ = now;
    let_go_in_window_ = 0;
  }
  if (++let_go_in_window_ % kMany == 0 && relieve_) relieve_();
}

// A polite lock is kept while it is in use, but no stronger than its users need: the reaper's EX stays cached when it has freed
// an inode, and where the same block becomes a new file that is opened here, others want to open it too.
// REQUIRES: every guard is PR. Such locks have no caches below them.
Task<void> LockTable::Relax(CachedLock& lock) {
  lock.held = LockMode::kPr;
  Status lowered = co_await port_.Lower(lock.resource, LockMode::kEx, LockMode::kPr);
  if (!lowered.ok() && !failed_ && fatal_) fatal_(lowered.error());
  lock.changed.WakeAll();
}

Task<void> LockTable::LetGo(CachedLock& lock, LockMode to) {
  LockMode from = lock.held;
  lock.stop_new = true;
  lock.page_window = true;
  lock.step = "letting go: users finish";
  GrantWaiters(lock);
  while (lock.guards() > 0 && !failed_) co_await lock.drained.Wait();
  Instant begun = clock_.Now();
  if (kernel_ && !failed_ && kernel_->NeedsDrop(lock.resource, from, to)) {
    lock.step = "letting go: kernel caches";
    Status dropped = co_await kernel_->DropKernel(lock.resource, from, to);
    if (!dropped.ok() && fatal_) fatal_(dropped.error());
  }
  lock.page_window = lock.admit_page_reads = false;
  while (lock.guards() > 0 && !failed_) co_await lock.drained.Wait();
  LockHooks* hooks = hooks_[static_cast<uint8_t>(lock.resource.type)];
  if (hooks && from == LockMode::kEx && !failed_ && !HF_MUTANT(kLetGoUnwritten)) {
    lock.step = "letting go: writing in place";
    CountRelief();
    Status flushed = co_await hooks->Flush(lock.resource);
    if (!flushed.ok() && !failed_) {
      HF_PROBE("locks: letting go failed");
      // The lock must not move: what it protects is not in place. Withdraw; the others replay our journal.
      HF_LOG(LogLevel::kError, "locks", "flush_failed",
             {{"resource", ToString(lock.resource)}, {"error", flushed.error().ToString()}});
      Fail(flushed.error());
      if (fatal_) fatal_(flushed.error());
      co_return;
    }
  }
  if (failed_) co_return;
  if (hooks && !HF_MUTANT(kLetGoUnforgotten)) hooks->Drop(lock.resource, to);
  let_go_cost_ = (let_go_cost_ * 7 + (clock_.Now() - begun)) / 8;
  lock.step = "letting go: lock manager";
  lock.held = to;
  if (to == LockMode::kNone && !HF_MUTANT(kLetGoUnforgotten)) lock.acquisition = 0;
  Status lowered = co_await port_.Lower(lock.resource, from, to);
  if (!lowered.ok() && !failed_ && fatal_) fatal_(lowered.error());
  lock.stop_new = false;
  lock.hurry = false;
  lock.changed.WakeAll();
}

Task<void> LockTable::Demote(Resource resource, LockMode to) {
  while (!failed_) {
    auto it = locks_.find(resource);
    if (it == locks_.end() || Covers(to, it->second->held)) co_return;
    CachedLock& lock = *it->second;
    if (!lock.demote || to == LockMode::kNone) lock.demote_to = to;
    lock.demote = lock.hurry = true;
    Kick(lock);
    co_await lock.changed.Wait();
  }
}

Task<void> LockTable::DemoteAll(LockType but) {
  std::vector<Resource> all;
  for (auto& [resource, lock] : locks_) {
    if (resource.type != but) all.push_back(resource);
  }
  std::sort(all.begin(), all.end());
  for (const Resource& resource : all) {
    auto it = locks_.find(resource);
    if (it == locks_.end() || it->second->held == LockMode::kNone) continue;
    it->second->demote = it->second->hurry = true;
    it->second->demote_to = LockMode::kNone;
    Kick(*it->second);
  }
  for (const Resource& resource : all) co_await Demote(resource, LockMode::kNone);
}

}  // namespace holdfast::fs
