#include "fs/fuse/notify_threads.h"

#include <memory>
#include <thread>

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
  std::thread(Work, shared_).detach();
}

void NotifyThreads::Work(std::shared_ptr<Shared> shared) {
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
