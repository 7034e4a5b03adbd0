// See worker.h.

#include "fence/worker.h"

#include <algorithm>
#include <charconv>

#include "base/log.h"
#include "fence/local_fence.h"
#include "fence/pr_fence.h"

namespace holdfast::fence {

namespace {

constexpr unsigned kBehindAttempts = 3;         // of the storage step, once the token is complete
constexpr Duration kRoundDelayMax = Seconds(60);
constexpr uint32_t kRetriesMax = 10;
constexpr double kSecondsMax = 3600;

double NumberOf(const FenceDevice& device, const char* name, double otherwise, double max) {
  auto found = device.attributes.find(name);
  if (found == device.attributes.end()) return otherwise;
  double value = 0;
  const std::string& text = found->second;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) return otherwise;
  return std::min(value, max);
}

Duration SecondsOf(const FenceDevice& device, const char* name, Duration otherwise) {
  return {static_cast<int64_t>(NumberOf(device, name, static_cast<double>(otherwise.ns) / 1e9, kSecondsMax) * 1e9)};
}

std::string ActionOf(const FenceDevice& device) {
  for (const char* name : {"action", "option"}) {
    auto found = device.attributes.find(name);
    if (found != device.attributes.end() && !found->second.empty()) return found->second;
  }
  return "reboot";
}

bool TurnsOff(const std::string& action) { return action == "off" || action == "reboot"; }
bool TurnsOn(const std::string& action) { return action == "on" || action == "enable"; }

}  // namespace

// --- reporting ----------------------------------------------------------------------------------------------------

void FenceRun::Worker::Started(const Place& place, const std::string& action) {
  run->doing_ = "method " + place.method + (place.device.empty() ? "" : ", device " + place.device) + ", " + action +
                (place.round > 1 ? ", round " + std::to_string(place.round) : "");
  if (!sink) return;
  FenceStep step;
  step.node = run->victim_.node;
  step.incarnation = run->victim_.incarnation;
  step.method = place.method;
  step.device = place.device;
  step.action = action;
  step.at = seams.executor->clock().Wall();
  step.round = place.round;
  step.behind = run->proven();
  sink(step);
}

void FenceRun::Worker::Ended(const Place& place, const std::string& action, Instant begun, const Status& outcome,
                             const std::string& details) {
  FenceStep step;
  step.node = run->victim_.node;
  step.incarnation = run->victim_.incarnation;
  step.method = place.method;
  step.device = place.device;
  step.action = action;
  step.outcome = outcome.ok() ? StepOutcome::kSucceeded
                 : outcome.code() == Errc::kTimeout ? StepOutcome::kTimedOut
                 : outcome.code() == Errc::kCancelled ? StepOutcome::kCancelled
                                                      : StepOutcome::kFailed;
  step.details = outcome.ok() ? details : outcome.error().message;
  step.at = seams.executor->clock().Wall();
  step.took = seams.executor->clock().Now() - begun;
  step.round = place.round;
  step.behind = run->proven();
  HF_LOG(outcome.ok() ? LogLevel::kInfo : LogLevel::kWarn, "fence", "step",
         {{"victim", run->victim_.node}, {"incarnation", run->victim_.incarnation}, {"method", place.method}, {"device", place.device},
          {"action", action}, {"outcome", OutcomeName(step.outcome)}, {"ms", step.took.ms()}, {"details", step.details}});
  if (sink) sink(step);
}

void FenceRun::Worker::AddProof(FenceProof proof) {
  proof.at = seams.executor->clock().Wall();
  HF_LOG(LogLevel::kInfo, "fence", "proof",
         {{"victim", run->victim_.node}, {"incarnation", run->victim_.incarnation}, {"kind", ProofName(proof.kind)},
          {"sufficient", proof.sufficient}, {"details", proof.details}});
  bool sufficient = proof.sufficient;
  run->proofs_.push_back(std::move(proof));
  if (!sufficient || run->cancelled_ || run->proven()) return;
  run->proven_.Set();
  run->over_.Set();
}

