// Task<T>: a lazy coroutine with one owner. It starts when it is awaited (or handed to a Scope) and its completion
// resumes the awaiter through the executor's ready queue, never inline: with g++ 12 symmetric transfer overflows the
// stack in debug and sanitizer builds, and the queue fixes one order for trace hashes (docs/decisions/0002).
// Rules for authors: co_await in plain statements (`auto x = co_await f(a);`), parameters by value, no view of
// another frame's memory held across a suspension. A Task that has started is never destroyed before it is done:
// cancelling means that what it awaits completes with kCancelled. Exceptions end the program.
#pragma once

#include <coroutine>
#include <exception>
#include <optional>
#include <utility>

#include "base/check.h"
#include "base/executor.h"

namespace holdfast {

template <class T = void>
class [[nodiscard]] Task;

namespace task_internal {

struct PromiseBase {
  std::coroutine_handle<> continuation;
  Executor* home = nullptr;  // where the awaiter runs
  bool done = false;

  std::suspend_always initial_suspend() noexcept { return {}; }
  struct Final {
    bool await_ready() noexcept { return false; }
    template <class P>
    void await_suspend(std::coroutine_handle<P> self) noexcept {
      PromiseBase& p = self.promise();
      p.done = true;
      if (p.continuation) p.home->Post(p.continuation);
    }
    void await_resume() noexcept {}
  };
  Final final_suspend() noexcept { return {}; }
  void unhandled_exception() noexcept { std::terminate(); }
};

template <class T>
struct Promise : PromiseBase {
  std::optional<T> value;
  Task<T> get_return_object();
  template <class U>
  void return_value(U&& v) {
    value.emplace(std::forward<U>(v));
  }
  T Take() { return std::move(*value); }
};

template <>
struct Promise<void> : PromiseBase {
  Task<void> get_return_object();
  void return_void() {}
  void Take() {}
};

}  // namespace task_internal

template <class T>
class [[nodiscard]] Task {
 public:
  using promise_type = task_internal::Promise<T>;

  Task() = default;
  explicit Task(std::coroutine_handle<promise_type> handle) : handle_(handle) {}
  Task(Task&& other) noexcept : handle_(std::exchange(other.handle_, {})) {}
  Task& operator=(Task&& other) noexcept {
    if (this != &other) {
      Destroy();
      handle_ = std::exchange(other.handle_, {});
    }
    return *this;
  }
  ~Task() { Destroy(); }

  bool valid() const { return static_cast<bool>(handle_); }

  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> awaiter) {
    auto& p = handle_.promise();
    p.continuation = awaiter;
    p.home = &Executor::Current();
    handle_.resume();  // runs until its first suspension; its end comes back through the queue
  }
  T await_resume() { return handle_.promise().Take(); }

 private:
  void Destroy() {
    // A frame that was started and is not done is still referred to by whatever it waits for. Task::await_suspend
    // sets home, so an owner that dies early is a bug of ours; at process exit leaking it is the safe answer.
    if (handle_ && (handle_.promise().done || handle_.promise().home == nullptr)) handle_.destroy();
  }
  std::coroutine_handle<promise_type> handle_;
};

namespace task_internal {
template <class T>
Task<T> Promise<T>::get_return_object() {
  return Task<T>(std::coroutine_handle<Promise<T>>::from_promise(*this));
}
inline Task<void> Promise<void>::get_return_object() {
  return Task<void>(std::coroutine_handle<Promise<void>>::from_promise(*this));
}

// A coroutine that owns itself and frees its frame at the end: the root of every Task.
struct Detached {
  struct promise_type {
    Detached get_return_object() { return {}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() noexcept { std::terminate(); }
  };
};
}  // namespace task_internal

}  // namespace holdfast
