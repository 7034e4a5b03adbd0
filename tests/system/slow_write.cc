// Preloaded into tgtd: the adversary. A write whose data begins with SLOWIO takes SLOW_MS (default 1500) before it
// reaches the file, as in an array that has accepted a write and is slow to land it. With fencing by preemption alone
// such a write of a dead node lands over what the survivors wrote meanwhile.

#include <dlfcn.h>
#include <sys/types.h>

#include <cstdlib>
#include <cstring>
#include <ctime>

namespace {

using PwriteFunction = ssize_t (*)(int, const void*, size_t, off_t);

void Delay() {
  const char* text = getenv("SLOW_MS");
  long ms = text ? atol(text) : 1500;
  timespec left{ms / 1000, (ms % 1000) * 1000000L};
  while (nanosleep(&left, &left) != 0) {
  }
}

ssize_t Forward(const char* name, int fd, const void* data, size_t size, off_t offset) {
  auto real = reinterpret_cast<PwriteFunction>(dlsym(RTLD_NEXT, name));
  if (size >= 6 && memcmp(data, "SLOWIO", 6) == 0) Delay();
  return real(fd, data, size, offset);
}

}  // namespace

extern "C" {
ssize_t pwrite64(int fd, const void* data, size_t size, off_t offset) { return Forward("pwrite64", fd, data, size, offset); }
ssize_t pwrite(int fd, const void* data, size_t size, off_t offset) { return Forward("pwrite", fd, data, size, offset); }
}
