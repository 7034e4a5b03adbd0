// Preloaded into tgtd: the adversary. A write whose data begins with SLOWIO takes SLOW_MS (default 1500) before it
// reaches the file, as in an array that has accepted a write and is slow to land it. With fencing by preemption alone
// such a write of a dead node lands over what the survivors wrote meanwhile.
// SLOW_CONTROL names a file that may hold "PERCENT MS": so many of all other writes take so long, in any order.
// It also keeps tgt (1.0.85) from a fault of its own: a registration that is preempted or taken back is freed while the
// reservation still points to it as its holder. The next registration gets that memory, with type 0, and from then on every
// RESERVE and PREEMPT is a conflict: no fencing succeeds any more. Memory of that size is never used again here.

#undef _FILE_OFFSET_BITS  // pwrite and pwrite64 are two names here

#include <dlfcn.h>
#include <fcntl.h>
#include <malloc.h>
#include <sys/types.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>

namespace {

using PwriteFunction = ssize_t (*)(int, const void*, size_t, off_t);

void Delay(long ms) {
  timespec left{ms / 1000, (ms % 1000) * 1000000L};
  while (nanosleep(&left, &left) != 0) {
  }
}

long MarkedMs() {
  const char* text = getenv("SLOW_MS");
  return text ? atol(text) : 1500;
}

// How long this write is delayed, by the control file.
long OrderedMs() {
  static std::atomic<unsigned> count{0};
  const char* path = getenv("SLOW_CONTROL");
  int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (fd < 0) return 0;
  char text[64] = {};
  ssize_t n = read(fd, text, sizeof(text) - 1);
  close(fd);
  unsigned percent = 0;
  long ms = 0;
  if (n <= 0 || sscanf(text, "%u %ld", &percent, &ms) != 2) return 0;
  unsigned mixed = (count++ * 2654435761u) >> 16;
  return mixed % 100 < percent ? ms : 0;
}

ssize_t Forward(const char* name, int fd, const void* data, size_t size, off_t offset) {
  auto real = reinterpret_cast<PwriteFunction>(dlsym(RTLD_NEXT, name));
  bool marked = size >= 6 && memcmp(data, "SLOWIO", 6) == 0;
  long ms = marked ? MarkedMs() : OrderedMs();
  if (ms > 0) Delay(ms);
  return real(fd, data, size, offset);
}

}  // namespace

extern "C" {
void __libc_free(void* memory);

void free(void* memory) {
  constexpr size_t kRegistration = 56;  // usable bytes of tgt's struct registration
  if (memory != nullptr && malloc_usable_size(memory) == kRegistration) return;
  __libc_free(memory);
}

ssize_t pwrite64(int fd, const void* data, size_t size, off_t offset) { return Forward("pwrite64", fd, data, size, offset); }
ssize_t pwrite(int fd, const void* data, size_t size, off_t offset) { return Forward("pwrite", fd, data, size, offset); }
}
