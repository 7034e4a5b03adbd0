#include "tests/whole/plan.h"

#include <algorithm>

#include "tests/whole/run.h"

namespace holdfast::whole {

using sim::SimRandom;

const char* FaultName(FaultKind kind) {
  static const char* const kNames[kFaultKinds] = {"power-off", "kill-daemon", "kill-mount", "pause", "cut", "cut-one-way",
                                                  "isolate", "disk-path", "switch", "remount", "rejoin", "blackout", "wipe",
                                                  "disk-errors", "disk-hangs", "array-power", "clog"};
  return kNames[static_cast<int>(kind)];
}

std::vector<std::string> FaultKinds() {
  std::vector<std::string> out;
  for (int i = 0; i < kFaultKinds; ++i) out.emplace_back(FaultName(static_cast<FaultKind>(i)));
  return out;
}

std::string ToString(const Fault& f) {
  std::string out = "at " + std::to_string(f.at.ms()) + " ms " + FaultName(f.kind) + " n" + std::to_string(f.a.v);
  if (f.kind == FaultKind::kCut || f.kind == FaultKind::kCutOneWay || f.kind == FaultKind::kClog) out += " n" + std::to_string(f.b.v);
  if (f.kind == FaultKind::kSwitch) out += f.how == Switch::kFails ? " fails" : f.how == Switch::kHangs ? " hangs" : f.how == Switch::kLate ? " late" : " works";
  else if (f.kind != FaultKind::kArrayPower && f.length.ns > 0) out += " for " + std::to_string(f.length.ms()) + " ms";
  if (f.kind >= FaultKind::kDiskErrors && f.share > 0) out += " share " + std::to_string(f.share);
  return out;
}

namespace {

NodeId AnyOf(SimRandom& random, uint32_t nodes) { return NodeId(1 + static_cast<uint32_t>(random.Below(nodes))); }

void Weather(SimRandom& random, Plan* plan) {
  plan->cluster.network = sim::NetworkKnobs::Random(random);
  plan->cluster.disk = sim::DiskKnobs::Random(random);
  plan->cluster.disk.slow_max = std::min(plan->cluster.disk.slow_max, Milliseconds(400));
  plan->cluster.disk.crash_late_max = random.Between(Milliseconds(100), Seconds(3));
  plan->cluster.power = random.Chance(500'000);
  plan->cluster.disk.persist_through_power_loss = !random.Chance(250'000);
  // Above the slowest answer: a healthy path loses no session. The limit of a stall is three commands' time, as in production.
  plan->cluster.array.command_timeout = random.Between(Seconds(2), Seconds(20));
  plan->cluster.array.stall_limit = plan->cluster.array.command_timeout * 3;
  plan->cluster.array.image = random.Chance(150'000);
  plan->cluster.spare_journals = static_cast<uint32_t>(random.Below(2));
  // On a small volume blocks are used again soon.
  plan->cluster.data_mib = random.Chance(400'000) ? 8 : 64;
  plan->cluster.restart_delay = random.Between(Milliseconds(50), Seconds(1));
  plan->cluster.boot_time = random.Between(Milliseconds(300), Seconds(3));
}

using Weights = std::vector<std::pair<FaultKind, uint32_t>>;

// What each scenario is about; every one of them ends with healing and the same checks.
const Weights& WeightsOf(const std::string& scenario) {
  static const std::vector<std::pair<std::string, Weights>> kScenarios = {
      {"storm",
       {{FaultKind::kPowerOff, 5}, {FaultKind::kKillDaemon, 3}, {FaultKind::kKillMount, 4}, {FaultKind::kPause, 3}, {FaultKind::kCut, 2},
        {FaultKind::kCutOneWay, 1}, {FaultKind::kIsolate, 2}, {FaultKind::kDiskPath, 1}, {FaultKind::kSwitch, 2}, {FaultKind::kRemount, 3},
        {FaultKind::kRejoin, 2}, {FaultKind::kBlackout, 1}, {FaultKind::kWipe, 1}, {FaultKind::kDiskErrors, 1}, {FaultKind::kDiskHangs, 1},
        {FaultKind::kArrayPower, 1}, {FaultKind::kClog, 2}}},
      {"mounts", {{FaultKind::kKillMount, 5}, {FaultKind::kRemount, 5}, {FaultKind::kKillDaemon, 1}}},
      {"zombie", {{FaultKind::kPause, 6}, {FaultKind::kIsolate, 2}, {FaultKind::kPowerOff, 1}}},
      {"split", {{FaultKind::kCut, 3}, {FaultKind::kCutOneWay, 3}, {FaultKind::kIsolate, 3}, {FaultKind::kDiskPath, 2}, {FaultKind::kClog, 3}}},
      {"array",
       {{FaultKind::kArrayPower, 5}, {FaultKind::kDiskErrors, 3}, {FaultKind::kDiskHangs, 4}, {FaultKind::kDiskPath, 2}, {FaultKind::kPowerOff, 1},
        {FaultKind::kKillMount, 1}, {FaultKind::kPause, 1}}},
      {"blackout", {{FaultKind::kBlackout, 3}, {FaultKind::kPowerOff, 2}, {FaultKind::kKillMount, 1}}},
      // The reservation's maker leaves in good order, then somebody wakes up whom the others have fenced.
      {"leave", {{FaultKind::kRejoin, 4}, {FaultKind::kRemount, 2}, {FaultKind::kPause, 5}}},
      {"image", {{FaultKind::kPowerOff, 4}, {FaultKind::kKillMount, 5}, {FaultKind::kKillDaemon, 2}, {FaultKind::kPause, 3}, {FaultKind::kIsolate, 1}}},
      {"churn", {{FaultKind::kRejoin, 5}, {FaultKind::kRemount, 3}, {FaultKind::kKillDaemon, 2}, {FaultKind::kWipe, 1}}},
  };
  for (const auto& [name, weights] : kScenarios)
    if (name == scenario) return weights;
  return kScenarios[0].second;
}

Fault AnyFault(SimRandom& random, uint32_t nodes, bool power, bool image, const Weights& weights) {
  uint64_t total = 0;
  for (const auto& [kind, weight] : weights) total += weight;
  Fault f;
  uint64_t luck = random.Below(total);
  for (const auto& [kind, weight] : weights) {
    f.kind = kind;
    if (luck < weight) break;
    luck -= weight;
  }
  f.a = AnyOf(random, nodes);
  f.b = NodeId(1 + (f.a.v - 1 + 1 + static_cast<uint32_t>(random.Below(nodes - 1))) % nodes);
  f.length = random.Between(Milliseconds(50), Seconds(4));
  f.how = static_cast<Switch>(random.Below(4));
  static constexpr uint32_t kShares[] = {2'000, 20'000, 200'000, 1'000'000};
  static constexpr uint32_t kKept[] = {0, 100'000, 500'000, 950'000};
  size_t share = random.Below(4);
  f.share = f.kind == FaultKind::kArrayPower ? kKept[share] : kShares[share];
  if (f.kind == FaultKind::kSwitch && !power) f.kind = FaultKind::kKillMount;
  if (image && (f.kind == FaultKind::kArrayPower || f.kind == FaultKind::kDiskHangs)) f.kind = FaultKind::kPowerOff;
  if ((f.kind == FaultKind::kDiskErrors || f.kind == FaultKind::kDiskHangs) && random.Chance(200'000)) f.a = NodeId(0);  // the array's
  return f;
}

void Storm(SimRandom& random, Plan* plan, const Weights& weights) {
  plan->length = random.Between(Seconds(3), Seconds(8));
  uint64_t count = random.Between(1, 6);
  for (uint64_t i = 0; i < count; ++i) {
    Fault f = AnyFault(random, plan->cluster.nodes, plan->cluster.power, plan->cluster.array.image, weights);
    f.at = random.Between(Milliseconds(100), plan->length);
    plan->faults.push_back(f);
    // Often a second one hits while the first is being dealt with.
    if (random.Chance(300'000)) {
      Fault again = AnyFault(random, plan->cluster.nodes, plan->cluster.power, plan->cluster.array.image, weights);
      again.at = f.at + random.Between(Milliseconds(1), Milliseconds(1500));
      plan->faults.push_back(again);
    }
  }
}

// Two machines die within a second of each other and stay dead for a while.
void DoubleKill(SimRandom& random, Plan* plan) {
  plan->length = Seconds(12);
  Fault first, second;
  first.kind = second.kind = FaultKind::kPowerOff;
  first.a = AnyOf(random, plan->cluster.nodes);
  second.a = NodeId(1 + (first.a.v - 1 + 1 + static_cast<uint32_t>(random.Below(plan->cluster.nodes - 1))) % plan->cluster.nodes);
  first.at = random.Between(Milliseconds(500), Seconds(2));
  second.at = first.at + random.Between(Milliseconds(1), Seconds(1));
  first.length = second.length = Seconds(60);
  plan->faults = {first, second};
}

}  // namespace

std::vector<std::string> Scenarios() { return {"storm", "double-kill", "mounts", "zombie", "split", "blackout", "churn", "array", "image", "leave", "calm", "all"}; }

Plan MakePlan(uint64_t seed, const std::string& scenario, uint32_t nodes) {
  SimRandom random(SimRandom(seed ^ 0x706c616e).Next());
  Plan plan;
  if (scenario == "all") {
    auto every = Scenarios();
    return MakePlan(seed, every[seed % (every.size() - 2)], nodes);  // all but calm and itself
  }
  uint64_t luck = random.Below(100);
  plan.cluster.nodes = luck < 15 ? 2 : luck < 55 ? 3 : luck < 70 ? 4 : luck < 95 ? 5 : static_cast<uint32_t>(random.Between(6, 16));
  if (nodes != 0) plan.cluster.nodes = nodes;
  plan.cluster.timing.post_join_delay = random.Between(Milliseconds(500), Seconds(3));
  if (scenario == "calm") {
    plan.length = Seconds(2);
    return plan;
  }
  Weather(random, &plan);
  if (scenario == "image") plan.cluster.array.image = true;
  if (scenario == "leave") plan.cluster.array.image = plan.cluster.power = false;
  if (scenario == "double-kill") {
    if (nodes == 0) plan.cluster.nodes = 3;
    DoubleKill(random, &plan);
  } else {
    Storm(random, &plan, WeightsOf(scenario));
  }
  std::stable_sort(plan.faults.begin(), plan.faults.end(), [](const Fault& a, const Fault& b) { return a.at < b.at; });
  return plan;
}

}  // namespace holdfast::whole
