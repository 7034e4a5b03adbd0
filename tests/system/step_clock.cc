// Preloaded into a node's processes: their wall clock is stepped while they run, theirs alone (a time namespace shifts only
// the monotonic clocks, and the machine's own clock belongs to everybody). STEP_CLOCK names a file that holds the step,
// eight bytes of nanoseconds; whoever writes to it steps the clock of all processes that have it mapped, at that moment.
// Deadlines on the wall clock are turned back, as the kernel's clock has not moved. The monotonic clocks stay as they are.
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <ctime>

namespace {

constexpr int64_t kSecond = 1'000'000'000;
constexpr int64_t kMonotonicBelow = 1'000'000'000;  // seconds: no machine has run for so long

const std::atomic<int64_t>* MapStep() {
  static const std::atomic<int64_t> none{0};
  const char* path = getenv("STEP_CLOCK");
  int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (fd < 0) return &none;
  void* page = mmap(nullptr, sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);
  close(fd);
  return page == MAP_FAILED ? &none : static_cast<const std::atomic<int64_t>*>(page);
}

int64_t Step() {
  static const std::atomic<int64_t>* step = MapStep();
  return step->load(std::memory_order_relaxed);
}

void Add(timespec* t, int64_t step) {
  int64_t ns = t->tv_sec * kSecond + t->tv_nsec + step;
  t->tv_sec = ns / kSecond;
  t->tv_nsec = ns % kSecond;
}

timespec Back(const timespec* deadline) {
  timespec t = *deadline;
  if (t.tv_sec > kMonotonicBelow) Add(&t, -Step());
  return t;
}

template <class F>
F Real(const char* name) {
  return reinterpret_cast<F>(dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" {

int clock_gettime(clockid_t id, timespec* t) noexcept {
  static auto real = Real<int (*)(clockid_t, timespec*)>("clock_gettime");
  int result = real(id, t);
  if (result == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) Add(t, Step());
  return result;
}

int gettimeofday(timeval* t, void*) noexcept {
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  t->tv_sec = now.tv_sec;
  t->tv_usec = now.tv_nsec / 1000;
  return 0;
}

time_t time(time_t* out) noexcept {
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (out) *out = now.tv_sec;
  return now.tv_sec;
}

int pthread_cond_timedwait(pthread_cond_t* condition, pthread_mutex_t* mutex, const timespec* deadline) {
  static auto real = Real<int (*)(pthread_cond_t*, pthread_mutex_t*, const timespec*)>("pthread_cond_timedwait");
  timespec t = Back(deadline);
  return real(condition, mutex, &t);
}

int sem_timedwait(sem_t* semaphore, const timespec* deadline) {
  static auto real = Real<int (*)(sem_t*, const timespec*)>("sem_timedwait");
  timespec t = Back(deadline);
  return real(semaphore, &t);
}

}  // extern "C"
