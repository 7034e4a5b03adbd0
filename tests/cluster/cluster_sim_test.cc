// Whole nodes in bad times: I2 (one chain of register values, nothing decided is forgotten, no lease after eviction), and
// that one group forms again when everything is healed.
#include <catch2/catch.hpp>

#include <cstdlib>

#include "tests/cluster/storm.h"
#include "tests/sim/seeds.h"

using namespace holdfast;
using namespace holdfast::cluster;
using namespace holdfast::sim;

TEST_CASE("cluster: one register, one living group, whatever dies, is cut, loses power or comes late", "[cluster][sim]") {
  SeedOptions options;
  options.count = 2000;
  auto report = RunSeeds(options, [](uint64_t seed) { return Storm(seed, StormOptions{}).wrong; });
  INFO(report.ToString());
  CHECK(report.ok());
}

TEST_CASE("cluster: the same seed is the same history", "[cluster][sim]") {
  for (uint64_t seed : {3, 17, 42}) {
    auto one = Storm(seed, StormOptions{});
    auto two = Storm(seed, StormOptions{});
    CHECK(one.trace == two.trace);
    CHECK(one.trace != Storm(seed + 1, StormOptions{}).trace);
  }
}

TEST_CASE("cluster: a killed node is evicted in about a second", "[cluster][sim]") {
  for (uint32_t nodes : {2u, 3u, 5u}) {
    World world(nodes);
    SimClusterOptions options;
    options.nodes = nodes;
    SimCluster cluster(&world, options);
    REQUIRE(cluster.Bring());
    world.RunFor(Milliseconds(1234));
    Instant died = world.now();
    Life victim = cluster.life(NodeId(2))->engine->self();
    cluster.Kill(NodeId(2));
    bool evicted = world.RunUntil([&] { return cluster.evicted_at.contains(victim); }, Seconds(10));
    REQUIRE(evicted);
    int64_t ms = (cluster.evicted_at[victim] - died).ms();
    WARN(nodes << " nodes: evicted " << ms << " ms after the kill");
    CHECK(ms >= 700);
    CHECK(ms <= 1400);
    cluster.StartNode(NodeId(2));
    CHECK(world.RunUntil([&] { return cluster.Settled(); }, Seconds(30)));
    CHECK(cluster.violation() == "");
  }
}

TEST_CASE("cluster: two nodes and the disk, one cut: one side lives and the other does not loop", "[cluster][sim]") {
  World world(7);
  SimClusterOptions options;
  options.nodes = 2;
  SimCluster cluster(&world, options);
  REQUIRE(cluster.Bring());
  cluster.network.Cut(NodeId(1), NodeId(2));
  world.RunFor(Seconds(10));
  CHECK(cluster.evictions == 1);
  CHECK(cluster.life(NodeId(1))->engine->member());
  // The loser starts again while the cut lasts: it does not evict the living.
  cluster.Kill(NodeId(2));
  cluster.StartNode(NodeId(2));
  world.RunFor(Seconds(20));
  CHECK(cluster.evictions == 1);
  CHECK(cluster.life(NodeId(1))->engine->member());
  CHECK(!cluster.life(NodeId(2))->engine->member());
  CHECK(cluster.life(NodeId(1))->lease_end > world.now());
  cluster.Heal();
  CHECK(world.RunUntil([&] { return cluster.Settled(); }, Seconds(30)));
  CHECK(cluster.violation() == "");
}

TEST_CASE("cluster: A-B cut among five: one of the two goes, four stay", "[cluster][sim]") {
  World world(8);
  SimClusterOptions options;
  options.nodes = 5;
  SimCluster cluster(&world, options);
  REQUIRE(cluster.Bring());
  cluster.network.CutOneWay(NodeId(2), NodeId(4));
  world.RunFor(Seconds(8));
  CHECK(cluster.evictions == 1);
  CHECK(Members(*cluster.newest()).size() == 4);
  CHECK(cluster.life(NodeId(2))->engine->member());
  CHECK(cluster.violation() == "");
}

TEST_CASE("cluster: last man standing with the disk, and everybody's cold start", "[cluster][sim]") {
  World world(9);
  SimClusterOptions options;
  options.nodes = 3;
  SimCluster cluster(&world, options);
  REQUIRE(cluster.Bring());
  cluster.Kill(NodeId(1));
  world.RunFor(Seconds(6));
  cluster.Kill(NodeId(2));
  world.RunFor(Seconds(6));
  CHECK(cluster.life(NodeId(3))->engine->member());
  CHECK(cluster.life(NodeId(3))->lease_end > world.now());
  CHECK(Members(*cluster.newest()).size() == 1);
  cluster.Kill(NodeId(3));
  world.RunFor(Seconds(1));
  // 1 comes alone: 3 may be running, so it waits post_join_delay, evicts exactly 3 and fences it.
  uint64_t before = cluster.evictions;
  cluster.StartNode(NodeId(1));
  world.RunFor(Seconds(4));
  CHECK(!cluster.life(NodeId(1))->engine->member());
  world.RunFor(Seconds(6));
  CHECK(cluster.life(NodeId(1))->engine->member());
  CHECK(cluster.evictions == before + 1);
  cluster.StartNode(NodeId(2));
  cluster.StartNode(NodeId(3));
  CHECK(world.RunUntil([&] { return cluster.Settled(); }, Seconds(30)));
  CHECK(cluster.violation() == "");
}

TEST_CASE("cluster: an array that fails over evicts nobody", "[cluster][sim]") {
  World world(10);
  SimClusterOptions options;
  options.nodes = 3;
  SimCluster cluster(&world, options);
  REQUIRE(cluster.Bring());
  for (uint32_t n = 1; n <= 3; ++n) cluster.disk->CutPath(NodeId(n));
  world.RunFor(Seconds(30));
  for (uint32_t n = 1; n <= 3; ++n) cluster.disk->HealPath(NodeId(n));
  world.RunFor(Seconds(15));
  CHECK(cluster.evictions == 0);
  CHECK(cluster.Settled());
  // One node alone without its path goes after disk_token.
  cluster.disk->CutPath(NodeId(3));
  world.RunFor(Seconds(8));
  CHECK(cluster.evictions == 0);
  world.RunFor(Seconds(10));
  CHECK(cluster.evictions == 1);
  CHECK(cluster.violation() == "");
}

TEST_CASE("cluster: sixteen nodes start together, five die at once, one eviction takes them all", "[cluster][sim]") {
  World world(11);
  SimClusterOptions options;
  options.nodes = 16;
  SimCluster cluster(&world, options);
  Instant begin = world.now();
  REQUIRE(cluster.Bring());
  WARN("16 nodes: all members " << (world.now() - begin).ms() << " ms after quorum init began");
  world.RunFor(Seconds(2));
  uint64_t version = cluster.newest_version();
  Instant died = world.now();
  for (uint32_t n : {1u, 4u, 7u, 11u, 16u}) cluster.Kill(NodeId(n));
  bool evicted = world.RunUntil([&] { return cluster.evictions == 5; }, Seconds(10));
  REQUIRE(evicted);
  WARN("16 nodes: five evicted " << (world.now() - died).ms() << " ms after the kill, in " << cluster.newest_version() - version << " change(s)");
  CHECK((world.now() - died).ms() <= 1500);
  CHECK(cluster.newest_version() == version + 1);
  CHECK(cluster.violation() == "");
}
