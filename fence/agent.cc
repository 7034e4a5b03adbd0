// See agent.h. Exit codes and the handling of names: the FenceAgentAPI page and fencing.py of fence-agents.

#include "fence/agent.h"

#include <cctype>

#include "base/log.h"

namespace holdfast::fence {

namespace {

constexpr size_t kWordsMax = 240;

// The last line that says something, without the values of secrets.
std::string OneLine(const FenceDevice& device, const ProcessOutcome& outcome) {
  // Agents warn on standard error also when they succeed.
  bool said_out = outcome.output.find_first_not_of(" \n\r\t") != std::string::npos;
  bool said_error = outcome.errors.find_first_not_of(" \n\r\t") != std::string::npos;
  bool good = !outcome.timed_out && (outcome.exit_code == 0 || outcome.exit_code == 2);
  std::string text = (good && said_out) || !said_error ? outcome.output : outcome.errors;
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back()))) text.pop_back();
  size_t line = text.rfind('\n');
  if (line != std::string::npos) text.erase(0, line + 1);
  for (const auto& [name, value] : device.attributes) {
    if (!IsSecret(name) || value.empty()) continue;
    for (size_t at = text.find(value); at != std::string::npos; at = text.find(value, at + 3)) text.replace(at, value.size(), "***");
  }
  for (char& c : text) {
    if (!std::isprint(static_cast<unsigned char>(c))) c = ' ';
  }
  if (text.size() > kWordsMax) text.resize(kWordsMax);
  return text;
}

bool IsProgram(const std::string& agent) {
  if (agent.empty() || agent.front() == '-') return false;
  for (char c : agent) {
    if (!std::isalnum(static_cast<unsigned char>(c)) && c != '_' && c != '-' && c != '.' && c != '/') return false;
  }
  return true;
}

}  // namespace

bool IsOwnAttribute(const std::string& name) {
  static const std::set<std::string> kOwn = {"name", "agent", "action", "option", "agent_timeout", "agent_retries",
                                             "agent_retry_wait", "proof", "accept_volatile"};
  return kOwn.contains(name);
}

std::string PlugOf(const FenceDevice& device) {
  for (const char* name : {"plug", "port"}) {
    auto found = device.attributes.find(name);
    if (found != device.attributes.end()) return found->second;
  }
  return {};
}

Result<std::string> AgentInput(const FenceDevice& device, const std::string& node_name, const std::string& action) {
  std::string out;
  auto add = [&out](const std::string& name, const std::string& value) {
    bool clean = !name.empty() && name.find_first_of("=\n\r") == std::string::npos && value.find_first_of("\n\r") == std::string::npos;
    if (clean) out += name + "=" + value + "\n";
    return clean;
  };
  bool clean = add("action", action) && (node_name.empty() || add("nodename", node_name));
  for (const auto& [name, value] : device.attributes) {
    if (!IsOwnAttribute(name)) clean = clean && add(name, value);
  }
  if (!clean) return Error(Errc::kInvalid, "device " + device.name + ": an attribute has a line break");
  return out;
}

AgentMetadata ParseMetadata(const std::string& xml) {
  // Only two kinds of tags matter, and agents write them plainly: <action name="x" .../> and <parameter name="x" ...>.
  AgentMetadata out;
  auto collect = [&xml](const std::string& tag, std::set<std::string>* into) {
    for (size_t at = xml.find(tag); at != std::string::npos; at = xml.find(tag, at + 1)) {
      size_t end = xml.find('>', at);
      size_t name = xml.find("name=", at);
      if (end == std::string::npos || name == std::string::npos || name > end || name + 6 >= xml.size()) continue;
      char quote = xml[name + 5];
      size_t close = xml.find(quote, name + 6);
      if ((quote == '"' || quote == '\'') && close != std::string::npos && close < end) into->insert(xml.substr(name + 6, close - name - 6));
    }
  };
  collect("<action ", &out.actions);
  collect("<parameter ", &out.parameters);
  return out;
}

Task<AgentReport> Agents::Call(FenceDevice device, std::string node_name, const char* action, Duration timeout) {
  AgentReport report;
  if (!processes_) {
    report.words = "this program cannot run agents";
    co_return report;
  }
  if (!IsProgram(device.agent)) {
    report.words = "not the name of an agent: " + device.agent;
    co_return report;
  }
  auto input = AgentInput(device, node_name, action);
  if (!input.ok()) {
    report.words = input.error().message;
    co_return report;
  }
  ProcessSpec spec;
  spec.program = device.agent;
  spec.standard_input = std::move(*input);
  spec.timeout = timeout;
  auto outcome = co_await processes_->Run(std::move(spec));
  if (!outcome.ok()) {
    report.answer = outcome.code() == Errc::kTimeout ? AgentAnswer::kTimedOut : AgentAnswer::kFailed;
    report.words = device.agent + ": " + outcome.error().message;
    co_return report;
  }
  report.output = outcome->output;
  report.words = OneLine(device, *outcome);
  if (outcome->timed_out) {
    report.answer = AgentAnswer::kTimedOut;
    report.words = "no answer in " + std::to_string(timeout.ms()) + " ms";
  } else if (outcome->exit_code == 0) {
    report.answer = AgentAnswer::kDone;
  } else if (outcome->exit_code == 2 && std::string_view(action) == "status") {
    report.answer = AgentAnswer::kOff;
  } else {
    report.words = "exit status " + std::to_string(outcome->exit_code) + (report.words.empty() ? "" : ": ") + report.words;
  }
  HF_LOG(LogLevel::kInfo, "fence", "agent",
         {{"device", device.name}, {"agent", device.agent}, {"action", action}, {"node", node_name},
          {"answer", report.answer == AgentAnswer::kDone ? "done" : report.answer == AgentAnswer::kOff ? "off"
                     : report.answer == AgentAnswer::kTimedOut ? "timeout" : "failed"},
          {"words", report.words}});
  co_return report;
}

Task<Result<AgentMetadata>> Agents::Metadata(FenceDevice device, Duration timeout) {
  auto known = metadata_.find(device.agent);
  if (known != metadata_.end()) co_return known->second;
  std::string agent = device.agent;
  FenceDevice bare;  // metadata needs no parameters, and some agents refuse to read others then
  bare.name = device.name;
  bare.agent = agent;
  std::string nobody;
  auto report = co_await Call(bare, nobody, "metadata", timeout);
  if (report.answer != AgentAnswer::kDone) co_return Error(Errc::kUnsupported, agent + " metadata: " + report.words);
  AgentMetadata parsed = ParseMetadata(report.output);
  if (parsed.actions.empty()) co_return Error(Errc::kUnsupported, agent + " lists no actions in its metadata");
  metadata_[agent] = parsed;
  co_return parsed;
}

}  // namespace holdfast::fence
