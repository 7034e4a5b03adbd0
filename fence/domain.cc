// See domain.h; the order logic is in worker.cc.

#include "fence/domain.h"

#include <algorithm>

#include "base/log.h"
#include "fence/agent.h"
#include "fence/history.h"
#include "fence/local_fence.h"
#include "fence/pr_fence.h"
#include "fence/worker.h"

namespace holdfast::fence {

namespace {

// Where a device is, so that a changed address is a new port.
std::string SeenName(const FenceDevice& device) {
  std::string out = device.name;
  for (const char* name : {"ip", "ipaddr"}) {
    auto found = device.attributes.find(name);
    if (found != device.attributes.end()) out += "@" + found->second;
  }
  return out;
}

}  // namespace

bool SeenPorts::Has(const FenceDevice& device) const {
  std::string name = SeenName(device), plug = PlugOf(device);
  return here_.contains(name + "\n" + plug) || (history_ && history_->SeenOn(name, plug).has_value());
}

Task<void> SeenPorts::Mark(FenceDevice device, WallTime at) {
  std::string name = SeenName(device), plug = PlugOf(device);
  here_.insert(name + "\n" + plug);
  if (!history_) co_return;
  auto status = co_await history_->MarkSeenOn(name, plug, at);
  if (!status.ok()) HF_LOG(LogLevel::kWarn, "fence", "seen_on_not_kept", {{"device", name}, {"why", status.error().ToString()}});
}

// --- one run ------------------------------------------------------------------------------------------------------

Task<Result<std::vector<FenceProof>>> FenceRun::AwaitProof() {
  co_await over_.Wait();
  if (!proven()) co_return Error(Errc::kCancelled, why_);
  co_return proofs_;
}

Task<void> FenceRun::AwaitEnd() { co_await ended_.Wait(); }

void FenceRun::Cancel(std::string why) {
  if (cancelled_ || ended()) return;
  cancelled_ = true;
  why_ = std::move(why);
  over_.Set();
}

// --- the domain ---------------------------------------------------------------------------------------------------

Domain::Domain(FenceSeams seams, FencePolicy policy)
    : seams_(seams), policy_(policy), agents_(std::make_unique<Agents>(seams.processes)), seen_(seams.history) {}

Domain::~Domain() = default;

std::shared_ptr<FenceRun> Domain::Find(NodeId node, Incarnation incarnation) const {
  auto found = runs_.find({node, incarnation});
  return found == runs_.end() ? nullptr : found->second;
}

std::shared_ptr<FenceRun> Domain::Fence(Victim victim, std::vector<FenceMethod> methods, StepSink on_step) {
  auto known = Find(victim.node, victim.incarnation);
  // A run that gave up, or has nothing left to do without a proof, is begun again.
  if (known && !known->cancelled_ && (!known->ended() || known->proven())) return known;
  std::erase_if(runs_, [&](const auto& entry) { return entry.first.first == victim.node && entry.second->ended(); });
  auto run = std::make_shared<FenceRun>(std::move(victim));
  runs_[{run->victim_.node, run->victim_.incarnation}] = run;
  scope_.Spawn(Run(run, std::move(methods), std::move(on_step)));
  return run;
}

Task<void> Domain::Run(std::shared_ptr<FenceRun> run, std::vector<FenceMethod> methods, StepSink on_step) {
  HF_LOG(LogLevel::kWarn, "fence", "begun",
         {{"victim", run->victim_.node}, {"name", run->victim_.name}, {"incarnation", run->victim_.incarnation},
          {"methods", methods.size()}, {"volumes", run->victim_.volumes.size()}, {"keys", run->victim_.keys.size()}});
  FenceRun::Worker worker(seams_, policy_, agents_.get(), &seen_, run, std::move(methods), std::move(on_step));
  bool go_on = true;
  if (policy_.post_fail_delay.ns > 0) {
    run->doing_ = "post_fail_delay";
    go_on = co_await worker.Pause(policy_.post_fail_delay);
  }
  if (go_on) {
    Scope both;
    both.Spawn(worker.Storage());
    if (run->victim_.own_former_life) {
      both.Spawn(worker.OwnBytes());
    } else {
      both.Spawn(worker.Methods());
    }
    co_await both.Join();
  }
  // Nothing acts any more; without a proof the wait is for a human's ack, or for a cancel.
  run->doing_ = run->proven() ? "done" : run->cancelled_ ? "cancelled: " + run->why_ : "nothing left to try: waiting for 'holdfast fence ack'";
  HF_LOG(LogLevel::kInfo, "fence", "ended", {{"victim", run->victim_.node}, {"proven", run->proven()}, {"doing", run->doing_}});
  run->ended_.Set();
}

Status Domain::Acknowledge(NodeId node, Incarnation incarnation, std::string who) {
  auto run = Find(node, incarnation);
  if (!run || run->cancelled_) return Error(Errc::kNotFound, "no fencing of that node is under way here");
  if (!run->proven()) scope_.Spawn(AcknowledgeRun(run, std::move(who)));
  return {};
}

// The human vouches for the node, not for what the array still holds: that is waited for, within a limit.
Task<void> Domain::AcknowledgeRun(std::shared_ptr<FenceRun> run, std::string who) {
  FenceRun::Worker worker(seams_, policy_, agents_.get(), &seen_, run, {}, nullptr);
  auto landed = co_await worker.Barrier("manual", false);
  FenceProof proof;
  proof.kind = ProofKind::kManual;
  proof.method = "manual";
  proof.sufficient = true;
  proof.details = "acknowledged by " + who + (landed.ok() ? "" : "; not drained: " + landed.error().message);
  worker.AddProof(std::move(proof));
}

Task<std::vector<CheckResult>> Domain::Check(std::string node_name, std::vector<FenceMethod> methods) {
  std::vector<CheckResult> out;
  for (const FenceMethod& method : methods) {
    for (const FenceDevice& device : method.devices) {
      auto result = co_await CheckDevice(node_name, method.name, device);
      HF_LOG(result.ok ? LogLevel::kDebug : LogLevel::kWarn, "fence", "check",
             {{"node", node_name}, {"method", method.name}, {"device", device.name}, {"ok", result.ok}, {"details", result.details}});
      out.push_back(std::move(result));
    }
  }
  co_return out;
}

Task<CheckResult> Domain::CheckDevice(std::string node_name, std::string method, FenceDevice device) {
  CheckResult out{method, device.name, false, ""};
  if (device.agent == "fence_pr") {
    auto url = device.attributes.find("devices");
    if (!seams_.storage) {
      out.details = "no storage step in this program";
    } else if (url == device.attributes.end()) {
      out.ok = true;
      out.details = "the victim's own volumes";
    } else {
      out.ok = seams_.storage->Supports(url->second);
      out.details = RedactedUrl(url->second) + (out.ok ? "" : " has no reservations that this program can reach");
    }
    co_return out;
  }
  if (device.agent == "fence_local") {
    if (!seams_.local) {
      out.details = "not available";
      co_return out;
    }
    auto populated = co_await seams_.local->Populated(device);
    out.ok = populated.ok() && *populated;
    out.details = !populated.ok() ? populated.error().message : *populated ? "its processes run" : "no process in it";
    co_return out;
  }
  auto metadata = co_await agents_->Metadata(device, policy_.device_timeout);
  if (!metadata.ok()) {
    out.details = metadata.error().message;
    co_return out;
  }
  std::string plug = PlugOf(device);
  if (metadata->actions.contains("list") && !plug.empty()) {
    auto list = co_await agents_->Call(device, node_name, "list", policy_.device_timeout);
    // Lines are "plug,alias". Agents that cannot list say so with status 0 and no comma.
    std::string text = "\n" + list.output;
    bool lists = list.answer == AgentAnswer::kDone && text.find(',') != std::string::npos;
    if (lists && text.find("\n" + plug + ",") == std::string::npos && text.find("," + plug) == std::string::npos) {
      out.details = "plug " + plug + " is not in the agent's list";
      co_return out;
    }
  }
  auto status = co_await agents_->Call(device, node_name, "status", policy_.device_timeout);
  out.ok = status.answer == AgentAnswer::kDone;
  if (out.ok) co_await seen_.Mark(device, seams_.executor->clock().Wall());
  out.details = out.ok ? "status ON" : status.answer == AgentAnswer::kOff ? "status OFF of a node that runs: wrong or missing plug" : status.words;
  co_return out;
}

Task<Status> Domain::Unfence(std::string node_name, std::vector<FenceDevice> devices, StepSink on_step) {
  Status first;
  for (const FenceDevice& entry : devices) {
    FenceDevice device = entry;
    if (device.agent == "fence_pr" || device.agent == "fence_local") continue;  // a key is registered by the join itself
    auto begun = seams_.executor->clock().Now();
    auto report = co_await agents_->Call(device, node_name, "on", policy_.device_timeout);
    FenceStep step;
    step.method = "unfence";
    step.device = device.name;
    step.action = "on";
    step.outcome = report.answer == AgentAnswer::kDone       ? StepOutcome::kSucceeded
                   : report.answer == AgentAnswer::kTimedOut ? StepOutcome::kTimedOut
                                                             : StepOutcome::kFailed;
    step.details = report.words;
    step.at = seams_.executor->clock().Wall();
    step.took = seams_.executor->clock().Now() - begun;
    if (on_step) on_step(step);
    if (step.outcome != StepOutcome::kSucceeded && first.ok()) {
      first = Error(step.outcome == StepOutcome::kTimedOut ? Errc::kTimeout : Errc::kIo, device.name + ": " + report.words);
    }
  }
  co_return first;
}

StatusTree Domain::Dump() const {
  StatusTree out("fencing");
  for (const auto& [who, run] : runs_) {
    StatusTree& node = out.Add("victim", run->victim_.name);
    node.Add("node", std::to_string(who.first.v));
    node.Add("incarnation", std::to_string(who.second.v));
    node.Add("proven", run->proven() ? "yes" : "no");
    node.Add("doing", run->doing_);
    for (const FenceProof& proof : run->proofs_) {
      node.Add("proof", std::string(ProofName(proof.kind)) + (proof.sufficient ? ", sufficient: " : ", not sufficient alone: ") + proof.details);
    }
  }
  return out;
}

Task<void> Domain::Close() {
  for (auto& [who, run] : runs_) run->Cancel("this daemon stops");
  co_await scope_.Join();
}

}  // namespace holdfast::fence
