#include "fs/fuse/unmount.h"

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <poll.h>
#include <string>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "fs/fuse/daemon.h"

namespace holdfast::fs::fuse {
namespace {

constexpr int kAskMs = 3000;        // a server that does not answer is unmounted all the same
constexpr int kSayAfterMs = 10000;  // then the person at the terminal learns what takes so long

struct Request {
  std::string directory;
  bool lazy = false, force = false, verbose = false, help = false;
};

int Usage(FILE* to) {
  std::fputs("usage: umount.holdfast DIR [-flnrvi] [-t TYPE] [-N NAMESPACE]\n"
             "Unmounts and waits until the server has written back and ended. -l and -f do not wait.\n", to);
  return to == stdout ? 0 : kExitUsage;
}

bool Parse(int argc, char** argv, Request* request) {
  for (int i = 1; i < argc; ++i) {
    std::string arg = argv[i];
    if (arg == "-t" || arg == "-N") {
      if (++i == argc) return false;
    } else if (arg == "-h" || arg == "--help") {
      request->help = true;
    } else if (arg.size() > 1 && arg[0] == '-') {
      for (char c : arg.substr(1)) {
        if (c == 'l') request->lazy = true;
        else if (c == 'f') request->force = true;
        else if (c == 'v') request->verbose = true;
        else if (std::strchr("nrid", c) == nullptr) return false;
      }
    } else if (request->directory.empty()) {
      request->directory = arg;
    } else {
      return false;
    }
  }
  return request->help || !request->directory.empty();
}

struct Server {
  int process = -1;     // pidfd
  int connection = -1;  // a duplicate of its /dev/fuse
  int pid = 0;
};

// In a child, which can be left behind when the server does not answer.
bool Ask(const std::string& directory, char* answer, size_t size) {
  int ends[2];
  if (pipe(ends) != 0) return false;
  pid_t child = fork();
  if (child == 0) {
    char value[64] = {};
    ssize_t n = getxattr(directory.c_str(), kServerXattr, value, sizeof(value) - 1);
    if (n > 0) (void)!write(ends[1], value, static_cast<size_t>(n));
    _exit(0);
  }
  close(ends[1]);
  pollfd wait{ends[0], POLLIN, 0};
  ssize_t n = child > 0 && poll(&wait, 1, kAskMs) == 1 ? read(ends[0], answer, size - 1) : 0;
  close(ends[0]);
  if (child > 0) {
    kill(child, SIGKILL);
    waitpid(child, nullptr, n > 0 ? 0 : WNOHANG);
  }
  if (n > 0) answer[n] = 0;
  return n > 0;
}

Server FindServer(const std::string& directory) {
  Server server;
  char answer[64];
  int pid = 0, descriptor = -1;
  if (!Ask(directory, answer, sizeof(answer)) || std::sscanf(answer, "%d %d", &pid, &descriptor) != 2) return server;
  int process = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  if (process < 0) return server;
  server.process = process;
  server.pid = pid;
  server.connection = static_cast<int>(syscall(SYS_pidfd_getfd, process, descriptor, 0));
  return server;
}

// Mounted elsewhere too (a bind mount, another namespace): then the server stays.
bool ConnectionOver(const Server& server) {
  pollfd fuse{server.connection, 0, 0};
  return poll(&fuse, 1, 0) == 1 && (fuse.revents & POLLERR) != 0;
}

void AwaitEnd(const Server& server, const Request& request) {
  pollfd process{server.process, POLLIN, 0};
  int n;
  do {
    n = poll(&process, 1, kSayAfterMs);
  } while (n < 0 && errno == EINTR);
  if (n == 0) {
    std::fprintf(stderr, "umount.holdfast: %s is unmounted; waiting for its server (process %d) to write back\n",
                 request.directory.c_str(), server.pid);
    while (poll(&process, 1, -1) < 0 && errno == EINTR) continue;
  }
  if (request.verbose) std::printf("umount.holdfast: %s unmounted, its server has ended\n", request.directory.c_str());
}

}  // namespace

bool IsUnmountName(const char* program) {
  const char* slash = std::strrchr(program, '/');
  return std::strncmp(slash ? slash + 1 : program, "umount.", 7) == 0;
}

int UnmountMain(int argc, char** argv) {
  Request request;
  if (!Parse(argc, argv, &request)) return Usage(stderr);
  if (request.help) return Usage(stdout);
  Server server;
  if (!request.lazy && !request.force) server = FindServer(request.directory);
  int flags = (request.lazy ? MNT_DETACH : 0) | (request.force ? MNT_FORCE : 0);
  if (umount2(request.directory.c_str(), flags) != 0) {
    int error = errno;
    std::fprintf(stderr, "umount.holdfast: %s: %s\n", request.directory.c_str(),
                 error == EBUSY ? "target is busy" : error == EINVAL ? "not mounted" : std::strerror(error));
    return kExitMount;
  }
  if (server.process >= 0 && server.connection >= 0 && ConnectionOver(server)) {
    close(server.connection);
    AwaitEnd(server, request);
  }
  return 0;
}

}  // namespace holdfast::fs::fuse
