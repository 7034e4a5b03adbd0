// The simulated world: one event heap ordered by (time, sequence), one seed, one trace hash. A SimExecutor is one life
// of one process on a simulated node: a restart is a new SimExecutor, so nothing of an old life can wake up in a new
// one. Crash drops everything queued for it without running destructors, as a power cut does; frames of a dead process
// are never resumed and never freed (RunSeeds in seeds.h bounds that memory by running batches of seeds in child
// processes). A paused node's events wait, its clock goes on.
// Threading: single-threaded. Determinism: nothing here depends on addresses or on hash table order.
#pragma once

#include <coroutine>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "base/executor.h"
#include "base/ids.h"
#include "base/random.h"
#include "base/sync.h"
#include "base/task.h"

namespace holdfast::sim {

inline constexpr uint32_t kMillion = 1'000'000;  // chances are given per million

// SplitMix64: small, fast, good enough for schedules.
class SimRandom final : public Random {
 public:
  explicit SimRandom(uint64_t seed) : state_(seed) {}
  uint64_t Next() override;
  bool Chance(uint32_t per_million) { return per_million > 0 && Below(kMillion) < per_million; }
  // Uniform in [low, high].
  uint64_t Between(uint64_t low, uint64_t high) { return low + Below(high - low + 1); }
  Duration Between(Duration low, Duration high) {
    return {static_cast<int64_t>(Between(static_cast<uint64_t>(low.ns), static_cast<uint64_t>(high.ns)))};
  }

 private:
  uint64_t state_;
};

class World;

// The clock of one node: the world's time through an offset and a drift.
class SimClock final : public Clock {
 public:
  SimClock(const World* world, int64_t offset_ns, int32_t drift_ppm)
      : world_(world), offset_ns_(offset_ns), drift_ppm_(drift_ppm) {}
  Instant Now() const override;
  WallTime Wall() const override;
  // The first world time at which Now() >= local.
  Instant ToWorld(Instant local) const;

 private:
  const World* world_;
  int64_t offset_ns_;
  int32_t drift_ppm_;
};

class SimExecutor final : public Executor {
 public:
  void Post(std::function<void()> fn) override;
  void Post(std::coroutine_handle<> handle) override;
  TimerId PostAt(Instant when, std::function<void()> fn) override;
  void Cancel(TimerId timer) override;
  Clock& clock() override;

  World& world() { return *world_; }
  NodeId node() const { return node_; }
  uint64_t id() const { return id_; }  // counts executors of this world, from 1
  bool alive() const { return alive_; }
  // This process dies: nothing of it ever runs again.
  void Crash() { alive_ = false; }
  // Starts a task as this process; it runs from the ready queue. For test roots.
  void Spawn(Task<void> task);

 private:
  friend class World;
  SimExecutor(World* world, NodeId node, uint64_t id) : world_(world), node_(node), id_(id) {}
  World* world_;
  NodeId node_;
  uint64_t id_;
  bool alive_ = true;
};

struct WorldKnobs {
  Duration clock_offset_max = Seconds(1000);  // each node's clock starts somewhere in [0, max]
  int32_t clock_drift_ppm_max = 100;
  uint64_t events_per_instant_max = 1'000'000;  // more at one instant is a livelock: HF_CHECK with the seed
};

class World {
 public:
  explicit World(uint64_t seed, WorldKnobs knobs = {});
  ~World();
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  uint64_t seed() const { return seed_; }
  SimRandom& random() { return random_; }
  Instant now() const { return now_; }
  // A new process on that node. The executor lives as long as the world.
  SimExecutor& Start(NodeId node);
  // Every process of that node dies.
  void CrashNode(NodeId node);
  // The node stops running (SIGSTOP, a hung virtual machine) and goes on later with everything that came meanwhile.
  void PauseNode(NodeId node);
  void ResumeNode(NodeId node);
  bool paused(NodeId node) const;
  SimClock& ClockOf(NodeId node);

