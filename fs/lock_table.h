// LockTable: the cluster locks that this mount holds and keeps (GFS2: glocks). An operation asks for a resource in PR
// or EX and gets a LockGuard; locally PR guards share, an EX guard is alone, first come first served. When nobody
// uses a lock it stays cached until another member wants it; then it is let go (let_go.h): no new guards, the
// present ones finish, hooks write in place, the kernel's and our caches are dropped, the DLM lock is downgraded.
//
// Flow of one lock: none -> acquiring -> held (PR|EX) -> [blocking callback -> minimum hold -> letting go] -> none|PR.
// INVARIANT: a guard of mode m exists only while the DLM has granted >= m; `acquisition` of a resource grows whenever
// its lock was lost (to none) and taken again, so objects cached under it know that they are stale.
// LOCKS order for callers (filesystem.md): rename; directories parents first; files (two by number); groups; open.
// Never await Lock() with a transaction open. Threading: one executor.
#pragma once

#include <coroutine>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "base/sync.h"
#include "fs/interrupt.h"
#include "fs/lock_mode.h"
#include "fs/resource.h"

namespace holdfast::fs {

class LockTable;
class LockPort;  // lock_port.h: the DLM as seen from here
struct CachedLock;

// What a lock's owner room does before the lock is lost. Registered per LockType.
class LockHooks {
 public:
  virtual ~LockHooks() = default;
  // The lock is EX and will be PR or none: write its dirty data and metadata in place and flush. No guard exists
  // meanwhile; must take no cluster lock. An error withdraws the mount. Called also when nothing is dirty.
  virtual Task<Status> Flush(Resource resource) = 0;
  // After Flush and after the kernel's caches: forget what was cached under it. to = kPr keeps what is valid for PR.
  virtual void Drop(Resource resource, LockMode to) = 0;
};

// The kernel's part of letting go (kernel_cache.h). Returns when the kernel caches nothing that mode `to` forbids.
class KernelHooks {
 public:
  virtual ~KernelHooks() = default;
  virtual bool NeedsDrop(Resource resource, LockMode from, LockMode to) = 0;
  virtual Task<Status> DropKernel(Resource resource, LockMode from, LockMode to) = 0;
};

// Gives its use of the lock back when it goes.
class [[nodiscard]] LockGuard {
 public:
  LockGuard() = default;
  LockGuard(LockGuard&& o) noexcept
      : table_(std::exchange(o.table_, nullptr)), lock_(o.lock_), mode_(std::exchange(o.mode_, LockMode::kNone)) {}
  LockGuard& operator=(LockGuard&& o) noexcept;
  ~LockGuard() { Release(); }
  void Release();

  explicit operator bool() const { return table_ != nullptr; }
  LockMode mode() const { return mode_; }
  bool ex() const { return mode_ == LockMode::kEx; }
  Resource resource() const;
  uint64_t acquisition() const;

 private:
  friend class LockTable;
  LockGuard(LockTable* table, CachedLock* lock, LockMode mode) : table_(table), lock_(lock), mode_(mode) {}
  LockTable* table_ = nullptr;
  CachedLock* lock_ = nullptr;
  LockMode mode_ = LockMode::kNone;
};

struct LockOptions {
  // Fail with kWouldBlock instead of waiting for another member or for another local guard.
  bool noqueue = false;
  // A READ or WRITE of the kernel's page cache: let in even while the lock is being let go (rule 2: the kernel's
  // invalidation waits for such pages) as long as it is still granted in that mode.
  bool page_io = false;
  // With page_io: it only reads. EX was asked so that a store into the page is safe; while the lock is being let go
  // the page is dropped right afterwards, so what is held suffices (AdmitPageReads).
  bool page_read = false;
  // Raised, it ends the wait with kInterrupted; the lock manager is asked to forget the request if nobody else waits.
  Interrupt* interrupt = nullptr;
};
inline LockOptions Interruptible(Interrupt* interrupt) {
  LockOptions options;
  options.interrupt = interrupt;
  return options;
}

struct LockTableKnobs {
  Duration min_hold_max = Milliseconds(200);
  Duration min_hold_floor = Milliseconds(1);
  Duration grace_min = Milliseconds(1);  // after its last use
  Duration grace_max = Milliseconds(5);
  size_t idle_locks_max = 200'000;  // cached locks without guards beyond this are let go, oldest first
};

// One line of `holdfast lock` / status: who waits on what since when.
struct LockStatus {
  Resource resource;
  LockMode held = LockMode::kNone;
  std::string state;
  size_t guards = 0;
  size_t waiters = 0;
  Duration oldest_wait;
  LockMode wanted_by_others = LockMode::kNone;
};

class LockTable {
 public:
  LockTable(LockPort& port, Clock& clock, LockTableKnobs knobs);
  ~LockTable();

  void SetHooks(LockType type, LockHooks* hooks);
  void SetKernelHooks(KernelHooks* hooks) { kernel_ = hooks; }
  // Called with the first error that makes this mount useless (a Flush failed, the DLM gave up).
  void SetFatal(std::function<void(Error)> fatal) { fatal_ = std::move(fatal); }

  // Called when others take many written locks from us one by one: writing everything in place at once makes the next
  // ones cheap.
  void SetRelieve(std::function<void()> relieve) { relieve_ = std::move(relieve); }

