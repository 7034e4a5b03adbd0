// SimProcesses: agents of the simulated world are functions. A program that nobody defined is kNotFound.
#pragma once

#include <functional>
#include <map>
#include <set>
#include <string>

#include "base/processes.h"
#include "tests/sim/world.h"

namespace holdfast::sim {

class SimProcesses final : public Processes {
 public:
  struct Answer {
    ProcessOutcome outcome;
    Duration takes = Milliseconds(10);
  };
  using Program = std::function<Answer(const ProcessSpec& spec)>;

  explicit SimProcesses(SimExecutor* executor) : executor_(executor) {}
  void Define(std::string name, Program program) { programs_[std::move(name)] = std::move(program); }
  void SetRunning(int32_t pid, bool running) {
    if (running) running_.insert(pid);
    else running_.erase(pid);
  }

  Task<Result<ProcessOutcome>> Run(ProcessSpec spec) override;
  Task<Status> AwaitExit(int32_t pid, Duration limit) override;

 private:
  SimExecutor* executor_;
  std::map<std::string, Program> programs_;
  std::set<int32_t> running_;
};

}  // namespace holdfast::sim
