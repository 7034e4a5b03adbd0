// What the standalone agents fence_pr and fence_local share: the FenceAgentAPI from the agent's side. Parameters come as
// name=value lines on standard input, or as -o ACTION and NAME=VALUE words; secrets only on standard input.
// Exit status: 0 done or ON, 1 failed, 2 status OFF.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace holdfast::fence {

inline constexpr int kExitDone = 0, kExitFailed = 1, kExitOff = 2;

struct AgentParameter {
  const char* name;
  const char* type;  // string, integer
  bool required;
  const char* words;
};

struct AgentDescription {
  const char* name;
  const char* brief;
  const char* words;
  std::vector<AgentParameter> parameters;
};

using AgentParameters = std::map<std::string, std::string>;

// Reads standard input (when there are no words) or the words. False: it has printed what is wrong, or the help.
bool ReadParameters(const AgentDescription& description, int argc, char** argv, AgentParameters* out, int* exit_code);
void PrintMetadata(const AgentDescription& description);
// "a, b c" -> a b c
std::vector<std::string> SplitList(const std::string& text);
// A whole number in [low, high] and nothing else; base 10 or 16. False: it is something else.
bool WholeNumber(const std::string& text, int base, uint64_t low, uint64_t high, uint64_t* out);
// Says it on standard error and gives kExitFailed.
int Fail(const std::string& words);

}  // namespace holdfast::fence
