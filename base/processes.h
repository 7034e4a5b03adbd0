// Processes: running agents and watching other processes die. Production: io/processes.h (posix_spawn, pidfd).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "base/task.h"

namespace holdfast {

struct ProcessSpec {
  std::string program;               // absolute, or searched in PATH
  std::vector<std::string> args;     // without argv[0]; never a secret
  std::string standard_input;        // secrets go here
  std::map<std::string, std::string> environment;  // added to ours
  Duration timeout = Seconds(60);    // then SIGKILL of its process group
};

struct ProcessOutcome {
  bool timed_out = false;
  int exit_code = -1;    // -1: killed by a signal or timed out
  int signal = 0;
  std::string output;    // standard output, bounded
  std::string errors;    // standard error, bounded
};

class Processes {
 public:
  virtual ~Processes() = default;
  virtual Task<Result<ProcessOutcome>> Run(ProcessSpec spec) = 0;
  // Completes when that process has ended (at once if it does not exist). Error kTimeout after `limit`.
  virtual Task<Status> AwaitExit(int32_t pid, Duration limit) = 0;
};

}  // namespace holdfast
