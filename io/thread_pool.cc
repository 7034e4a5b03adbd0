#include "io/thread_pool.h"

#include <csignal>

namespace holdfast::io {

ThreadPool::ThreadPool(size_t threads) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  for (size_t i = 0; i < threads; ++i) threads_.emplace_back([this] { Work(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  more_.notify_all();
  for (std::thread& t : threads_) t.join();
}

void ThreadPool::Submit(std::function<void()> work, std::function<void()> done) {
  Executor* home = &Executor::Current();
  {
    std::lock_guard lock(mutex_);
    jobs_.push_back({std::move(work), std::move(done), home});
  }
  more_.notify_one();
}

void ThreadPool::Work() {
  for (;;) {
    Job job;
    {
      std::unique_lock lock(mutex_);
      more_.wait(lock, [this] { return stop_ || !jobs_.empty(); });
      if (stop_) return;
      job = std::move(jobs_.front());
      jobs_.pop_front();
    }
    job.work();
    job.work = nullptr;  // captures are destroyed here, before the executor hears of the end
    job.home->Post(std::move(job.done));
  }
}

}  // namespace holdfast::io
