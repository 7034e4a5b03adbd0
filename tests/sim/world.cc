#include "tests/sim/world.h"

#include <algorithm>

// What a crashed process held is never freed, on purpose (world.h).
extern "C" const char* __asan_default_options();
extern "C" const char* __asan_default_options() { return "detect_leaks=0"; }

namespace holdfast::sim {
namespace {

constexpr int64_t kWallStart = 1'767'225'600;  // 2026-01-01T00:00:00Z

// Removes a function without destroying what it captured.
void Leak(std::function<void()>& fn) {
  if (fn) (void)new std::function<void()>(std::move(fn));
  fn = nullptr;
}

}  // namespace

uint64_t SimRandom::Next() {
  state_ += 0x9e3779b97f4a7c15;
  uint64_t z = state_;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

Instant SimClock::Now() const {
  uint64_t t = world_->now().ns;
  __int128 drift = static_cast<__int128>(t) * drift_ppm_ / kMillion;
  return {static_cast<uint64_t>(static_cast<int64_t>(t) + offset_ns_ + static_cast<int64_t>(drift))};
}

WallTime SimClock::Wall() const {
  uint64_t t = world_->now().ns;
  return {kWallStart + static_cast<int64_t>(t / 1'000'000'000), static_cast<uint32_t>(t % 1'000'000'000)};
}

Instant SimClock::ToWorld(Instant local) const {
  __int128 x = static_cast<__int128>(local.ns) - offset_ns_;
  if (x <= 0) return {0};
  __int128 world = x * kMillion / (kMillion + drift_ppm_);
  // Rounding may leave it a nanosecond or two early.
  return {static_cast<uint64_t>(world) + (drift_ppm_ == 0 ? 0 : 2)};
}

void SimExecutor::Post(std::function<void()> fn) {
  if (alive_) world_->Add(world_->now_, this, std::move(fn), {});
  else Leak(fn);
}
void SimExecutor::Post(std::coroutine_handle<> handle) {
  if (alive_) world_->Add(world_->now_, this, nullptr, handle);
}
TimerId SimExecutor::PostAt(Instant when, std::function<void()> fn) {
  if (!alive_) {
    Leak(fn);
    return 0;
  }
  Instant at = world_->ClockOf(node_).ToWorld(when);
  return world_->Add(at, this, std::move(fn), {});
}
void SimExecutor::Cancel(TimerId timer) { world_->Cancel(timer); }
Clock& SimExecutor::clock() { return world_->ClockOf(node_); }

void SimExecutor::Spawn(Task<void> task) {
  auto* root = new Task<void>(std::move(task));  // std::function wants copyable captures
  Post([root] {
    Detach(std::move(*root));
    delete root;
  });
}

// The seed is hashed: streams whose states differ by a multiple of SplitMix64's increment are one stream, shifted.
World::World(uint64_t seed, WorldKnobs knobs) : seed_(seed), knobs_(knobs), random_(SimRandom(seed).Next()) {}

World::~World() {
  for (Slot& slot : slots_) Leak(slot.fn);
}

World::Node& World::NodeOf(NodeId id) {
  Node& node = nodes_[id];
  if (!node.clock) {
    int64_t offset = knobs_.clock_offset_max.ns > 0
                         ? static_cast<int64_t>(random_.Below(static_cast<uint64_t>(knobs_.clock_offset_max.ns)))
                         : 0;
    int32_t max = knobs_.clock_drift_ppm_max;
    int32_t drift = max > 0 ? static_cast<int32_t>(random_.Below(static_cast<uint64_t>(2 * max + 1))) - max : 0;
    node.clock = std::make_unique<SimClock>(this, offset, drift);
  }
  return node;
}

SimClock& World::ClockOf(NodeId node) { return *NodeOf(node).clock; }

SimExecutor& World::Start(NodeId node) {
  NodeOf(node);
  executors_.emplace_back(new SimExecutor(this, node, executors_.size() + 1));
  return *executors_.back();
}

void World::CrashNode(NodeId id) {
  for (auto& executor : executors_)
    if (executor->node() == id) executor->Crash();
  Node& node = NodeOf(id);
  node.paused = false;
  for (uint32_t slot : node.held) FreeSlot(slot);
  node.held.clear();
}

void World::PauseNode(NodeId id) { NodeOf(id).paused = true; }

void World::ResumeNode(NodeId id) {
  Node& node = NodeOf(id);
  node.paused = false;
  for (uint32_t slot : node.held) ready_.push_back(slot);
  node.held.clear();
}

bool World::paused(NodeId id) const {
  auto it = nodes_.find(id);
  return it != nodes_.end() && it->second.paused;
}

TimerId World::At(Instant when, std::function<void()> fn) { return Add(when, nullptr, std::move(fn), {}); }

TimerId World::Add(Instant when, SimExecutor* executor, std::function<void()> fn, std::coroutine_handle<> handle) {
  uint32_t index;
  if (free_slots_.empty()) {
    index = static_cast<uint32_t>(slots_.size());
    slots_.emplace_back();
  } else {
    index = free_slots_.back();
    free_slots_.pop_back();
  }
  Slot& slot = slots_[index];
  slot.executor = executor;
  slot.fn = std::move(fn);
  slot.handle = handle;
  slot.cancelled = false;
  if (when <= now_) {
    ready_.push_back(index);
  } else {
    heap_.push_back({when.ns, ++seq_, index});
    std::push_heap(heap_.begin(), heap_.end());
  }
  return (uint64_t{slot.use} << 32) | (index + 1);
}

void World::Cancel(TimerId timer) {
  if (timer == 0) return;
  uint32_t index = static_cast<uint32_t>(timer) - 1;
  HF_CHECK(index < slots_.size(), "timer %llu was never given", static_cast<unsigned long long>(timer));
  Slot& slot = slots_[index];
  if (slot.use != static_cast<uint32_t>(timer >> 32)) return;  // has run
  slot.cancelled = true;
  slot.fn = nullptr;
}

void World::FreeSlot(uint32_t index) {
  Slot& slot = slots_[index];
  Leak(slot.fn);
  slot.handle = {};
  slot.executor = nullptr;
  ++slot.use;
  free_slots_.push_back(index);
}

void World::RunSlot(uint32_t index) {
  Slot& slot = slots_[index];
  SimExecutor* executor = slot.executor;
  if (slot.cancelled || (executor != nullptr && !executor->alive())) {
    FreeSlot(index);
    return;
  }
  if (executor != nullptr) {
    Node& node = NodeOf(executor->node());
    if (node.paused) {
      node.held.push_back(index);
      return;
    }
  }
  std::function<void()> fn = std::move(slot.fn);
  slot.fn = nullptr;
  std::coroutine_handle<> handle = slot.handle;
  FreeSlot(index);
  ++events_;
  HF_CHECK(++events_this_instant_ <= knobs_.events_per_instant_max, "seed %llu: livelock at %llu ns",
           static_cast<unsigned long long>(seed_), static_cast<unsigned long long>(now_.ns));
  Mix(now_.ns ^ ((executor != nullptr ? executor->id() : 0) << 56) ^ (handle ? 1 : 0));
  ExecutorTurn turn(executor);
  if (handle) handle.resume();
  else fn();
  if (executor != nullptr && !executor->alive()) Leak(fn);  // it crashed itself: its captures are gone with it
}

bool World::NextTime(uint64_t* when) const {
  if (!ready_.empty()) {
    *when = now_.ns;
    return true;
  }
  if (heap_.empty()) return false;
  *when = heap_.front().time;
  return true;
}

bool World::Step() {
  // What the heap holds for this very instant was posted before now became now: it precedes ready_.
  if (!heap_.empty() && (heap_.front().time == now_.ns || ready_.empty())) {
    Due due = heap_.front();
    std::pop_heap(heap_.begin(), heap_.end());
    heap_.pop_back();
    if (due.time != now_.ns) events_this_instant_ = 0;
    now_ = {due.time};
    RunSlot(due.slot);
    return true;
  }
  if (ready_.empty()) return false;
  uint32_t index = ready_.front();
  ready_.pop_front();
  RunSlot(index);
  return true;
}

void World::RunUntil(Instant when) {
  uint64_t next = 0;
  while (NextTime(&next) && next <= when.ns) Step();
  if (now_ < when) {
    now_ = when;
    events_this_instant_ = 0;
  }
}

bool World::RunUntil(const std::function<bool()>& condition, Duration limit) {
  Instant end = now_ + limit;
  uint64_t next = 0;
  while (!condition()) {
    if (!NextTime(&next) || next > end.ns) {
      if (now_ < end) now_ = end;
      events_this_instant_ = 0;
      return condition();
    }
    Step();
  }
  return true;
}

void World::Mix(uint64_t value) {
  hash_ = (hash_ ^ value) * 0x100000001b3;
  hash_ ^= hash_ >> 29;
}

void World::Mix(std::string_view text) {
  for (unsigned char c : text) Mix(uint64_t{c});
}

}  // namespace holdfast::sim
