// ThreadPool: the production Pool. A few threads for calls that block or burn CPU; results come back through the
// executor that submitted. Threading: Submit from an executor's turn; the destructor waits for what is running and
// drops what has not begun.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "base/pool.h"

namespace holdfast::io {

class ThreadPool final : public Pool {
 public:
  // Starts its threads with all signals blocked.
  explicit ThreadPool(size_t threads = 4);
  ~ThreadPool() override;
  void Submit(std::function<void()> work, std::function<void()> done) override;

 private:
  struct Job {
    std::function<void()> work;
    std::function<void()> done;
    Executor* home;
  };
  void Work();

  std::mutex mutex_;  // LOCKS: jobs_, stop_
  std::condition_variable more_;
  std::deque<Job> jobs_;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace holdfast::io
