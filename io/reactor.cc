#include "io/reactor.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>

#include "base/check.h"

namespace holdfast::io {
namespace {

constexpr size_t kReadyPerPoll = 256;  // then descriptors and timers are looked at again
constexpr int kEventsPerPoll = 64;

uint64_t Ns(const timespec& t) { return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(t.tv_nsec); }

}  // namespace

Instant SystemClock::Now() const {
  timespec t;
  clock_gettime(CLOCK_BOOTTIME, &t);
  return {Ns(t)};
}

WallTime SystemClock::Wall() const {
  timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  return {t.tv_sec, static_cast<uint32_t>(t.tv_nsec)};
}

Reactor::Reactor() {
  epoll_ = epoll_create1(EPOLL_CLOEXEC);
  wake_ = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  timer_fd_ = timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK | TFD_CLOEXEC);
  HF_CHECK(epoll_ >= 0 && wake_ >= 0 && timer_fd_ >= 0, "the reactor's descriptors: %s", std::strerror(errno));
  auto drain = [](int fd) {
    uint64_t count;
    while (read(fd, &count, sizeof count) == sizeof count) {
    }
  };
  Status woken = Watch(wake_, EPOLLIN, [this, drain](uint32_t) {
    drain(wake_);
    wake_pending_ = false;  // before the queue is taken: a later push wakes again
  });
  Status timed = Watch(timer_fd_, EPOLLIN, [this, drain](uint32_t) {
    drain(timer_fd_);
    armed_ = UINT64_MAX;
  });
  HF_CHECK(woken.ok() && timed.ok(), "epoll");
}

Reactor::~Reactor() {
  for (int fd : {signal_fd_, timer_fd_, wake_, epoll_})
    if (fd >= 0) close(fd);
}

// ---- the queue ----

void Reactor::Post(std::function<void()> fn) {
  if (CurrentOrNull() == this) {
    ready_.push_back({std::move(fn), {}});
    return;
  }
  {
    std::lock_guard lock(foreign_mutex_);
    foreign_.push_back({std::move(fn), {}});
  }
  if (!wake_pending_.exchange(true)) {
    uint64_t one = 1;
    (void)!write(wake_, &one, sizeof one);
  }
}

void Reactor::Post(std::coroutine_handle<> handle) {
  if (CurrentOrNull() == this) {
    ready_.push_back({nullptr, handle});
    return;
  }
  Post([handle] { handle.resume(); });
}

void Reactor::TakeForeign() {
  std::vector<Item> items;
  {
    std::lock_guard lock(foreign_mutex_);
    items.swap(foreign_);
  }
  for (Item& item : items) ready_.push_back(std::move(item));
}

void Reactor::RunReady() {
  for (size_t n = 0; n < kReadyPerPoll && !ready_.empty(); ++n) {
    Item item = std::move(ready_.front());
    ready_.pop_front();
    if (item.handle) item.handle.resume();
    else item.fn();
  }
}

// ---- timers ----

TimerId Reactor::PostAt(Instant when, std::function<void()> fn) {
  TimerId id = next_timer_++;
  timers_.emplace(std::pair{when.ns, id}, std::move(fn));
  timer_when_.emplace(id, when.ns);
  return id;
}

void Reactor::Cancel(TimerId timer) {
  auto it = timer_when_.find(timer);
  if (it == timer_when_.end()) return;
  timers_.erase({it->second, timer});
  timer_when_.erase(it);
}

void Reactor::RunTimers() {
  if (timers_.empty()) return;
  uint64_t now = clock_.Now().ns;
  TimerId last = next_timer_;  // those made meanwhile wait for the next turn
  for (auto it = timers_.begin(); it != timers_.end() && it->first.first <= now; it = timers_.begin()) {
    if (it->first.second >= last) break;
    std::function<void()> fn = std::move(it->second);
    timer_when_.erase(it->first.second);
    timers_.erase(it);
    fn();
  }
}

