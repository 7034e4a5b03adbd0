#include "fs/lock_table.h"

#include <algorithm>

#include "base/log.h"
#include "base/mutants.h"
#include "fs/cached_lock.h"
#include "fs/lock_port.h"

namespace holdfast::fs {

LockGuard& LockGuard::operator=(LockGuard&& o) noexcept {
  if (this != &o) {
    Release();
    table_ = std::exchange(o.table_, nullptr);
    lock_ = o.lock_;
    mode_ = std::exchange(o.mode_, LockMode::kNone);
  }
  return *this;
}

void LockGuard::Release() {
  if (table_) std::exchange(table_, nullptr)->ReleaseGuard(*lock_, std::exchange(mode_, LockMode::kNone));
}

Resource LockGuard::resource() const { return lock_->resource; }
uint64_t LockGuard::acquisition() const { return lock_->acquisition; }

LockTable::LockTable(LockPort& port, Clock& clock, LockTableKnobs knobs) : port_(port), clock_(clock), knobs_(knobs) {
  port_.SetBlocking([this](Resource resource, LockMode wanted) { OnBlocking(resource, wanted); });
}

LockTable::~LockTable() { scope_.Abandon(); }

void LockTable::SetHooks(LockType type, LockHooks* hooks) { hooks_[static_cast<uint8_t>(type)] = hooks; }
void LockTable::SetPolite(LockType type) { polite_[static_cast<uint8_t>(type)] = true; }

CachedLock& LockTable::Get(Resource resource) {
  std::unique_ptr<CachedLock>& slot = locks_[resource];
  if (!slot) {
    slot = std::make_unique<CachedLock>();
    slot->resource = resource;
  }
  return *slot;
}

// Local sharing: PR guards share, an EX guard is alone.
bool LockTable::Compatible(const CachedLock& lock, LockMode mode) const {
  return lock.ex_guards == 0 && (mode == LockMode::kPr || lock.pr_guards == 0);
}

LockMode LockTable::Needed(const CachedLock& lock, LockMode mode, const LockOptions& options) {
  return lock.admit_page_reads && options.page_read ? LockMode::kPr : mode;
}

bool LockTable::TryGrant(CachedLock& lock, LockMode mode, const LockOptions& options, LockGuard* out) {
  mode = Needed(lock, mode, options);
  if (failed_ || !Covers(lock.held, mode) || !Compatible(lock, mode)) return false;
  bool through_window = options.page_io && lock.page_window;
  if (!through_window && (lock.stop_new || !lock.waiters.empty())) return false;
  (mode == LockMode::kEx ? lock.ex_guards : lock.pr_guards)++;
  Touch(lock);
  *out = LockGuard(this, &lock, mode);
  return true;
}

LockGuard LockTable::TryLock(Resource resource, LockMode mode) {
  LockGuard guard;
  auto it = locks_.find(resource);
  if (it != locks_.end()) TryGrant(*it->second, mode, {}, &guard);
  return guard;
}

LockTable::Awaiter LockTable::Lock(Resource resource, LockMode mode, LockOptions options) {
  return Awaiter(*this, resource, mode, options);
}

bool LockTable::Awaiter::await_ready() {
  if (table_.failed_) {
    waiter_.error = table_.failure_;
    return true;
  }
  CachedLock& lock = table_.Get(resource_);
  if (table_.TryGrant(lock, waiter_.mode, waiter_.options, &waiter_.guard)) return true;
  // Somebody here uses it or waits for it: that alone answers NOQUEUE.
  if (waiter_.options.noqueue && (lock.guards() > 0 || !lock.waiters.empty() || lock.stop_new)) {
    waiter_.error = Errc::kWouldBlock;
    return true;
  }
  if (Raised(waiter_.options.interrupt)) {
    waiter_.error = Errc::kInterrupted;
    return true;
  }
  return false;
}

void LockTable::Awaiter::await_suspend(std::coroutine_handle<> handle) {
  waiter_.handle = handle;
  waiter_.home = &Executor::Current();
  waiter_.since = table_.clock_.Now();
  if (waiter_.options.interrupt) waiter_.options.interrupt->Waits([this] { table_.EndWait(resource_, &waiter_); });
  table_.Enqueue(table_.Get(resource_), &waiter_);
}

Result<LockGuard> LockTable::Awaiter::await_resume() {
  if (waiter_.options.interrupt) waiter_.options.interrupt->Waits(nullptr);
  if (waiter_.guard) return std::move(waiter_.guard);
  return std::move(waiter_.error);
}

void LockTable::Enqueue(CachedLock& lock, Waiter* waiter) {
  // Page I/O goes to the front: the kernel holds page locks for it, and others wait for those.
  if (waiter->options.page_io && lock.page_window) {
    lock.waiters.push_front(waiter);
  } else {
    lock.waiters.push_back(waiter);
  }
  Touch(lock);
  Kick(lock);
}

// Serves the queue as far as the granted mode and the guards allow. Once the lock is being let go, page I/O does not stand
// behind what waits for the lock's return: it may have come before the letting go began, and the kernel waits for it.
void LockTable::GrantWaiters(CachedLock& lock) {
  for (size_t i = 0; i < lock.waiters.size();) {
    Waiter* w = lock.waiters[i];
    LockMode mode = Needed(lock, w->mode, w->options);
    bool open = !lock.stop_new || (w->options.page_io && lock.page_window);
    if (!open || !Covers(lock.held, mode) || !Compatible(lock, mode)) {
      if (!lock.page_window || HF_MUTANT(kPageWritesLeftOut)) return;
      ++i;
      continue;
    }
    lock.waiters.erase(lock.waiters.begin() + static_cast<ptrdiff_t>(i));
    (mode == LockMode::kEx ? lock.ex_guards : lock.pr_guards)++;
    w->guard = LockGuard(this, &lock, mode);
    w->home->Post(w->handle);
  }
}

void LockTable::ReleaseGuard(CachedLock& lock, LockMode mode) {
  size_t& count = mode == LockMode::kEx ? lock.ex_guards : lock.pr_guards;
  HF_CHECK(count > 0, "guard of %s released twice", ToString(lock.resource).c_str());
  --count;
  lock.last_used = clock_.Now();
  if (!failed_) GrantWaiters(lock);
  if (lock.guards() == 0) lock.drained.WakeAll();
  if (lock.demote || !lock.waiters.empty()) {
    Kick(lock);
  } else {
    Touch(lock);
    TrimIdle();
  }
}

void LockTable::FailWaiters(CachedLock& lock, const Error& error) {
  while (!lock.waiters.empty()) {
    Waiter* w = lock.waiters.front();
    lock.waiters.pop_front();
    w->error = error;
    w->home->Post(w->handle);
  }
}

void LockTable::EndWait(Resource resource, Waiter* waiter) {
  auto it = locks_.find(resource);
  if (it == locks_.end()) return;
  CachedLock& lock = *it->second;
  auto at = std::find(lock.waiters.begin(), lock.waiters.end(), waiter);
  if (at == lock.waiters.end()) return;  // granted, on its way
  lock.waiters.erase(at);
  waiter->error = Errc::kInterrupted;
  waiter->home->Post(waiter->handle);
  if (!lock.waiters.empty()) {
    GrantWaiters(lock);  // it may have stood in front of some that need less
  } else if (lock.acquiring != LockMode::kNone) {
    port_.Cancel(resource);
  }
}

size_t LockTable::AbortWaiters(Resource resource, Errc code) {
  auto it = locks_.find(resource);
  if (it == locks_.end()) return 0;
  std::deque<Waiter*> keep;
  size_t ended = 0;
  for (Waiter* w : it->second->waiters) {
    if (w->options.page_io) {
      keep.push_back(w);
      continue;
    }
    w->error = code;
    w->home->Post(w->handle);
    ++ended;
  }
  it->second->waiters = std::move(keep);
  return ended;
}

bool LockTable::PageReplyValid(Resource resource, uint64_t acquisition, LockMode mode) const {
  auto it = locks_.find(resource);
  if (it == locks_.end()) return false;
  const CachedLock& lock = *it->second;
  bool enough = Covers(lock.held, mode) || (lock.admit_page_reads && lock.held != LockMode::kNone);
  return enough && lock.acquisition == acquisition && (!lock.stop_new || lock.page_window);
}

void LockTable::ClosePageWindow(Resource resource) {
  auto it = locks_.find(resource);
  if (it != locks_.end()) it->second->page_window = it->second->admit_page_reads = false;
}

void LockTable::AdmitPageReads(Resource resource) {
  auto it = locks_.find(resource);
  if (it == locks_.end() || !it->second->page_window) return;
  CachedLock& lock = *it->second;
  lock.admit_page_reads = true;
  // Those that want to be let in come first; what else waits stays behind.
  std::stable_partition(lock.waiters.begin(), lock.waiters.end(), [](Waiter* w) { return w->options.page_read; });
  GrantWaiters(lock);
}

void LockTable::Fail(Error error) {
  if (failed_) return;
  failed_ = true;
  failure_ = error;
  std::vector<CachedLock*> all;
  for (auto& [resource, lock] : locks_) all.push_back(lock.get());
  std::sort(all.begin(), all.end(), [](auto* a, auto* b) { return a->resource < b->resource; });
  for (CachedLock* lock : all) {
    FailWaiters(*lock, error);
    lock->changed.WakeAll();
  }
}

uint64_t LockTable::Acquisition(Resource resource) const {
  auto it = locks_.find(resource);
  return it == locks_.end() || it->second->held == LockMode::kNone ? 0 : it->second->acquisition;
}

LockMode LockTable::Held(Resource resource) const {
  auto it = locks_.find(resource);
  return it == locks_.end() ? LockMode::kNone : it->second->held;
}

bool LockTable::Wanted(Resource resource) const {
  auto it = locks_.find(resource);
  return it != locks_.end() && it->second->demote;
}

bool LockTable::Valid(Resource resource, uint64_t acquisition) const {
  auto it = locks_.find(resource);
  if (it == locks_.end() || failed_) return false;
  const CachedLock& lock = *it->second;
  return lock.held != LockMode::kNone && lock.acquisition == acquisition && !lock.stop_new;
}

// Keeps the idle list: locks that are held and that nobody uses, oldest first.
void LockTable::Touch(CachedLock& lock) {
  if (lock.on_idle_list) {
    (lock.older ? lock.older->newer : idle_oldest_) = lock.newer;
    (lock.newer ? lock.newer->older : idle_newest_) = lock.older;
    lock.older = lock.newer = nullptr;
    lock.on_idle_list = false;
    --idle_;
  }
  if (lock.guards() > 0 || !lock.waiters.empty() || lock.driving || lock.held == LockMode::kNone) return;
  lock.older = idle_newest_;
  (idle_newest_ ? idle_newest_->newer : idle_oldest_) = &lock;
  idle_newest_ = &lock;
  lock.on_idle_list = true;
  ++idle_;
}

void LockTable::TrimIdle() {
  if (idle_ <= knobs_.idle_locks_max || idle_oldest_->demote) return;
  CachedLock& oldest = *idle_oldest_;
  oldest.demote = oldest.hurry = true;
  oldest.demote_to = LockMode::kNone;
  Kick(oldest);
}

void LockTable::Erase(CachedLock& lock) {
  if (lock.held != LockMode::kNone || lock.guards() > 0 || !lock.waiters.empty() || lock.driving) return;
  locks_.erase(Resource(lock.resource));
}

std::vector<LockStatus> LockTable::Dump(size_t max) const {
  std::vector<LockStatus> out;
  Instant now = clock_.Now();
  for (const auto& [resource, lock] : locks_) {
    LockStatus s;
    s.resource = resource;
    s.held = lock->held;
    s.state = lock->step;
    s.guards = lock->guards();
    s.waiters = lock->waiters.size();
    for (Waiter* w : lock->waiters) s.oldest_wait = std::max(s.oldest_wait, now - w->since);
    if (lock->demote) s.wanted_by_others = lock->demote_to == LockMode::kPr ? LockMode::kPr : LockMode::kEx;
    out.push_back(std::move(s));
  }
  // Those that somebody waits for first.
  std::sort(out.begin(), out.end(), [](const LockStatus& a, const LockStatus& b) {
    return std::tie(b.oldest_wait, a.resource) < std::tie(a.oldest_wait, b.resource);
  });
  if (out.size() > max) out.resize(max);
  return out;
}

}  // namespace holdfast::fs