Task<bool> FenceRun::Worker::Pause(Duration how_long) {
  Instant end = seams.executor->clock().Now() + how_long;
  while (!cancelled()) {
    Instant now = seams.executor->clock().Now();
    if (now >= end) co_return true;
    co_await SleepFor(std::min(end - now, Milliseconds(20)));
  }
  co_return false;
}

// --- the storage step ---------------------------------------------------------------------------------------------

bool FenceRun::Worker::StorageVolumes() const {
  const auto& volumes = run->victim_.volumes;
  return seams.storage && std::any_of(volumes.begin(), volumes.end(), [this](const VictimVolume& v) { return seams.storage->Supports(v.volume); });
}

// Can every volume be proven, by reservation or by byte? A kernel block device cannot here.
bool FenceRun::Worker::OnlyCovered() const {
  const auto& volumes = run->victim_.volumes;
  return std::all_of(volumes.begin(), volumes.end(), [this](const VictimVolume& v) {
    return (seams.storage && seams.storage->Supports(v.volume)) || (seams.local && seams.local->Supports(v.volume));
  });
}

bool FenceRun::Worker::AcceptsVolatile() const {
  if (policy.accept_storage_alone || run->victim_.own_former_life) return true;
  for (const FenceMethod& method : methods) {
    for (const FenceDevice& device : method.devices) {
      auto found = device.attributes.find("accept_volatile");
      if (device.agent == "fence_pr" && found != device.attributes.end() && found->second == "1") return true;
    }
  }
  return false;
}

Task<Status> FenceRun::Worker::StorageOnce(bool* persistent, std::string* details) {
  *persistent = true;
  details->clear();
  for (const VictimVolume& entry : run->victim_.volumes) {
    std::string volume = entry.volume;
    if (!seams.storage->Supports(volume)) continue;
    // The sink may be called when this frame waits, never after it: Fence is awaited here.
    Instant begun = seams.executor->clock().Now();
    StorageSteps steps = [this, &begun](const std::string& action, const std::string& where, const Status* outcome) {
      Place place{"storage", where, 0};
      if (!outcome) {
        begun = seams.executor->clock().Now();
        Started(place, action);
      } else {
        Ended(place, action, begun, *outcome);
      }
    };
    auto proof = co_await seams.storage->Fence(volume, run->victim_.keys, true, steps);
    if (!proof.ok()) co_return proof.error();
    *persistent = *persistent && proof->persistent;
    *details += (details->empty() ? "" : "; ") + proof->details;
  }
  co_return Status{};
}

Task<void> FenceRun::Worker::Storage() {
  if (!StorageVolumes()) co_return;
  unsigned behind = 0;
  Duration delay = policy.retry_delay;
  while (!cancelled()) {
    Instant begun = seams.executor->clock().Now();
    bool persistent = false;
    std::string details;
    auto status = co_await StorageOnce(&persistent, &details);
    if (status.ok()) status = co_await Barrier("storage", true);  // image files beside it
    if (status.ok()) {
      storage_done_ = true;
      storage_sufficient_ = OnlyCovered() && (persistent || AcceptsVolatile());
      FenceProof proof;
      proof.kind = ProofKind::kStorage;
      proof.method = "storage";
      proof.sufficient = storage_sufficient_;
      proof.details = details + (!persistent && storage_sufficient_ ? " (accepted by configuration)" : "");
      AddProof(std::move(proof));
      co_return;
    }
    Ended({"storage", "", 0}, "attempt", begun, status);
    if (run->proven() && ++behind >= kBehindAttempts) co_return;
    (void)co_await Pause(delay);
    delay = std::min(delay * 2, kRoundDelayMax);
  }
}

