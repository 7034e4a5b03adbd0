// fence_pr: the storage step as a program (man/fence_pr.8): preempt, drain, verify.

#include <cstdlib>

#include "fence/agent_main.h"
#include "fence/pr_fence.h"
#include "io/iscsi_reservations.h"
#include "io/processes.h"
#include "io/reactor.h"
#include "io/system_random.h"

namespace holdfast::fence {
namespace {

const AgentDescription kDescription = {
    "fence_pr",
    "Fencing by persistent reservations on iSCSI volumes",
    "Preempts all keys of a node on the volumes, waits until the array has landed what it had accepted (LOGICAL UNIT RESET), and "
    "verifies that the keys are gone and a reservation of type write exclusive, all registrants, stands.",
    {{"devices", "string", true, "iscsi:// URLs of the volumes, by comma"},
     {"nodeid", "integer", false, "preempt every key of this node"},
     {"keys", "string", false, "or these keys (hexadecimal) alone, by comma"},
     {"passwd", "string", false, "CHAP password of the user in the URLs"},
     {"passwd_script", "string", false, "a program that prints it"}}};

// The password goes into the URL in memory only.
Result<std::vector<std::string>> Volumes(io::Reactor* reactor, const AgentParameters& parameters) {
  auto devices = parameters.find("devices");
  if (devices == parameters.end()) return Error(Errc::kInvalid, "devices= is missing");
  std::string password;
  if (auto found = parameters.find("passwd"); found != parameters.end()) password = found->second;
  if (auto script = parameters.find("passwd_script"); script != parameters.end()) {
    io::SystemProcesses processes(reactor);
    ProcessSpec spec;
    spec.program = script->second;
    auto outcome = reactor->RunTask(processes.Run(spec));
    if (!outcome.ok() || outcome->exit_code != 0) return Error(Errc::kIo, "passwd_script failed");
    password = outcome->output.substr(0, outcome->output.find('\n'));
  }
  std::vector<std::string> out = SplitList(devices->second);
  for (std::string& url : out) {
    if (!url.starts_with("iscsi://")) return Error(Errc::kUnsupported, url + ": only iscsi:// URLs have reservations that this program reaches");
    size_t at = url.find('@');
    if (!password.empty() && at != std::string::npos && url.substr(0, at).find('%') == std::string::npos) url.insert(at, "%" + password);
  }
  if (out.empty()) return Error(Errc::kInvalid, "devices= is empty");
  return out;
}

// Keys of the node on that volume, or the ones that were named.
Result<std::vector<ReservationKey>> Victims(io::Reactor* reactor, io::IscsiReservationSessions* sessions, const std::string& volume,
                                            const AgentParameters& parameters) {
  std::vector<ReservationKey> out;
  if (auto keys = parameters.find("keys"); keys != parameters.end()) {
    for (const std::string& text : SplitList(keys->second)) {
      if (!WholeNumber(text, 16, 1, UINT64_MAX, &out.emplace_back())) return Error(Errc::kInvalid, "not a key: " + text);
    }
    return out;
  }
  auto node = parameters.find("nodeid");
  uint64_t id = 0;
  if (node == parameters.end() || !WholeNumber(node->second, 10, 1, 256, &id)) return Error(Errc::kInvalid, "nodeid= (1..256) or keys= is needed");
  auto session = reactor->RunTask(sessions->Open(volume));
  if (!session.ok()) return session.error();
  auto state = reactor->RunTask((*session)->reservations().Read());
  reactor->RunTask((*session)->Close());
  if (!state.ok()) return state.error();
  for (ReservationKey key : state->keys) {
    if (key >> 48 == id) out.push_back(key);
  }
  return out;
}

int Act(io::Reactor* reactor, const std::string& action, const AgentParameters& parameters) {
  auto volumes = Volumes(reactor, parameters);
  if (!volumes.ok()) return Fail(volumes.error().message);
  io::SystemRandom random;
  ReservationKey own = MakeKey(NodeId(0), static_cast<uint32_t>(random.Next()), kFencerProcess);
  io::IscsiReservationSessions sessions(reactor, "");
  PrFence fence(&sessions, own);
  bool registered = false;
  for (const std::string& volume : *volumes) {
    if (action == "monitor") {
      auto session = reactor->RunTask(sessions.Open(volume));
      if (!session.ok()) return Fail(session.error().message);
      auto state = reactor->RunTask((*session)->reservations().Read());
      reactor->RunTask((*session)->Close());
      if (!state.ok()) return Fail(state.error().message);
      continue;
    }
    auto keys = Victims(reactor, &sessions, volume, parameters);
    if (!keys.ok()) return Fail(keys.error().message);
    if (action == "status") {
      auto has = reactor->RunTask(fence.HasKeys(volume, *keys));
      if (!has.ok()) return Fail(has.error().message);
      registered = registered || *has;
      continue;
    }
    auto proof = reactor->RunTask(fence.Fence(volume, *keys, false, nullptr));
    if (!proof.ok()) return Fail(proof.error().message);
    printf("Success: %s\n", proof->details.c_str());
  }
  if (action != "status") return kExitDone;
  printf("Status: %s\n", registered ? "ON" : "OFF");
  return registered ? kExitDone : kExitOff;
}

int Main(int argc, char** argv) {
  AgentParameters parameters;
  int exit_code = 0;
  if (!ReadParameters(kDescription, argc, argv, &parameters, &exit_code)) return exit_code;
  std::string action = parameters["action"];
  if (action == "metadata") {
    PrintMetadata(kDescription);
    return kExitDone;
  }
  if (action != "off" && action != "status" && action != "monitor") {
    return Fail("unknown action " + action + "; off, status, monitor, metadata are known");
  }
  io::Reactor reactor;
  return Act(&reactor, action, parameters);
}

}  // namespace
}  // namespace holdfast::fence

int main(int argc, char** argv) { return holdfast::fence::Main(argc, argv); }