  // The world's own events (wires, disks, faults, checkers); they run with no current executor.
  TimerId At(Instant when, std::function<void()> fn);
  TimerId After(Duration delay, std::function<void()> fn) { return At(now_ + delay, std::move(fn)); }
  void Cancel(TimerId timer);

  // Runs the next event; false when there is none.
  bool Step();
  void RunUntil(Instant when);
  void RunFor(Duration duration) { RunUntil(now_ + duration); }
  // Runs until condition() holds (asked after each event) or the time is over; returns condition().
  bool RunUntil(const std::function<bool()>& condition, Duration limit);
  // Runs one task on an executor to its end and returns its value; HF_CHECKs that it ends within the limit.
  template <class T>
  T Run(SimExecutor& executor, Task<T> task, Duration limit = Seconds(3600));
  void Run(SimExecutor& executor, Task<void> task, Duration limit = Seconds(3600));

  // Keeps a dead process's objects in memory without ever destroying them.
  template <class T>
  void Abandon(std::unique_ptr<T> object) {
    (void)object.release();
  }

  // Two runs of one seed have equal hashes, or something is not deterministic.
  void Mix(uint64_t value);
  void Mix(std::string_view text);
  uint64_t trace_hash() const { return hash_; }
  uint64_t events() const { return events_; }

 private:
  friend class SimExecutor;
  struct Slot {
    SimExecutor* executor = nullptr;  // nullptr: the world's own
    std::function<void()> fn;
    std::coroutine_handle<> handle;
    uint32_t use = 0;
    bool cancelled = false;
  };
  struct Due {
    uint64_t time;
    uint64_t seq;
    uint32_t slot;
    bool operator<(const Due& o) const { return time != o.time ? time > o.time : seq > o.seq; }
  };
  struct Node {
    std::unique_ptr<SimClock> clock;
    bool paused = false;
    std::deque<uint32_t> held;  // came due while paused
  };

  TimerId Add(Instant when, SimExecutor* executor, std::function<void()> fn, std::coroutine_handle<> handle);
  Node& NodeOf(NodeId node);
  void RunSlot(uint32_t index);
  void FreeSlot(uint32_t index);
  bool NextTime(uint64_t* when) const;

  uint64_t seed_;
  WorldKnobs knobs_;
  SimRandom random_;
  Instant now_{1'000'000'000};
  uint64_t seq_ = 0;
  uint64_t events_ = 0;
  uint64_t events_this_instant_ = 0;
  uint64_t hash_ = 0xcbf29ce484222325;
  std::vector<Due> heap_;
  std::deque<uint32_t> ready_;  // due now, posted during now: after everything in the heap that is due now
  std::vector<Slot> slots_;
  std::vector<uint32_t> free_slots_;
  std::map<NodeId, Node> nodes_;
  std::vector<std::unique_ptr<SimExecutor>> executors_;
};

namespace world_internal {
template <class T>
Task<void> Capture(Task<T> task, std::optional<T>* out) {
  auto value = co_await task;
  out->emplace(std::move(value));
}
inline Task<void> Capture(Task<void> task, bool* done) {
  co_await task;
  *done = true;
}
}  // namespace world_internal

template <class T>
T World::Run(SimExecutor& executor, Task<T> task, Duration limit) {
  auto* out = new std::optional<T>;  // outlives a run that fails below
  executor.Spawn(world_internal::Capture(std::move(task), out));
  bool ended = RunUntil([out] { return out->has_value(); }, limit);
  HF_CHECK(ended, "seed %llu: the task did not end in %lld ms", static_cast<unsigned long long>(seed_),
           static_cast<long long>(limit.ms()));
  T value = std::move(**out);
  delete out;
  return value;
}

inline void World::Run(SimExecutor& executor, Task<void> task, Duration limit) {
  bool* done = new bool(false);
  executor.Spawn(world_internal::Capture(std::move(task), done));
  bool ended = RunUntil([done] { return *done; }, limit);
  HF_CHECK(ended, "seed %llu: the task did not end in %lld ms", static_cast<unsigned long long>(seed_),
           static_cast<long long>(limit.ms()));
  delete done;
}

}  // namespace holdfast::sim