Task<Status> FenceRun::Worker::Barrier(const char* method, bool skip_storage) {
  for (const VictimVolume& volume : run->victim_.volumes) {
    VictimVolume entry = volume;
    Place place{method, RedactedUrl(entry.volume), 0};
    Instant begun = seams.executor->clock().Now();
    if (seams.storage && seams.storage->Supports(entry.volume)) {
      if (skip_storage) continue;
      Started(place, "drain");
      auto status = co_await seams.storage->Drain(entry.volume);
      Ended(place, "drain", begun, status);
      if (!status.ok()) co_return status;
    } else if (seams.local && seams.local->Supports(entry.volume)) {
      auto bytes = BytesOf(run->victim_.node, entry);
      if (bytes.empty()) continue;
      Started(place, "lock");
      std::function<bool()> stop = [this] { return cancelled(); };
      auto status = co_await seams.local->AwaitBytes(entry.volume, bytes, policy.storage_timeout, stop);
      Ended(place, "lock", begun, status, std::to_string(bytes.size()) + " bytes taken");
      if (!status.ok()) co_return status;
    }
  }
  co_return Status{};
}

Task<void> FenceRun::Worker::OwnBytes() {
  if (StorageVolumes()) co_return;  // then the storage step takes the bytes too
  while (!cancelled()) {
    auto status = co_await Barrier("own former life", false);
    if (status.ok()) {
      FenceProof proof;
      proof.kind = ProofKind::kLocal;
      proof.method = "own former life";
      proof.sufficient = OnlyCovered();
      proof.details = run->victim_.volumes.empty() ? "it used no volume" : "the bytes of its processes are free";
      AddProof(std::move(proof));
      co_return;
    }
    (void)co_await Pause(policy.retry_delay);
  }
}

// --- methods ------------------------------------------------------------------------------------------------------

Task<void> FenceRun::Worker::Methods() {
  Duration delay = policy.round_delay;
  for (uint32_t round = 1; !cancelled(); round++) {
    for (const FenceMethod& method : methods) {
      if (cancelled()) co_return;
      bool worked = co_await Method(&method, round);
      if (worked) co_return;
    }
    if (methods.empty() || run->proven()) co_return;
    run->doing_ = "all methods failed, again in " + std::to_string(delay.ms()) + " ms";
    Instant end = seams.executor->clock().Now() + delay;
    while (!run->proven() && seams.executor->clock().Now() < end) {
      bool go_on = co_await Pause(std::min(end - seams.executor->clock().Now(), Milliseconds(20)));
      if (!go_on) co_return;
    }
    if (run->proven()) co_return;
    delay = std::min(delay * 2, kRoundDelayMax);
  }
}

