#include "fs/fuse/notify_threads.h"

#include <memory>
#include <sched.h>
#include <thread>
#include <unistd.h>

namespace holdfast::fs::fuse {

NotifyThreads::~NotifyThreads() {
  std::lock_guard<std::mutex> hold(shared_->mutex);
  shared_->stop = true;
  shared_->jobs.clear();
  shared_->wake.notify_all();
}

void NotifyThreads::Run(std::function<void()> work, std::function<void()> done) {
  std::lock_guard<std::mutex> hold(shared_->mutex);
  shared_->jobs.push_back({std::move(work), std::move(done), &Executor::Current()});
  if (shared_->idle >= shared_->jobs.size() || shared_->threads >= threads_max_) {
    shared_->wake.notify_one();
    return;
  }
  ++shared_->threads;
  std::thread(Work, shared_, keep_fd_).detach();
}

void NotifyThreads::Work(std::shared_ptr<Shared> shared, int keep_fd) {
  if (unshare(CLONE_FILES) == 0) {
    if (keep_fd > 0) close_range(0, static_cast<unsigned>(keep_fd) - 1, 0);
    close_range(static_cast<unsigned>(keep_fd) + 1, ~0u, 0);
  }
  std::unique_lock<std::mutex> hold(shared->mutex);
  for (;;) {
    while (shared->jobs.empty() && !shared->stop) {
      ++shared->idle;
      shared->wake.wait(hold);
      --shared->idle;
    }
    if (shared->stop) return;
    Job job = std::move(shared->jobs.front());
    shared->jobs.pop_front();
    hold.unlock();
    job.work();
    hold.lock();
    if (shared->stop) return;  // the executor may be gone
    job.home->Post(std::move(job.done));
  }
}

}  // namespace holdfast::fs::fuse
