// CachedLock: the state of one lock of the table (lock_table.cc and let_go.cc only).
#pragma once

#include <deque>

#include "fs/lock_table.h"

namespace holdfast::fs {

struct CachedLock {
  Resource resource;
  LockMode held = LockMode::kNone;
  size_t pr_guards = 0;
  size_t ex_guards = 0;
  std::deque<LockTable::Waiter*> waiters;
  uint64_t acquisition = 0;

  bool driving = false;      // a Drive() runs
  bool demote = false;       // somebody wants it: lower to demote_to
  bool hurry = false;        // ... without waiting for the minimum hold
  bool stop_new = false;     // letting go: no new guards
  bool page_window = false;  // ... but page I/O of the kernel is still let in
  bool admit_page_reads = false;
  bool timer_set = false;
  Instant timer_at;
  LockMode demote_to = LockMode::kEx;
  LockMode acquiring = LockMode::kNone;
  const char* step = "idle";

  Instant granted_at;
  Instant last_used;
  WaitList drained;  // guards went to 0
  WaitList changed;  // held changed

  CachedLock* older = nullptr;  // idle list
  CachedLock* newer = nullptr;
  bool on_idle_list = false;

  size_t guards() const { return pr_guards + ex_guards; }
};

}  // namespace holdfast::fs