Task<bool> FenceRun::Worker::Method(const FenceMethod* method, uint32_t round) {
  size_t last_off = method->devices.size();
  for (size_t i = 0; i < method->devices.size(); i++) {
    if (TurnsOff(ActionOf(method->devices[i]))) last_off = i;
  }
  Instant begun = seams.executor->clock().Now();
  Place whole{method->name, "", round};
  if (last_off == method->devices.size()) {
    Ended(whole, "method", begun, Error(Errc::kInvalid, "no device of it turns anything off"));
    co_return false;
  }
  FenceProof proof;
  proof.kind = ProofKind::kStorage;
  proof.method = method->name;
  bool early_on = false;
  std::vector<FenceDevice> raise;  // reboot: `on` behind the token
  for (size_t i = 0; i < method->devices.size(); i++) {
    if (cancelled()) co_return false;
    FenceDevice device = method->devices[i];
    Place place{method->name, device.name, round};
    std::string action = ActionOf(device);
    if (TurnsOn(action)) {
      early_on = early_on || i < last_off;
      auto status = co_await Call(device, place, "on", AgentAnswer::kDone);
      if (!status.ok()) co_return i > last_off;  // the node was off: the method has done what it is for
      continue;
    }
    if (!TurnsOff(action)) {
      Ended(place, action, seams.executor->clock().Now(), Error(Errc::kInvalid, "an action that does not fence"));
      co_return false;
    }
    auto off = co_await Off(device, place);
    if (!off.ok()) co_return false;
    // The strongest device names the proof: power, port, local, storage.
    static constexpr ProofKind kStrength[] = {ProofKind::kPower, ProofKind::kPort, ProofKind::kLocal, ProofKind::kStorage};
    for (ProofKind kind : kStrength) {
      if (kind != proof.kind && kind != off->kind) continue;
      proof.kind = kind;
      break;
    }
    proof.device += (proof.device.empty() ? "" : ",") + device.name;
    proof.details += (proof.details.empty() ? "" : "; ") + device.name + ": " + off->words;
    if (action == "reboot" && off->kind == ProofKind::kPower) raise.push_back(device);
    if (i != last_off) continue;
    if (early_on) {
      Ended(whole, "method", begun, Error(Errc::kInvalid, "an 'on' before the last 'off': not everything was off at once"));
      co_return false;
    }
    if (proof.kind == ProofKind::kStorage) {  // its proof is the storage step's own
      if (!storage_sufficient_) {
        Ended(whole, "method", begun, Error(Errc::kUnsupported, NotSufficient()));
        co_return false;
      }
      continue;
    }
    // What the array had accepted before the cut. Nothing else can replace this, so it is tried until it works.
    for (;;) {
      auto landed = co_await Barrier(method->name.c_str(), false);
      if (landed.ok()) break;
      bool go_on = co_await Pause(policy.retry_delay);
      if (!go_on || run->proven()) co_return false;
    }
    proof.sufficient = true;
    proof.readers_ended = proof.kind == ProofKind::kPower || proof.kind == ProofKind::kLocal;
    AddProof(proof);
  }
  for (const FenceDevice& entry : raise) {
    if (cancelled()) break;
    FenceDevice device = entry;
    Place place{method->name, device.name, round};
    (void)co_await Call(device, place, "on", AgentAnswer::kDone);
  }
  co_return true;
}

std::string FenceRun::Worker::NotSufficient() const {
  if (!OnlyCovered()) return "the storage step does not cover every volume of the victim";
  return "the reservation does not survive the array's power loss and the configuration does not accept that (accept_volatile, or a "
         "second device)";
}

Task<Result<FenceRun::Worker::OffReport>> FenceRun::Worker::Off(FenceDevice device, Place place) {
  auto retries = static_cast<uint32_t>(NumberOf(device, "agent_retries", policy.device_retries, kRetriesMax));
  Duration wait = SecondsOf(device, "agent_retry_wait", policy.retry_delay);
  Result<OffReport> out = Error(Errc::kCancelled, "cancelled");
  for (uint32_t attempt = 0; attempt <= retries; attempt++) {
    if (attempt > 0) {
      bool go_on = co_await Pause(wait);
      if (!go_on) break;
    }
    Task<Result<OffReport>> task = device.agent == "fence_pr"      ? StorageOff(place)
                                   : device.agent == "fence_local" ? LocalOff(device, place)
                                                                   : AgentOff(device, place);
    out = co_await task;
    if (out.ok() || device.agent == "fence_pr") break;
  }
  co_return out;
}

// One agent action that must give `wanted`; reported as a step.
Task<Status> FenceRun::Worker::Call(FenceDevice device, Place place, const char* action, AgentAnswer wanted) {
  if (cancelled()) co_return Error(Errc::kCancelled, run->why_);
  Instant begun = seams.executor->clock().Now();
  Started(place, action);
  auto report = co_await agents->Call(device, run->victim_.name, action, SecondsOf(device, "agent_timeout", policy.device_timeout));
  Status status;
  if (report.answer == AgentAnswer::kTimedOut) {
    status = Error(Errc::kTimeout, report.words);
  } else if (report.answer != wanted) {
    status = Error(Errc::kIo, report.answer == AgentAnswer::kOff ? "status OFF" : report.answer == AgentAnswer::kDone ? "status ON" : report.words);
  }
  Ended(place, action, begun, status, report.words);
  co_return status;
}

