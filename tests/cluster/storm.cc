// Faults at random, and the calm after them. See storm.h.
#include "tests/cluster/storm.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "base/log.h"

namespace holdfast::cluster {

using sim::SimRandom;
using sim::World;

namespace {

struct Weather {
  World& world;
  SimCluster& cluster;
  StormOptions options;
  uint32_t nodes;
  bool wiped = false;
  uint32_t busy = 0;

  SimRandom& random() { return world.random(); }
  NodeId Any() { return NodeId(1 + static_cast<uint32_t>(random().Below(nodes))); }

  void Act() {
    static const char* const kNames[] = {"kill", "kill", "start", "start", "restart", "cut_one_way", "cut", "heal_all",
                                         "disk_path", "power_loss", "pause", "wipe"};
    NodeId a = Any(), b = Any();
    auto what = random().Below(12);
    HF_LOG(LogLevel::kDebug, "storm", kNames[what], {{"a", a}, {"b", b}});
    switch (what) {
      case 0:
      case 1:
        cluster.Kill(a);
        break;
      case 2:
      case 3:
        if (!cluster.up(a)) cluster.StartNode(a);
        break;
      case 4:  // a quick restart: what the old life sent may still be under way
        if (world.paused(a)) break;
        cluster.Kill(a);
        cluster.StartNode(a);
        break;
      case 5:
        if (a != b) cluster.network.CutOneWay(a, b);
        break;
      case 6:
        if (a != b) cluster.network.Cut(a, b);
        break;
      case 7:
        cluster.network.HealAll();
        break;
      case 8:
        if (cluster.disk) {
          if (random().Chance(500'000)) cluster.disk->CutPath(a);
          else for (uint32_t n = 1; n <= nodes; ++n) cluster.disk->HealPath(NodeId(n));
        }
        break;
      case 9:
        if (cluster.disk && random().Chance(500'000)) cluster.disk->PowerLoss();
        break;
      case 10:
        if (!world.paused(a)) {
          world.PauseNode(a);
          world.After(random().Between(Milliseconds(100), Seconds(4)), [this, a] {
            if (world.paused(a)) world.ResumeNode(a);
          });
        }
        break;
      case 11:
        // One memory per storm: more could be a majority. Everybody's storage id is listed by then.
        if (!wiped && !world.paused(a)) {
          wiped = true;
          cluster.Kill(a);
          cluster.media.at(a.v)->Wipe();
          if (random().Chance(700'000)) cluster.StartNode(a);
        }
        break;
    }
  }
  // Members mount and unmount all the time: the register moves.
  Task<void> Work(SimLife* life) {
    Engine* engine = life->engine.get();
    LockspaceJoinArgs join;
    join.change = engine->NewChangeId();
    join.by = engine->self();
    join.name = "fs" + std::to_string(world.random().Below(2));
    join.volume_uuid = "u" + join.name;
    join.nonce = engine->NewChangeId();
    join.address = "x";
    join.mounts_max = 16;
    ChangeOptions how;
    how.limit = Seconds(2);
    ChangeFn change = [join](const ClusterState& s) { return LockspaceJoin(s, join); };
    auto joining = engine->Change(std::move(change), how);
    auto joined = co_await std::move(joining);
    if (joined.ok()) {
      MemberId id{join.by.node, join.by.incarnation, join.nonce};
      if (FindLockspaceMember(**joined, join.name, id) == nullptr && IsMember(**joined, join.by)) cluster.Violate("a mount that was told it joined is not in");
      co_await SleepFor(Milliseconds(static_cast<int64_t>(world.random().Below(500))));
      LockspaceArgs leave{engine->NewChangeId(), join.name, id};
      ChangeFn out = [leave](const ClusterState& s) { return LockspaceLeave(s, leave); };
      auto leaving = engine->Change(std::move(out), how);
      auto left = co_await std::move(leaving);
      (void)left;
    }
    --busy;
  }
  void MaybeWork() {
    NodeId a = Any();
    if (!cluster.up(a) || !cluster.life(a)->engine->member()) return;
    ++busy;
    cluster.life(a)->executor->Spawn(Work(cluster.life(a)));
  }
  // What a service manager does: an evicted daemon starts anew.
  void Respawn() {
    for (uint32_t n = 1; n <= nodes; ++n) {
      NodeId node(n);
      if (world.paused(node)) continue;
      if (cluster.up(node) && (cluster.life(node)->evicted || !cluster.life(node)->started.ok())) {
        cluster.Kill(node);
        cluster.StartNode(node);
      }
    }
  }
  void RespawnDead() {
    for (uint32_t n = 1; n <= nodes; ++n)
      if (!cluster.up(NodeId(n)) && !world.paused(NodeId(n))) cluster.StartNode(NodeId(n));
  }
};

}  // namespace

StormResult Storm(uint64_t seed, StormOptions options) {
  StormResult result;
  World world(seed);
  if (getenv("HOLDFAST_SEED") != nullptr) {  // one seed, for reading: every line with the world's time
    SetLogLevel(LogLevel::kDebug);
    SetLogSink([&world](LogLevel, const std::string& line) {
      fprintf(stderr, "%8.3f %s\n", static_cast<double>(world.now().ns) / 1e9, line.c_str());
    });
  }
  SimRandom& random = world.random();
  SimClusterOptions how;
  how.nodes = static_cast<uint32_t>(random.Between(uint64_t{2}, uint64_t{5}));
  if (how.nodes > 3 && random.Chance(600'000)) how.nodes -= 2;
  how.disk = how.nodes == 2 || random.Chance(700'000);
  how.mutants = options.mutants;
  SimCluster cluster(&world, how);
  if (!cluster.Bring()) {
    result.wrong = cluster.violation();
    return result;
  }
  cluster.network.knobs() = sim::NetworkKnobs::Random(random);
  if (cluster.disk) cluster.disk->knobs() = sim::DiskKnobs::Random(random);
  if (cluster.disk && random.Chance(300'000)) cluster.disk->knobs().read_error = 2'000;
  if (options.fierce) {
    cluster.network.knobs().slow = 50'000;
    cluster.network.knobs().slow_max = Seconds(2);
    if (cluster.disk) {
      cluster.disk->knobs().crash_late = 900'000;
      cluster.disk->knobs().crash_late_max = Seconds(2);
      cluster.disk->knobs().slow = 20'000;
      cluster.disk->knobs().read_error = 10'000;
    }
  }
  auto weather = std::make_unique<Weather>(Weather{world, cluster, options, how.nodes});
  Instant end = world.now() + options.length;
  Instant next_fault = world.now(), next_work = world.now();
  while (world.now() < end && cluster.violation().empty()) {
    if (world.now() >= next_fault) {
      weather->Act();
      next_fault = world.now() + (options.fierce ? random.Between(Milliseconds(20), Milliseconds(400))
                                                 : random.Between(Milliseconds(50), Milliseconds(1500)));
    }
    if (world.now() >= next_work) {
      weather->MaybeWork();
      next_work = world.now() + random.Between(Milliseconds(10), Milliseconds(300));
    }
    weather->Respawn();
    world.RunUntil(std::min(next_fault, next_work));
  }
  HF_LOG(LogLevel::kDebug, "storm", "calm");
  // The calm: everything is healed, and one group forms and stays.
  cluster.network.knobs() = {};
  if (cluster.disk) cluster.disk->knobs().read_error = cluster.disk->knobs().write_error = cluster.disk->knobs().slow = 0;
  cluster.Heal();
  Instant limit = world.now() + Seconds(60);
  while (world.now() < limit && cluster.violation().empty() && !cluster.Settled()) {
    weather->Respawn();
    weather->RespawnDead();
    world.RunUntil([&] { return cluster.Settled(); }, Milliseconds(200));
  }
  // What was decided on in the last moments of the storm may still come.
  if (cluster.Settled()) world.RunFor(Seconds(2));
  while (world.now() < limit && cluster.violation().empty() && !cluster.Settled()) {
    weather->Respawn();
    weather->RespawnDead();
    world.RunUntil([&] { return cluster.Settled(); }, Milliseconds(200));
  }
  if (cluster.violation().empty() && !cluster.Settled()) cluster.Violate("no calm after the storm: " + cluster.Dump());
  if (cluster.violation().empty()) {
    uint64_t evictions = cluster.evictions;
    HF_LOG(LogLevel::kDebug, "storm", "settled");
    world.RunFor(Seconds(3));
    if (cluster.evictions != evictions || !cluster.AllMembers()) cluster.Violate("the calm does not last: " + cluster.Dump());
  }
  result.wrong = cluster.violation();
  result.trace = world.trace_hash();
  result.versions = cluster.newest_version();
  result.evictions = cluster.evictions;
  world.Abandon(std::move(weather));
  SetLogSink(nullptr);
  return result;
}

}  // namespace holdfast::cluster
