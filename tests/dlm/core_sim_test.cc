// Thousands of lockspace lives: the healthy core passes every checker.
#include <catch2/catch.hpp>

#include <cstdio>

#include "tests/dlm/lock_sim.h"
#include "tests/sim/seeds.h"

namespace holdfast::dlm {
namespace {

TEST_CASE("dlm: 2000 seeds of kills, zombies, joins, leaves and cuts break no invariant", "[dlm][sim]") {
  sim::SeedOptions options;
  options.count = 2000;
  options.batch = 100;
  options.seconds_max = 20;
  auto report = sim::RunSeeds(options, [](uint64_t seed) {
    LockSim sim(seed);
    return sim.Run();
  });
  INFO(report.ToString());
  CHECK(report.ok());
}

TEST_CASE("dlm: the same seed gives the same trace", "[dlm][sim]") {
  for (uint64_t seed = 1; seed <= 15; ++seed) {
    LockSim a(seed), b(seed);
    REQUIRE(a.Run() == b.Run());
    CHECK(a.trace_hash() == b.trace_hash());
  }
}

TEST_CASE("dlm: the workload reaches what it is meant to reach", "[dlm][sim]") {
  LockSim::Stats all;
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    LockSim sim(seed);
    REQUIRE(sim.Run() == "");
    const auto& s = sim.stats();
    all.grants += s.grants, all.recoveries += s.recoveries, all.kills += s.kills, all.zombies += s.zombies;
    all.joins += s.joins, all.leaves += s.leaves, all.ranges_granted += s.ranges_granted, all.would_block += s.would_block;
    all.deadlocks += s.deadlocks, all.cancelled += s.cancelled, all.frozen_asked += s.frozen_asked;
    all.removes += s.removes, all.removes_refused += s.removes_refused, all.resent += s.resent, all.apps += s.apps;
  }
  std::printf("grants %llu recoveries %llu kills %llu zombies %llu joins %llu leaves %llu ranges %llu would_block %llu deadlocks %llu "
              "cancelled %llu frozen_asked %llu removes %llu refused %llu resent %llu apps %llu\n",
              (unsigned long long)all.grants, (unsigned long long)all.recoveries, (unsigned long long)all.kills,
              (unsigned long long)all.zombies, (unsigned long long)all.joins, (unsigned long long)all.leaves,
              (unsigned long long)all.ranges_granted, (unsigned long long)all.would_block, (unsigned long long)all.deadlocks,
              (unsigned long long)all.cancelled, (unsigned long long)all.frozen_asked, (unsigned long long)all.removes,
              (unsigned long long)all.removes_refused, (unsigned long long)all.resent, (unsigned long long)all.apps);
  for (uint64_t n : {all.grants, all.recoveries, all.kills, all.zombies, all.joins, all.leaves, all.ranges_granted, all.would_block,
                     all.deadlocks, all.cancelled, all.frozen_asked, all.removes, all.removes_refused, all.resent, all.apps})
    CHECK(n > 0);
}

}  // namespace
}  // namespace holdfast::dlm
