#include "fs/fuse/daemon.h"

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"

namespace holdfast::fs::fuse {
namespace {

[[noreturn]] void Wait(int pipe, pid_t child) {
  unsigned char code = 0;
  ssize_t n;
  do {
    n = read(pipe, &code, 1);
  } while (n < 0 && errno == EINTR);
  if (n == 1) _exit(code);
  // It died without a word.
  int status = 0;
  waitpid(child, &status, 0);
  std::fprintf(stderr, "mount.holdfast: ended by %s %d before the mount was up\n",
               WIFSIGNALED(status) ? "signal" : "exit code", WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
  _exit(kExitMount);
}

}  // namespace

Daemon::Daemon(bool foreground, const std::string& log_file) {
  if (!log_file.empty()) LogToFile(log_file);
  // What goes wrong before the mount is up is one line on standard error.
  if (log_file.empty() && !foreground) SetLogLevel(LogLevel::kError);
  if (foreground) return;
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return;
  pid_t child = fork();
  if (child < 0) {
    close(ends[0]);
    close(ends[1]);
    return;  // stay in the foreground rather than not mount
  }
  if (child > 0) {
    close(ends[1]);
    Wait(ends[0], child);
  }
  close(ends[0]);
  pipe_ = ends[1];
  setsid();
}

void Daemon::Ready() {
  if (pipe_ < 0) return;
  (void)!chdir("/");
  int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  dup2(null, 0);
  dup2(null, 1);
  struct stat st{};
  bool keep = fstat(2, &st) == 0 && S_ISREG(st.st_mode);
  if (!keep) dup2(null, 2);
  close(null);
  unsigned char ok = 0;
  (void)!write(pipe_, &ok, 1);
  close(pipe_);
  pipe_ = -1;
}

int Daemon::Failed(const std::string& message, int exit_code) {
  std::fprintf(stderr, "mount.holdfast: %s\n", message.c_str());
  if (pipe_ >= 0) {
    auto code = static_cast<unsigned char>(exit_code);
    (void)!write(pipe_, &code, 1);
  }
  return exit_code;
}

}  // namespace holdfast::fs::fuse
