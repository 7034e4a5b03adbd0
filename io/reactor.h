// Reactor: the production executor. One epoll loop on one thread runs posted functions and coroutines in posting order,
// timers (CLOCK_BOOTTIME, timerfd), watched descriptors and signals (signalfd). A program has one; its core code runs
// nowhere else. Threading: Post is safe from any thread; everything else belongs to the thread that runs the loop.
// docs/decisions/0002 says why completions go through the queue.
#pragma once

#include <atomic>
#include <coroutine>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/executor.h"
#include "base/result.h"
#include "base/sync.h"
#include "base/task.h"

namespace holdfast::io {

// CLOCK_BOOTTIME and CLOCK_REALTIME.
class SystemClock final : public Clock {
 public:
  Instant Now() const override;
  WallTime Wall() const override;
};

class Reactor final : public Executor {
 public:
  // HF_CHECKs that the kernel gives its descriptors.
  Reactor();
  ~Reactor() override;
  Reactor(const Reactor&) = delete;
  Reactor& operator=(const Reactor&) = delete;

  void Post(std::function<void()> fn) override;
  void Post(std::coroutine_handle<> handle) override;
  TimerId PostAt(Instant when, std::function<void()> fn) override;
  void Cancel(TimerId timer) override;
  Clock& clock() override { return clock_; }

  // Calls back with the epoll events while the descriptor is ready (level-triggered unless EPOLLET is given). One
  // watch per descriptor; Unwatch before closing it. kInvalid: the descriptor cannot be polled.
  using Callback = std::function<void(uint32_t events)>;
  Status Watch(int fd, uint32_t events, Callback callback);
  void Rewatch(int fd, uint32_t events);  // other events, same callback
  void Unwatch(int fd);

  // The signal is blocked for this thread and comes here instead. REQUIRES: called before other threads start.
  void OnSignal(int number, std::function<void()> fn);

  // Runs until Stop(). Stop may be called before Run, and from any thread.
  void Run();
  void Stop();
  // Runs one task to its end and returns its value; the loop serves everything else meanwhile.
  template <class T>
  T RunTask(Task<T> task);
  void RunTask(Task<void> task);

 private:
  struct Item {
    std::function<void()> fn;
    std::coroutine_handle<> handle;
  };
  struct WatchEntry {
    Callback callback;
    uint32_t use;
  };

  void Turn(const std::function<bool()>& over);
  void RunReady();
  void RunTimers();
  void TakeForeign();
  void ArmTimer();
  void RunLoop(const std::function<bool()>& over);
  void OnSignalReadable();

  SystemClock clock_;
  int epoll_ = -1, wake_ = -1, timer_fd_ = -1, signal_fd_ = -1;
  std::deque<Item> ready_;
  std::map<std::pair<uint64_t, TimerId>, std::function<void()>> timers_;
  std::unordered_map<TimerId, uint64_t> timer_when_;
  TimerId next_timer_ = 1;
  uint64_t armed_ = UINT64_MAX;  // what the timerfd is set to, ns
  std::unordered_map<int, std::shared_ptr<WatchEntry>> watches_;
  uint32_t watch_uses_ = 0;
  std::map<int, std::function<void()>> signals_;
  bool stop_ = false;
  std::mutex foreign_mutex_;  // LOCKS: foreign_ alone; held for a push or a swap
  std::vector<Item> foreign_;
  std::atomic<bool> wake_pending_{false};
};

namespace reactor_internal {
template <class T>
Task<void> Capture(Task<T> task, std::optional<T>* out) {
  auto value = co_await task;
  out->emplace(std::move(value));
}
inline Task<void> Capture(Task<void> task, bool* done) {
  co_await task;
  *done = true;
}
}  // namespace reactor_internal

template <class T>
T Reactor::RunTask(Task<T> task) {
  std::optional<T> out;
  {
    ExecutorTurn turn(this);
    Detach(reactor_internal::Capture(std::move(task), &out));
  }
  RunLoop([&out] { return out.has_value(); });
  HF_CHECK(out.has_value(), "the reactor was stopped before the task ended");
  return std::move(*out);
}

inline void Reactor::RunTask(Task<void> task) {
  bool done = false;
  {
    ExecutorTurn turn(this);
    Detach(reactor_internal::Capture(std::move(task), &done));
  }
  RunLoop([&done] { return done; });
  HF_CHECK(done, "the reactor was stopped before the task ended");
}

}  // namespace holdfast::io
