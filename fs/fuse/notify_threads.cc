#include "fs/fuse/notify_threads.h"

#include <cstdlib>
#include <cstring>
#include <dirent.h>
#include <memory>
#include <sched.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace holdfast::fs::fuse {

namespace {

// In this thread's own table. Event descriptors stay: through one of them Executor::Post wakes the reactor.
void CloseAllBut(int keep_fd) {
  std::vector<int> close_these;
  DIR* folder = opendir("/proc/thread-self/fd");
  if (!folder) return;
  int own = dirfd(folder);
  while (dirent* entry = readdir(folder)) {
    if (entry->d_name[0] < '0' || entry->d_name[0] > '9') continue;
    char target[64] = {};
    if (readlinkat(own, entry->d_name, target, sizeof(target) - 1) < 0) continue;
    int fd = std::atoi(entry->d_name);
    if (fd != keep_fd && fd != own && std::strstr(target, "[eventfd]") == nullptr) close_these.push_back(fd);
  }
  closedir(folder);
  for (int fd : close_these) close(fd);
}

}  // namespace

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
  if (unshare(CLONE_FILES) == 0) CloseAllBut(keep_fd);
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
    job.work = nullptr;  // captures go here, before the executor hears of the end
    hold.lock();
    if (shared->stop) return;  // the executor may be gone
    job.home->Post(std::move(job.done));
  }
}

}  // namespace holdfast::fs::fuse
