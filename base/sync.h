// What coroutines of one executor wait on: Completion (one value, once), Event, Mutex, Semaphore, Scope, sleep.
// Threading: all of it belongs to one executor; another thread reaches it through Executor::Post alone.
// Waiters are served first come, first served.
#pragma once

#include <coroutine>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <utility>

#include "base/check.h"
#include "base/executor.h"
#include "base/result.h"
#include "base/task.h"

namespace holdfast {

// One value, set once, awaited by at most one coroutine. Whoever completes it may do so before it is awaited.
template <class T>
class Completion {
 public:
  Completion() = default;
  Completion(const Completion&) = delete;
  Completion& operator=(const Completion&) = delete;

  bool done() const { return value_.has_value(); }
  void Set(T value) {
    HF_CHECK(!value_.has_value(), "a completion is set once");
    value_.emplace(std::move(value));
    if (waiter_) home_->Post(std::exchange(waiter_, {}));
  }
  bool await_ready() const noexcept { return value_.has_value(); }
  void await_suspend(std::coroutine_handle<> h) {
    HF_CHECK(!waiter_, "a completion has one waiter");
    waiter_ = h;
    home_ = &Executor::Current();
  }
  T await_resume() { return std::move(*value_); }

 private:
  std::optional<T> value_;
  std::coroutine_handle<> waiter_;
  Executor* home_ = nullptr;
};

// A queue of suspended coroutines.
class WaitList {
 public:
  bool empty() const { return waiters_.empty(); }
  size_t size() const { return waiters_.size(); }
  void WakeOne();
  void WakeAll();
  // co_await list.Wait(): suspends until woken. The woken one looks at its condition again.
  auto Wait() {
    struct Awaiter {
      WaitList& list;
      bool await_ready() const noexcept { return false; }
      void await_suspend(std::coroutine_handle<> h) { list.waiters_.push_back({h, &Executor::Current()}); }
      void await_resume() const noexcept {}
    };
    return Awaiter{*this};
  }

 private:
  struct Waiter {
    std::coroutine_handle<> handle;
    Executor* home;
  };
  std::deque<Waiter> waiters_;
};

// Level-triggered: waiting on a set event does not suspend for long.
class Event {
 public:
  bool set() const { return set_; }
  void Set() {
    set_ = true;
    list_.WakeAll();
  }
  void Reset() { set_ = false; }
  Task<void> Wait();

 private:
  bool set_ = false;
  WaitList list_;
};

// An asynchronous mutex with a guard. FIFO.
class Mutex {
 public:
  class [[nodiscard]] Guard {
   public:
    Guard() = default;
    explicit Guard(Mutex* m) : mutex_(m) {}
    Guard(Guard&& o) noexcept : mutex_(std::exchange(o.mutex_, nullptr)) {}
    Guard& operator=(Guard&& o) noexcept {
      if (this != &o) {
        Release();
        mutex_ = std::exchange(o.mutex_, nullptr);
      }
      return *this;
    }
    ~Guard() { Release(); }
    void Release() {
      if (mutex_) std::exchange(mutex_, nullptr)->Unlock();
    }

   private:
    Mutex* mutex_ = nullptr;
  };
  Task<Guard> Lock();
  bool locked() const { return locked_; }

 private:
  friend class Guard;
  void Unlock();
  bool locked_ = false;
  std::deque<Completion<bool>*> waiters_;
};

// Background work with an owner. INVARIANT: Join() returns only when every spawned task is done; a Scope is not
// destroyed with tasks running (HF_CHECK), except at process exit through Abandon().
class Scope {
 public:
  Scope() = default;
  Scope(const Scope&) = delete;
  ~Scope() { HF_CHECK(running_ == 0 || abandoned_, "a scope with %zu running tasks is destroyed", running_); }
  // Starts the task from the ready queue of the current executor.
  void Spawn(Task<void> task);
  Task<void> Join();
  size_t running() const { return running_; }
  void Abandon() { abandoned_ = true; }

 private:
  task_internal::Detached Run(Task<void> task);
  size_t running_ = 0;
  bool abandoned_ = false;
  WaitList idle_;
};

// Completes at or after the instant / after the delay.
Task<void> SleepUntil(Instant when);
Task<void> SleepFor(Duration delay);

// Runs a task to its end without an owner. For program roots and fire-and-forget replies only.
void Detach(Task<void> task);

}  // namespace holdfast
