#include <catch2/catch.hpp>

#include <set>

#include "tests/sim/world.h"

#include "tests/sim/kv_store.h"
#include "tests/sim/network.h"
#include "tests/sim/pool.h"
#include "tests/sim/seeds.h"

using namespace holdfast;
using namespace holdfast::sim;

TEST_CASE("sim: events run in order of time, then of posting", "[sim][unit]") {
  World world(1);
  SimExecutor& a = world.Start(NodeId(1));
  std::string log;
  world.After(Milliseconds(2), [&] { log += "c"; });
  world.After(Milliseconds(1), [&] {
    log += "a";
    a.Post([&] { log += "b"; });
  });
  world.After(Milliseconds(1), [&] { log += "x"; });
  TimerId never = world.After(Milliseconds(1), [&] { log += "!"; });
  world.Cancel(never);
  world.RunFor(Seconds(1));
  CHECK(log == "axbc");
}

TEST_CASE("sim: a timer is never early on a drifting clock", "[sim][unit]") {
  for (uint64_t seed = 1; seed < 200; ++seed) {
    World world(seed);
    SimExecutor& a = world.Start(NodeId(1));
    bool ran = false;
    Instant when = a.clock().Now() + Milliseconds(1500);
    a.PostAt(when, [&] {
      ran = true;
      CHECK(a.clock().Now() >= when);
      CHECK(a.clock().Now() - when < Microseconds(1));
    });
    world.RunFor(Seconds(2));
    CHECK(ran);
  }
}

TEST_CASE("sim: a crashed process never runs again, its successor does", "[sim][unit]") {
  World world(1);
  SimExecutor& old_life = world.Start(NodeId(1));
  SimExecutor& new_life = world.Start(NodeId(1));
  int old_runs = 0, new_runs = 0;
  old_life.Post([&] { ++old_runs; });
  old_life.Crash();
  old_life.Post([&] { ++old_runs; });
  new_life.Post([&] { ++new_runs; });
  world.RunFor(Seconds(1));
  CHECK(old_runs == 0);
  CHECK(new_runs == 1);
}

TEST_CASE("sim: a paused node catches up in order", "[sim][unit]") {
  World world(1);
  SimExecutor& a = world.Start(NodeId(1));
  std::string log;
  world.PauseNode(NodeId(1));
  a.PostAt(a.clock().Now() + Milliseconds(1), [&] { log += "1"; });
  a.PostAt(a.clock().Now() + Milliseconds(2), [&] { log += "2"; });
  world.RunFor(Seconds(1));
  CHECK(log.empty());
  world.ResumeNode(NodeId(1));
  world.RunFor(Seconds(1));
  CHECK(log == "12");
}

static uint64_t Weather(uint64_t seed) {
  World world(seed);
  SimNetwork network(&world, NetworkKnobs::Random(world.random()));
  SimExecutor& a = world.Start(NodeId(1));
  SimExecutor& b = world.Start(NodeId(2));
  auto ta = network.Listen(a);
  auto tb = network.Listen(b);
  uint64_t sum = 0;
  tb->SetReceiver([&](NodeId from, std::span<const std::byte> frame) {
    CHECK(from == NodeId(1));
    sum = sum * 31 + static_cast<uint64_t>(frame[0]);
  });
  for (int i = 0; i < 200; ++i) ta->Send(tb->endpoint(), {std::byte(i)});
  world.RunFor(Seconds(5));
  world.Mix(sum);
  return world.trace_hash();
}

TEST_CASE("sim: a seed repeats itself, two seeds differ", "[sim][unit]") {
  CHECK(Weather(7) == Weather(7));
  CHECK(Weather(7) != Weather(8));
}

TEST_CASE("sim: neighbouring seeds have nothing in common", "[sim][unit]") {
  std::set<uint64_t> seen;
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    World world(seed);
    for (int i = 0; i < 100; ++i) seen.insert(world.random().Next());
  }
  CHECK(seen.size() == 100 * 100);  // one stream shifted would repeat itself
}

TEST_CASE("sim: a cut is one-way when asked", "[sim][unit]") {
  World world(3);
  SimNetwork network(&world);
  SimExecutor& a = world.Start(NodeId(1));
  SimExecutor& b = world.Start(NodeId(2));
  auto ta = network.Listen(a);
  auto tb = network.Listen(b);
  int at_a = 0, at_b = 0;
  ta->SetReceiver([&](NodeId, std::span<const std::byte>) { ++at_a; });
  tb->SetReceiver([&](NodeId, std::span<const std::byte>) { ++at_b; });
  network.CutOneWay(NodeId(1), NodeId(2));
  ta->Send(tb->endpoint(), {std::byte(1)});
  tb->Send(ta->endpoint(), {std::byte(1)});
  world.RunFor(Seconds(1));
  CHECK(at_a == 1);
  CHECK(at_b == 0);
}

static KvBatch Put(std::string key, std::string value) {
  KvBatch batch;
  batch.puts.push_back({std::move(key), std::move(value)});
  return batch;
}

TEST_CASE("sim: the key-value store keeps what was synced and a prefix of the rest", "[sim][unit]") {
  bool lost = false, kept = false;
  for (uint64_t seed = 1; seed < 50; ++seed) {
    World world(seed);
    SimExecutor& a = world.Start(NodeId(1));
    SimKvMedium medium(&world);
    SimKvStore store(&a, &medium);
    CHECK(world.Run(a, store.Write(Put("a", "1"), true)).ok());
    CHECK(world.Run(a, store.Write(Put("b", "2"), false)).ok());
    CHECK(world.Run(a, store.Write(Put("c", "3"), false)).ok());
    medium.Crash();
    CHECK(medium.contents().contains("a"));
    if (medium.contents().contains("c")) CHECK(medium.contents().contains("b"));
    (medium.contents().contains("b") ? kept : lost) = true;
    medium.Wipe();
    CHECK(medium.contents().empty());
  }
  CHECK(lost);
  CHECK(kept);
}

TEST_CASE("sim: a pool's work comes back on its executor", "[sim][unit]") {
  World world(1);
  SimExecutor& a = world.Start(NodeId(1));
  SimPool pool(&a);
  CHECK(world.Run(a, pool.Run<int>([] { return Executor::CurrentOrNull() == nullptr ? 42 : 0; })) == 42);
}

TEST_CASE("sim: RunSeeds reports a failing seed and one that dies", "[sim][unit]") {
  for (const char* name : {"HOLDFAST_SEED", "HOLDFAST_SEEDS", "HOLDFAST_CAMPAIGN", "HOLDFAST_SHARE"}) unsetenv(name);
  SeedOptions options;
  options.count = 20;
  options.batch = 6;
  SeedReport report = RunSeeds(options, [](uint64_t seed) -> std::string {
    if (seed == 5) return "five";
    if (seed == 9) _exit(7);
    return "";
  });
  CHECK(report.runs == 20);
  REQUIRE(report.failures.size() == 2);
  CHECK(report.failures[0].seed == 5);
  CHECK(report.failures[0].what == "five");
  CHECK(report.failures[1].seed == 9);
}
