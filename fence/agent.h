// Agents: the standard fence agents (FenceAgentAPI): a program that reads name=value lines from standard input and
// answers by its exit status: 0 done (status: ON), 2 for status OFF, anything else a failure. A timeout is a failure.
// INVARIANT: secrets travel on standard input alone; nothing that this file returns contains one.
// passwd_script and the like are passed on: the agents run them themselves.
#pragma once

#include <map>
#include <set>
#include <string>

#include "base/processes.h"
#include "base/result.h"
#include "base/task.h"
#include "fence/types.h"

namespace holdfast::fence {

enum class AgentAnswer : uint8_t {
  kDone,      // exit status 0; for status: ON
  kOff,       // status: exit status 2
  kFailed,    // anything else, also a program that cannot be started
  kTimedOut,  // unknown
};

struct AgentReport {
  AgentAnswer answer = AgentAnswer::kFailed;
  std::string words;   // one line, secrets removed
  std::string output;  // standard output as it came (metadata, list); may hold anything
};

struct AgentMetadata {
  std::set<std::string> actions;
  std::set<std::string> parameters;
  // Port agents (switches, arrays) have no reboot.
  bool cuts_power() const { return actions.contains("reboot"); }
};

// Attributes of a device that are ours and not the agent's.
bool IsOwnAttribute(const std::string& name);
// The plug, port or outlet that the device names; empty: the agent reaches one machine by its address.
std::string PlugOf(const FenceDevice& device);

class Agents {
 public:
  explicit Agents(Processes* processes) : processes_(processes) {}

  // One call. action: off, on, status, monitor, list, metadata.
  Task<AgentReport> Call(FenceDevice device, std::string node_name, const char* action, Duration timeout);
  // What the agent says of itself; asked once per program.
  Task<Result<AgentMetadata>> Metadata(FenceDevice device, Duration timeout);

 private:
  Processes* processes_;
  std::map<std::string, AgentMetadata> metadata_;
};

// Exposed for tests: the lines an agent is given. kInvalid: a name or value with a line break.
Result<std::string> AgentInput(const FenceDevice& device, const std::string& node_name, const std::string& action);
AgentMetadata ParseMetadata(const std::string& xml);

}  // namespace holdfast::fence
