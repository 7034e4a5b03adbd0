#include "cluster/daemon/timeline.h"

#include <algorithm>
#include <cstdio>
#include <ctime>

#include "base/control.pb.h"
#include "base/log.h"
#include "cluster/control_codec.h"

namespace holdfast::cluster {
namespace {

constexpr char kRecoveryPrefix[] = "history/r/", kEventPrefix[] = "history/e/";

std::string Serialized(const StatusTree& tree) {
  control::StatusNode node;
  ToProto(tree, &node);
  return node.SerializeAsString();
}

std::string ChildValue(const StatusTree& tree, std::string_view name) {
  for (const auto& child : tree.children)
    if (child.name == name) return child.value;
  return "";
}

}  // namespace

const char* PhaseName(Phase phase) {
  switch (phase) {
    case Phase::kLastHeard: return "last heard";
    case Phase::kDetected: return "detected";
    case Phase::kDecided: return "decided";
    case Phase::kFencing: return "fencing";
    case Phase::kFenced: return "fenced";
    case Phase::kLocksRebuilt: return "locks rebuilt";
    case Phase::kReplayStarted: return "replay started";
    case Phase::kReplayed: return "replayed";
    case Phase::kReadersEnded: return "readers ended";
    case Phase::kResumed: return "resumed";
  }
  return "?";
}

std::string Timeline::WallText(Duration before) const {
  WallTime wall = executor_->clock().Wall();
  int64_t ns = wall.seconds * 1'000'000'000 + wall.nanoseconds - before.ns;
  time_t seconds = static_cast<time_t>(ns / 1'000'000'000);
  tm parts{};
  ::gmtime_r(&seconds, &parts);
  char text[64];
  size_t n = std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &parts);
  std::snprintf(text + n, sizeof text - n, ".%03dZ", static_cast<int>(ns / 1'000'000 % 1000));
  return text;
}

std::string Timeline::NewKey(const char* prefix) {
  WallTime wall = executor_->clock().Wall();
  char text[64];
  std::snprintf(text, sizeof text, "%s%016llx.%04llx", prefix,
                static_cast<unsigned long long>(wall.seconds * 1'000'000'000 + wall.nanoseconds),
                static_cast<unsigned long long>(serial_++ & 0xffff));
  return text;
}

Task<void> Timeline::Load() {
  auto recoveries = co_await store_->Scan(kRecoveryPrefix, 100000);
  auto events = co_await store_->Scan(kEventPrefix, 100000);
  if (!recoveries.ok() || !events.ok()) {
    HF_LOG(LogLevel::kWarn, "history", "not_read");
    co_return;
  }
  for (const auto& [key, value] : *recoveries) {
    control::StatusNode node;
    if (!node.ParseFromString(value)) continue;
    StatusTree tree = FromProto(node);
    Recovery recovery{key, ChildValue(tree, "at"), ChildValue(tree, "victim"), ChildValue(tree, "reason"), {}, {}};
    for (const auto& child : tree.children) {
      if (child.name != "phases") continue;
      for (const auto& p : child.children)
        recovery.marks.push_back({ChildValue(p, "phase"), ChildValue(p, "detail"), std::atoll(ChildValue(p, "ms").c_str())});
    }
    recoveries_.push_back(std::move(recovery));
  }
  for (const auto& [key, value] : *events) {
    control::StatusNode node;
    if (!node.ParseFromString(value)) continue;
    StatusTree tree = FromProto(node);
    events_.push_back({key, ChildValue(tree, "at"), ChildValue(tree, "what"), ChildValue(tree, "detail")});
  }
}

StatusTree Timeline::ToTree(const Recovery& recovery) {
  StatusTree tree("recovery");
  tree.Add("at", recovery.at);
  tree.Add("victim", recovery.victim);
  tree.Add("reason", recovery.reason);
  StatusTree& phases = tree.Add("phases", "[]");
  for (const auto& m : recovery.marks) {
    StatusTree& phase = phases.Add("phase");
    phase.Add("phase", m.phase);
    phase.Add("ms", std::to_string(m.ms));
    phase.Add("detail", m.detail);
  }
  return tree;
}

void Timeline::Begin(const std::string& victim, const std::string& reason, Instant zero) {
  if (open_.contains(victim)) return;
  Instant now = executor_->clock().Now();
  if (zero.ns == 0 || zero > now) zero = now;
  Recovery recovery{NewKey(kRecoveryPrefix), WallText(now - zero), victim, reason, zero, {}};
  recovery.marks.push_back({PhaseName(Phase::kLastHeard), "", 0});
  open_[victim] = recovery.key;
  std::string drop;
  if (recoveries_.size() >= kRecoveriesMax) {
    drop = recoveries_.front().key;
    recoveries_.pop_front();
  }
  recoveries_.push_back(std::move(recovery));
  Save(recoveries_.back().key, ToTree(recoveries_.back()), drop);
}

void Timeline::Note(const std::string& victim, Phase phase, const std::string& detail) {
  NoteAt(victim, phase, detail, executor_->clock().Now());
}

void Timeline::NoteAt(const std::string& victim, Phase phase, const std::string& detail, Instant when) {
  auto open = open_.find(victim);
  if (open == open_.end()) return;
  auto it = std::find_if(recoveries_.rbegin(), recoveries_.rend(), [&](const Recovery& r) { return r.key == open->second; });
  if (it == recoveries_.rend() || it->marks.size() >= kPhasesMax) return;
  for (const auto& m : it->marks)
    if (m.phase == PhaseName(phase) && m.detail == detail) return;
  int64_t ms = when > it->zero ? (when - it->zero).ms() : 0;
  auto place = std::upper_bound(it->marks.begin(), it->marks.end(), ms, [](int64_t a, const Mark& b) { return a < b.ms; });
  it->marks.insert(place, {PhaseName(phase), detail, ms});
  HF_LOG(LogLevel::kInfo, "recovery", PhaseName(phase), {{"victim", victim}, {"ms", ms}, {"detail", detail}});
  Save(it->key, ToTree(*it), "");
}

void Timeline::Event(const std::string& what, const std::string& detail) {
  Single single{NewKey(kEventPrefix), WallText(Duration{}), what, detail};
  StatusTree tree("event");
  tree.Add("at", single.at);
  tree.Add("what", what);
  tree.Add("detail", detail);
  std::string drop;
  if (events_.size() >= kEventsMax) {
    drop = events_.front().key;
    events_.pop_front();
  }
  Save(single.key, tree, drop);
  events_.push_back(std::move(single));
}

void Timeline::Save(std::string key, const StatusTree& tree, const std::string& drop) {
  KvBatch batch;
  batch.puts.emplace_back(std::move(key), Serialized(tree));
  if (!drop.empty()) batch.deletes.push_back(drop);
  scope_.Spawn(Write(std::move(batch)));
}

Task<void> Timeline::Write(KvBatch batch) {
  auto guard = co_await writing_.Lock();
  Status written = co_await store_->Write(std::move(batch), false);
  if (!written.ok()) HF_LOG(LogLevel::kWarn, "history", "not_written", {{"error", written.error().ToString()}});
}

StatusTree Timeline::Show(size_t limit) const {
  StatusTree tree("history");
  StatusTree& recoveries = tree.Add("recoveries", "[]");
  size_t skip = recoveries_.size() > limit ? recoveries_.size() - limit : 0;
  for (size_t i = skip; i < recoveries_.size(); ++i) recoveries.children.push_back(ToTree(recoveries_[i]));
  StatusTree& events = tree.Add("events", "[]");
  skip = events_.size() > limit ? events_.size() - limit : 0;
  for (size_t i = skip; i < events_.size(); ++i) {
    StatusTree& event = events.Add("event");
    event.Add("at", events_[i].at);
    event.Add("what", events_[i].what);
    event.Add("detail", events_[i].detail);
  }
  return tree;
}

}  // namespace holdfast::cluster