// A port that does not exist reads OFF (fence_ifmib): OFF counts only where ON has been seen.
Task<Status> FenceRun::Worker::SeenOn(FenceDevice device, Place place) {
  Instant begun = seams.executor->clock().Now();
  Started(place, "status");
  auto report = co_await agents->Call(device, run->victim_.name, "status", SecondsOf(device, "agent_timeout", policy.device_timeout));
  Status status;
  if (report.answer == AgentAnswer::kDone) {
    co_await seen->Mark(device, seams.executor->clock().Wall());
  } else if (report.answer == AgentAnswer::kOff) {
    if (!seen->Has(device)) status = Error(Errc::kNotFound, "reads OFF and was never seen ON: it may not exist");
  } else {
    status = Error(report.answer == AgentAnswer::kTimedOut ? Errc::kTimeout : Errc::kIo, report.words);
  }
  Ended(place, "status", begun, status, report.answer == AgentAnswer::kOff ? "OFF, seen ON before" : "ON");
  co_return status;
}

Task<Result<FenceRun::Worker::OffReport>> FenceRun::Worker::AgentOff(FenceDevice device, Place place) {
  auto metadata = co_await agents->Metadata(device, SecondsOf(device, "agent_timeout", policy.device_timeout));
  if (!metadata.ok()) {
    Ended(place, "metadata", seams.executor->clock().Now(), metadata.error());
    co_return metadata.error();
  }
  auto proof = device.attributes.find("proof");
  OffReport out;
  bool port = !metadata->cuts_power() || (proof != device.attributes.end() && proof->second == "port");
  out.kind = port ? ProofKind::kPort : ProofKind::kPower;
  bool has_status = metadata->actions.contains("status");
  if (port || !PlugOf(device).empty()) {
    if (!has_status) co_return Error(Errc::kUnsupported, device.agent + " has no status: its ports cannot be proven");
    auto seen_on = co_await SeenOn(device, place);
    if (!seen_on.ok()) co_return seen_on.error();
  }
  auto off = co_await Call(device, place, "off", AgentAnswer::kDone);
  if (!off.ok()) co_return off.error();
  if (has_status) {
    auto confirmed = co_await Call(device, place, "status", AgentAnswer::kOff);
    if (!confirmed.ok()) co_return confirmed.error();
  }
  out.words = has_status ? "off, confirmed OFF" : "off, by the agent's word (it has no status)";
  co_return out;
}

Task<Result<FenceRun::Worker::OffReport>> FenceRun::Worker::LocalOff(FenceDevice device, Place place) {
  if (!seams.local) co_return Error(Errc::kUnsupported, "fence_local is not available here");
  Instant begun = seams.executor->clock().Now();
  Started(place, "kill");
  Duration limit = SecondsOf(device, "agent_timeout", policy.device_timeout);
  std::function<bool()> stop = [this] { return cancelled(); };
  auto done = co_await seams.local->Isolate(device, limit, stop);
  Ended(place, "kill", begun, done.ok() ? Status{} : Status(done.error()), done.ok() ? *done : "");
  if (!done.ok()) co_return done.error();
  OffReport out;
  out.kind = ProofKind::kLocal;
  out.words = *done;
  co_return out;
}

Task<Result<FenceRun::Worker::OffReport>> FenceRun::Worker::StorageOff(Place place) {
  Instant begun = seams.executor->clock().Now();
  Instant end = begun + policy.storage_timeout;
  Status status;
  if (!StorageVolumes()) {
    status = Error(Errc::kUnsupported, "the victim uses no volume with reservations");
  }
  while (status.ok() && !storage_done_) {
    if (seams.executor->clock().Now() >= end) status = Error(Errc::kTimeout, "the storage step is not done yet");
    bool go_on = co_await Pause(Milliseconds(5));
    if (!go_on) status = Error(Errc::kCancelled, run->why_);
  }
  Ended(place, "storage step", begun, status);
  if (!status.ok()) co_return status.error();
  OffReport out;
  out.kind = ProofKind::kStorage;
  out.words = "preempted, drained, verified";
  co_return out;
}

}  // namespace holdfast::fence