void Reactor::ArmTimer() {
  if (timers_.empty()) return;  // an early wake-up costs less than disarming
  uint64_t when = timers_.begin()->first.first;
  if (when >= armed_) return;
  armed_ = when;
  itimerspec spec{};
  spec.it_value.tv_sec = static_cast<time_t>(when / 1'000'000'000);
  spec.it_value.tv_nsec = static_cast<long>(when % 1'000'000'000);
  if (when == 0) spec.it_value.tv_nsec = 1;
  timerfd_settime(timer_fd_, TFD_TIMER_ABSTIME, &spec, nullptr);
}

// ---- descriptors and signals ----

Status Reactor::Watch(int fd, uint32_t events, Callback callback) {
  HF_CHECK(!watches_.contains(fd), "descriptor %d is watched twice", fd);
  auto entry = std::make_shared<WatchEntry>(WatchEntry{std::move(callback), ++watch_uses_});
  epoll_event event{};
  event.events = events;
  event.data.u64 = (uint64_t{entry->use} << 32) | static_cast<uint32_t>(fd);
  if (epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) != 0)
    return Error(Errc::kInvalid, std::string("epoll: ") + std::strerror(errno));
  watches_.emplace(fd, std::move(entry));
  return {};
}

void Reactor::Rewatch(int fd, uint32_t events) {
  auto it = watches_.find(fd);
  HF_CHECK(it != watches_.end(), "descriptor %d is not watched", fd);
  epoll_event event{};
  event.events = events;
  event.data.u64 = (uint64_t{it->second->use} << 32) | static_cast<uint32_t>(fd);
  epoll_ctl(epoll_, EPOLL_CTL_MOD, fd, &event);
}

void Reactor::Unwatch(int fd) {
  if (watches_.erase(fd) > 0) epoll_ctl(epoll_, EPOLL_CTL_DEL, fd, nullptr);
}

void Reactor::OnSignal(int number, std::function<void()> fn) {
  signals_[number] = std::move(fn);
  sigset_t set;
  sigemptyset(&set);
  for (const auto& [n, f] : signals_) sigaddset(&set, n);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  int fd = signalfd(signal_fd_, &set, SFD_NONBLOCK | SFD_CLOEXEC);
  HF_CHECK(fd >= 0, "signalfd: %s", std::strerror(errno));
  if (signal_fd_ >= 0) return;
  signal_fd_ = fd;
  Status watched = Watch(fd, EPOLLIN, [this](uint32_t) { OnSignalReadable(); });
  HF_CHECK(watched.ok(), "epoll of a signalfd");
}

void Reactor::OnSignalReadable() {
  signalfd_siginfo info;
  while (read(signal_fd_, &info, sizeof info) == sizeof info) {
    auto it = signals_.find(static_cast<int>(info.ssi_signo));
    if (it == signals_.end()) continue;
    auto fn = it->second;
    fn();
  }
}

// ---- the loop ----

void Reactor::Turn(const std::function<bool()>& over) {
  TakeForeign();
  RunReady();
  RunTimers();
  if (over()) return;
  bool idle = ready_.empty();
  if (idle) ArmTimer();
  epoll_event events[kEventsPerPoll];
  int n = epoll_wait(epoll_, events, kEventsPerPoll, idle ? -1 : 0);
  for (int i = 0; i < n; ++i) {
    int fd = static_cast<int>(events[i].data.u64 & 0xffffffff);
    auto it = watches_.find(fd);
    // An earlier callback may have ended this watch, or another may have taken the number.
    if (it == watches_.end() || it->second->use != events[i].data.u64 >> 32) continue;
    std::shared_ptr<WatchEntry> entry = it->second;
    entry->callback(events[i].events);
  }
}

void Reactor::RunLoop(const std::function<bool()>& over) {
  ExecutorTurn turn(this);
  while (!over()) Turn(over);
}

void Reactor::Run() {
  RunLoop([this] { return stop_; });
  stop_ = false;
}

void Reactor::Stop() {
  // From elsewhere: after what was posted before.
  if (CurrentOrNull() == this) stop_ = true;
  else Post([this] { stop_ = true; });
}

}  // namespace holdfast::io
