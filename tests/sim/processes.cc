#include "tests/sim/processes.h"

namespace holdfast::sim {

Task<Result<ProcessOutcome>> SimProcesses::Run(ProcessSpec spec) {
  auto it = programs_.find(spec.program);
  if (it == programs_.end()) co_return Error(Errc::kNotFound, spec.program + ": no such program");
  Answer answer = it->second(spec);
  if (answer.takes > spec.timeout) {
    co_await SleepFor(spec.timeout);
    ProcessOutcome late;
    late.timed_out = true;
    late.signal = 9;
    co_return late;
  }
  co_await SleepFor(answer.takes);
  co_return answer.outcome;
}

Task<Status> SimProcesses::AwaitExit(int32_t pid, Duration limit) {
  Instant end = executor_->clock().Now() + limit;
  while (running_.contains(pid)) {
    if (executor_->clock().Now() >= end) co_return Error(Errc::kTimeout, "the process has not ended");
    co_await SleepFor(Milliseconds(1));
  }
  co_return Status();
}

}  // namespace holdfast::sim
