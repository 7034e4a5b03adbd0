// NotifyThreads: threads for writes to /dev/fuse that may block on the kernel's locks. A pool of its own, which grows:
// a notification that waits for a request we hold back must never keep another one from being sent (rules 1 and 2).
// Threading: Run from the executor; work runs on some thread, done is posted back.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>

#include "base/executor.h"

namespace holdfast::fs::fuse {

class NotifyThreads {
 public:
  explicit NotifyThreads(size_t threads_max) : threads_max_(threads_max) {}
  // Threads that are still blocked in the kernel are left to the end of the process.
  ~NotifyThreads();

  void Run(std::function<void()> work, std::function<void()> done);

 private:
  struct Job {
    std::function<void()> work;
    std::function<void()> done;
    Executor* home;
  };
  struct Shared {
    std::mutex mutex;
    std::condition_variable wake;
    std::deque<Job> jobs;
    size_t idle = 0;
    size_t threads = 0;
    bool stop = false;
  };
  static void Work(std::shared_ptr<Shared> shared);

  size_t threads_max_;
  std::shared_ptr<Shared> shared_ = std::make_shared<Shared>();
};

}  // namespace holdfast::fs::fuse
