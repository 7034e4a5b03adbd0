#include "base/sync.h"

namespace holdfast {

void WaitList::WakeOne() {
  if (waiters_.empty()) return;
  Waiter w = waiters_.front();
  waiters_.pop_front();
  w.home->Post(w.handle);
}

void WaitList::WakeAll() {
  while (!waiters_.empty()) WakeOne();
}

Task<void> Event::Wait() {
  while (!set_) co_await list_.Wait();
}

Task<Mutex::Guard> Mutex::Lock() {
  if (locked_) {
    // Unlock hands the lock over to the first waiter directly, so that nobody overtakes it.
    Completion<bool> turn;
    waiters_.push_back(&turn);
    co_await turn;
  } else {
    locked_ = true;
  }
  co_return Guard(this);
}

void Mutex::Unlock() {
  HF_CHECK(locked_, "unlock of a free mutex");
  if (waiters_.empty()) {
    locked_ = false;
    return;
  }
  Completion<bool>* next = waiters_.front();
  waiters_.pop_front();
  next->Set(true);
}

task_internal::Detached Scope::Run(Task<void> task) {
  struct Yield {
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> h) { Executor::Current().Post(h); }
    void await_resume() const noexcept {}
  };
  co_await Yield{};
  co_await task;
  if (--running_ == 0) idle_.WakeAll();
}

void Scope::Spawn(Task<void> task) {
  ++running_;
  Run(std::move(task));
}

Task<void> Scope::Join() {
  while (running_ > 0) co_await idle_.Wait();
}

Task<void> SleepUntil(Instant when) {
  Completion<bool> woken;
  Executor::Current().PostAt(when, [&woken] { woken.Set(true); });
  co_await woken;
}

Task<void> SleepFor(Duration delay) {
  Instant when = Executor::Current().clock().Now() + delay;
  co_await SleepUntil(when);
}

namespace {
task_internal::Detached RunDetached(Task<void> task) { co_await task; }
}  // namespace

void Detach(Task<void> task) { RunDetached(std::move(task)); }

}  // namespace holdfast
