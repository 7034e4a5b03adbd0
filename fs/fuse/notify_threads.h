// NotifyThreads: threads for writes to /dev/fuse that may block on the kernel's locks. A pool of its own, which grows:
// a notification that waits for a request we hold back must never keep another one from being sent (rules 1 and 2).
// Each thread has a table of descriptors of its own with /dev/fuse and event descriptors alone in it: when the process is killed while one is
// blocked in the kernel, everything else is closed at once all the same (the volume with its byte lock, the lines to
// holdfastd and to the supervisor, who then ends the connection and with it the wait).
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
  NotifyThreads(size_t threads_max, int keep_fd) : threads_max_(threads_max), keep_fd_(keep_fd) {}
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
  static void Work(std::shared_ptr<Shared> shared, int keep_fd);

  size_t threads_max_;
  int keep_fd_;
  std::shared_ptr<Shared> shared_ = std::make_shared<Shared>();
};

}  // namespace holdfast::fs::fuse
