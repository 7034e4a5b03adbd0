// Fakes for the tests of the fence domain: a rack of agents with power and ports that can be made to fail, hang or lie, and
// storage and isolation whose outcomes a test sets. All of it runs in simulated time.
#pragma once

#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "base/processes.h"
#include "base/sync.h"
#include "fence/agent.h"
#include "fence/local_fence.h"
#include "fence/pr_fence.h"

namespace holdfast::fence {

// Every outlet is one address ("ip=") and plug. Agents: fence_power (has reboot), fence_switch (has none), fence_mute
// (no status), fence_odd (metadata fails).
class Rack final : public Processes {
 public:
  struct Outlet {
    bool on = true;
    bool hangs = false;       // every call times out
    bool denies = false;      // every call fails
    bool stuck = false;       // `off` says done and does nothing
    int fails_first = 0;      // so many `off` fail, then they work
    Duration takes = Milliseconds(300);
  };
  std::map<std::string, Outlet> outlets;   // "ip/plug"
  std::vector<std::string> calls;          // "bmc1/ off"
  std::vector<std::string> inputs;
  std::vector<std::vector<std::string>> arguments;
  std::function<void(const std::string& call)> on_call;

  Task<Result<ProcessOutcome>> Run(ProcessSpec spec) override {
    std::map<std::string, std::string> values;
    std::istringstream lines(spec.standard_input);
    for (std::string line; std::getline(lines, line);) {
      size_t equals = line.find('=');
      if (equals != std::string::npos) values[line.substr(0, equals)] = line.substr(equals + 1);
    }
    inputs.push_back(spec.standard_input);
    arguments.push_back(spec.args);
    std::string action = values["action"];
    ProcessOutcome out;
    if (action == "metadata") {
      out.exit_code = spec.program == "fence_odd" ? 1 : 0;
      out.output = Metadata(spec.program);
      co_return out;
    }
    std::string place = values["ip"] + "/" + values["port"];
    calls.push_back(place + " " + action);
    if (on_call) on_call(calls.back());
    if (action == "list") {
      out.exit_code = 0;
      for (const auto& [name, o] : outlets) {
        if (name.starts_with(values["ip"] + "/")) out.output += name.substr(name.find('/') + 1) + ",port " + name + "\n";
      }
      co_return out;
    }
    if (!outlets.contains(place)) {  // as fence_ifmib does: what does not exist reads OFF
      out.exit_code = action == "status" ? 2 : 0;
      co_return out;
    }
    Outlet& outlet = outlets[place];
    if (outlet.hangs) {
      co_await SleepFor(spec.timeout);
      out.timed_out = true;
      co_return out;
    }
    co_await SleepFor(outlet.takes);
    out.exit_code = 0;
    if (outlet.denies) {
      out.exit_code = 1;
      out.errors = "Unable to connect/login with password " + values["passwd"] + "\n";
    } else if (action == "status" || action == "monitor") {
      out.exit_code = outlet.on || action == "monitor" ? 0 : 2;
    } else if (action == "off" && outlet.fails_first > 0) {
      outlet.fails_first--;
      out.exit_code = 1;
    } else if (action == "off") {
      if (!outlet.stuck) outlet.on = false;
    } else if (action == "on") {
      outlet.on = true;
    }
    co_return out;
  }
  Task<Status> AwaitExit(int32_t, Duration) override { co_return Status{}; }

 private:
  static std::string Metadata(const std::string& program) {
    std::string out = "<resource-agent><parameters><parameter name=\"ip\" required=\"1\"/></parameters><actions>\n";
    if (program == "fence_power") out += "<action name=\"reboot\"/>";
    if (program != "fence_mute") out += "<action name=\"status\"/>";
    if (program == "fence_mute") out += "<action name=\"reboot\"/>";
    return out + "<action name=\"list\"/><action name='off'/><action name=\"on\" automatic=\"0\"/></actions></resource-agent>";
  }
};

class FakeStorage final : public StorageFence {
 public:
  bool persistent = true;
  int fails_first = 0;
  Duration takes = Milliseconds(50);
  int fenced = 0, drained = 0;
  bool reachable = true;
  std::vector<std::string> volumes;  // that were fenced
  std::string forgets;               // this one is not persistent

  bool Supports(const std::string& volume) const override { return volume.starts_with("iscsi://"); }
  Task<Result<StorageProof>> Fence(std::string volume, std::vector<ReservationKey>, bool, StorageSteps steps) override {
    if (steps) steps("preempt", volume, nullptr);
    co_await SleepFor(takes);
    Status status;
    if (!reachable || fails_first > 0) status = Error(Errc::kDisconnected, "array not reachable");
    if (fails_first > 0) fails_first--;
    if (steps) steps("preempt", volume, &status);
    if (!status.ok()) co_return status.error();
    fenced++;
    volumes.push_back(volume);
    StorageProof proof;
    proof.persistent = persistent && volume != forgets;
    proof.details = volume;
    co_return proof;
  }
  Task<Status> Drain(std::string) override {
    co_await SleepFor(takes);
    if (!reachable) co_return Error(Errc::kDisconnected, "array not reachable");
    drained++;
    co_return Status{};
  }
};

class FakeLocal final : public LocalFence {
 public:
  explicit FakeLocal(Executor* executor) : LocalFence(executor) {}
  bool isolates = true;
  bool bytes_free = true;
  int isolated = 0, locked = 0;

  bool Supports(const std::string& volume) const override { return volume.starts_with("/image"); }
  Task<Result<std::string>> Isolate(FenceDevice, Duration, std::function<bool()>) override {
    isolated++;
    if (!isolates) co_return Error(Errc::kTimeout, "still has processes");
    co_return std::string("killed");
  }
  Task<Status> AwaitBytes(std::string, std::vector<uint64_t> bytes, Duration limit, std::function<bool()>) override {
    if (!bytes_free) {
      co_await SleepFor(limit);
      co_return Error(Errc::kTimeout, "byte still held");
    }
    locked += static_cast<int>(bytes.size());
    co_return Status{};
  }
  Task<Result<bool>> Populated(FenceDevice) override { co_return isolates; }
};

}  // namespace holdfast::fence