  // auto guard = co_await locks.Lock(resource, LockMode::kEx);   -> Result<LockGuard>
  // Does not suspend when the lock is cached and free. Errors: kWouldBlock (noqueue), kInterrupted, kFenced or kIo
  // after Fail(). REQUIRES: the caller has no guard of this resource (no recursion, no upgrade in place).
  class Awaiter;
  Awaiter Lock(Resource resource, LockMode mode, LockOptions options = {});
  // Only what is cached and free right now; an empty guard otherwise.
  LockGuard TryLock(Resource resource, LockMode mode);

  // 0 when not held at all. Equal numbers: never lost in between.
  uint64_t Acquisition(Resource resource) const;
  // May the kernel still be told `unlimited` for what was read under that acquisition? (held in PR or more, not
  // being let go.)
  bool Valid(Resource resource, uint64_t acquisition) const;
  LockMode Held(Resource resource) const;
  // Has another member asked for it since it was granted?
  bool Wanted(Resource resource) const;

  // For polite types (open-locks): a lock wanted elsewhere is released when its last guard goes, never stopping new
  // guards. Other types let go as described above.
  void SetPolite(LockType type);

  // Lets one lock go to `to` as if somebody had asked (tests, the supervisor's table, forgetting a freed inode).
  Task<void> Demote(Resource resource, LockMode to);
  // Lets everything go but locks of that type: clean unmount.
  Task<void> DemoteAll(LockType but = LockType::kNone);
  // Ends the waiting requests (page I/O excepted) with `code`: rule 1 on kernels without the epoch answers ESTALE.
  size_t AbortWaiters(Resource resource, Errc code);
  // May a page that was read under that acquisition still be handed to the kernel? True while the lock is held in
  // `mode`, and while it is being let go as long as the kernel's pages have not been dropped for good.
  bool PageReplyValid(Resource resource, uint64_t acquisition, LockMode mode) const;
  // The kernel's pages are dropped: from now on no page may come into its cache before the lock is held again.
  void ClosePageWindow(Resource resource);
  // While the lock is being let go: waiting page READs are served under what is held (rule 2, large folios).
  void AdmitPageReads(Resource resource);
  // Withdraw: every waiter and every later Lock() gets this error; nothing more is sent to the DLM.
  void Fail(Error error);

  std::vector<LockStatus> Dump(size_t max) const;
  size_t cached() const { return locks_.size(); }
  LockPort& port() { return port_; }

 private:
  friend class LockGuard;
  friend class Awaiter;
  friend struct CachedLock;
  struct Waiter;

  CachedLock& Get(Resource resource);
  bool TryGrant(CachedLock& lock, LockMode mode, const LockOptions& options, LockGuard* out);
  bool Compatible(const CachedLock& lock, LockMode mode) const;
  static LockMode Needed(const CachedLock& lock, LockMode mode, const LockOptions& options);
  void Enqueue(CachedLock& lock, Waiter* waiter);
  void GrantWaiters(CachedLock& lock);
  void ReleaseGuard(CachedLock& lock, LockMode mode);
  void Kick(CachedLock& lock);
  Task<void> Drive(CachedLock& lock);
  Task<bool> Acquire(CachedLock& lock, LockMode mode, bool noqueue);
  Task<void> LetGo(CachedLock& lock, LockMode to);
  Task<void> Relax(CachedLock& lock);
  void OnBlocking(Resource resource, LockMode wanted);
  void FailWaiters(CachedLock& lock, const Error& error);
  void EndWait(Resource resource, Waiter* waiter);
  Instant HoldUntil(const CachedLock& lock) const;
  void CountRelief();
  void Touch(CachedLock& lock);
  void TrimIdle();
  void Erase(CachedLock& lock);

  LockPort& port_;
  Clock& clock_;
  LockTableKnobs knobs_;
  LockHooks* hooks_[256] = {};
  bool polite_[256] = {};
  KernelHooks* kernel_ = nullptr;
  std::function<void(Error)> fatal_;
  std::function<void()> relieve_;
  Instant relief_window_;        // EX locks let go since then
  unsigned let_go_in_window_ = 0;
  std::unordered_map<Resource, std::unique_ptr<CachedLock>> locks_;
  CachedLock* idle_oldest_ = nullptr;  // intrusive list of locks without guards
  CachedLock* idle_newest_ = nullptr;
  size_t idle_ = 0;
  uint64_t next_acquisition_ = 1;
  Duration let_go_cost_;  // moving average: from the last guard's end to the message that lowers the lock
  bool failed_ = false;
  Error failure_ = Errc::kOk;
  Scope scope_;
};

// What Lock() returns: awaitable without a coroutine frame of its own.
struct LockTable::Waiter {
  LockMode mode = LockMode::kNone;
  LockOptions options;
  Instant since;
  std::coroutine_handle<> handle;
  Executor* home = nullptr;
  LockGuard guard;
  Error error = Errc::kOk;
};

class [[nodiscard]] LockTable::Awaiter {
 public:
  Awaiter(LockTable& table, Resource resource, LockMode mode, LockOptions options)
      : table_(table), resource_(resource) {
    waiter_.mode = mode;
    waiter_.options = options;
  }
  Awaiter(const Awaiter&) = delete;
  bool await_ready();
  void await_suspend(std::coroutine_handle<> handle);
  Result<LockGuard> await_resume();

 private:
  LockTable& table_;
  Resource resource_;
  Waiter waiter_;
};

}  // namespace holdfast::fs
