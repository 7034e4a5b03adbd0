// mount.holdfast: also its own supervisor, under the name hf-supervisor, and umount.holdfast.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <malloc.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "base/log.h"
#include "fs/fuse/daemon.h"
#include "fs/fuse/mount_options.h"
#include "fs/fuse/program.h"
#include "fs/fuse/supervisor.h"
#include "fs/fuse/unmount.h"

int main(int argc, char** argv) {
  using namespace holdfast;
  using namespace holdfast::fs::fuse;
  if (argc == 2 && std::strcmp(argv[0], kSupervisorName) == 0) return SupervisorMain(std::atoi(argv[1]));
  if (argc > 0 && IsUnmountName(argv[0])) return UnmountMain(argc, argv);
  auto line = ParseCommandLine(argc, argv);
  if (!line.ok()) {
    std::fprintf(stderr, "mount.holdfast: %s\n", line.error().message.c_str());
    return kExitUsage;
  }
  if (line->help) {
    std::fputs(UsageText().c_str(), stdout);
    return 0;
  }
  if (line->version) {
    std::puts("mount.holdfast " HOLDFAST_VERSION);
    return 0;
  }
  if (line->fake) return 0;
  Daemon daemon(line->foreground, line->log);
  if (line->debug) SetLogLevel(LogLevel::kDebug);
  rlimit files{};
  if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
  }
  // A page fault of ours must not wait for memory that our own dirty pages hold. Best effort: needs CAP_IPC_LOCK.
  mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT);
  // Buffers of 1 MiB come and go: given back to the kernel each time, their page faults cost more than the copy into them.
  mallopt(M_MMAP_THRESHOLD, 16 << 20);
  mallopt(M_TRIM_THRESHOLD, 128 << 20);
  Program program(std::move(*line), daemon);
  int code = program.Run();
  // The reactor has stopped; background frames still refer to parts of the program.
  std::fflush(nullptr);
  std::_Exit(code);
}
