// Going into the background: the parent waits until the mount is up (exit 0) or has failed (exit 32, mount(8)), then ends.
// The daemon logs to the given file; without one it keeps standard error after Ready when that is a regular file (a
// service manager's log), and is silent otherwise, so that it never holds a pipe of its starter open.
#pragma once

#include <string>

namespace holdfast::fs::fuse {

class Daemon {
 public:
  // foreground: nothing is forked. In the parent this does not return.
  Daemon(bool foreground, const std::string& log_file);
  // Mounted: lets the parent go.
  void Ready();
  // Not mounted: one line on standard error; returns the exit code for main.
  int Failed(const std::string& message, int exit_code);

 private:
  int pipe_ = -1;
};

inline constexpr int kExitUsage = 1;   // exit codes of mount(8)
inline constexpr int kExitSystem = 2;
inline constexpr int kExitMount = 32;

}  // namespace holdfast::fs::fuse
