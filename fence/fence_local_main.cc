// fence_local: the built-in agent of that name as a program (man/fence_local.8).

#include <cstdlib>

#include "fence/agent_main.h"
#include "fence/local_fence.h"
#include "io/reactor.h"

namespace holdfast::fence {
namespace {

const AgentDescription kDescription = {
    "fence_local",
    "Fencing by ending a node's processes on this machine, for labs",
    "Kills the node's version 2 cgroup (frozen ones too) or the processes named by pid files, waits until nothing of it runs, and, "
    "with a volume, until the node's byte locks on it are free: then its last write has landed.",
    {{"cgroup", "string", false, "the node's cgroup: absolute, or below cgroup_root or the version 2 hierarchy"},
     {"cgroup_root", "string", false, "where cgroup is"},
     {"pidfile", "string", false, "instead of cgroup: files with process ids, by comma"},
     {"volume", "string", false, "image file whose byte locks prove that the last write has landed"},
     {"nodeid", "integer", false, "with volume: the node's id, for the byte of its holdfastd"},
     {"mounts", "string", false, "with volume: numbers of its mounts, by comma"},
     {"agent_timeout", "integer", false, "seconds, 20 by default"}}};

int Off(io::Reactor* reactor, const AgentParameters& parameters, const FenceDevice& device) {
  LocalFence local(reactor);
  auto value = [&](const char* name) {
    auto found = parameters.find(name);
    return found == parameters.end() ? std::string() : found->second;
  };
  uint64_t seconds = 20, node = 0;
  if (!value("agent_timeout").empty() && !WholeNumber(value("agent_timeout"), 10, 1, 86'400, &seconds)) return Fail("agent_timeout= is no number of seconds");
  if (!value("nodeid").empty() && !WholeNumber(value("nodeid"), 10, 1, 256, &node)) return Fail("nodeid= is not 1..256");
  std::vector<MountNo> mounts;
  for (const std::string& text : SplitList(value("mounts"))) {
    uint64_t mount = 0;
    if (!WholeNumber(text, 10, 0, 65'535, &mount)) return Fail("not a mount number: " + text);
    mounts.push_back(MountNo(static_cast<uint32_t>(mount)));
  }
  Duration limit = Seconds(static_cast<int64_t>(seconds));
  auto done = reactor->RunTask(local.Isolate(device, limit, nullptr));
  if (!done.ok()) return Fail(done.error().message);
  std::string volume = value("volume");
  if (!volume.empty()) {
    if (!local.Supports(volume)) return Fail(volume + " is not an image file");
    VictimVolume entry;
    entry.daemon = node != 0;
    entry.mounts = mounts;
    auto bytes = BytesOf(NodeId(static_cast<uint32_t>(node)), entry);
    if (bytes.empty()) return Fail("volume= needs nodeid= or mounts=");
    auto free = reactor->RunTask(local.AwaitBytes(volume, bytes, limit, nullptr));
    if (!free.ok()) return Fail(free.error().message);
  }
  printf("Success: %s\n", done->c_str());
  return kExitDone;
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
  io::Reactor reactor;
  FenceDevice device{"fence_local", "fence_local", parameters};
  if (action == "off") return Off(&reactor, parameters, device);
  if (action == "status" || action == "monitor") {
    LocalFence local(&reactor);
    auto populated = reactor.RunTask(local.Populated(device));
    if (!populated.ok()) return Fail(populated.error().message);
    if (action == "monitor") return kExitDone;
    printf("Status: %s\n", *populated ? "ON" : "OFF");
    return *populated ? kExitDone : kExitOff;
  }
  return Fail("unknown action " + action + "; off, status, monitor, metadata are known");
}

}  // namespace
}  // namespace holdfast::fence

int main(int argc, char** argv) { return holdfast::fence::Main(argc, argv); }
