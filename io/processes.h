// SystemProcesses: runs agents (posix_spawn, a process group of their own, no shell) and watches other processes end
// (pidfd). Standard input is fed, output is bounded; at the timeout, and when the program has ended, its whole group
// gets SIGKILL, so that no grandchild holds the pipes. Errors: kNotFound (no such program), kExhausted.
#pragma once

#include "base/processes.h"
#include "io/reactor.h"

namespace holdfast::io {

struct ProcessesOptions {
  size_t output_bytes_max = 1 << 20;  // of each stream; the rest is read and dropped
};

class SystemProcesses final : public Processes {
 public:
  explicit SystemProcesses(Reactor* reactor, ProcessesOptions options = {}) : reactor_(reactor), options_(options) {}
  Task<Result<ProcessOutcome>> Run(ProcessSpec spec) override;
  Task<Status> AwaitExit(int32_t pid, Duration limit) override;

 private:
  Reactor* reactor_;
  ProcessesOptions options_;
};

}  // namespace holdfast::io
