// A holdfastd that died and starts again at once: its node is heard before the register has its new life. Its peers evict
// the former life, but must not fence it: a power switch would hit the new one, which proves the former one gone itself.
#include <catch2/catch.hpp>

#include <algorithm>

#include "tests/whole/cluster.h"

using namespace holdfast;
using namespace holdfast::whole;

namespace {

struct Restart {
  bool formed = false, back = false;
  uint64_t boots = 0;       // of the machine, since its power switch was there
  Duration took;
};

bool IsMember(const Machine& m) { return m.daemon && m.daemon->alive() && m.daemon->core->engine() && m.daemon->core->engine()->member(); }

// No mounts: what they hold of a dead holdfastd is another matter (tests/system/holdfastd_cluster.py).
Restart RestartOne(uint64_t seed, Duration delay) {
  sim::World world(seed);
  auto clients = MakePlainClients(&world);
  ClusterOptions options;
  options.restart_delay = delay;
  auto cluster = std::make_unique<Cluster>(&world, options, clients.get());
  cluster->register_users().Quiesce();  // who else wants the register makes a join still slower
  for (NodeId node : cluster->nodes()) cluster->machine(node).want_mount = false;
  Restart out;
  out.formed = cluster->Form(Seconds(30));
  // A busy array and network: a join takes longer than the first heartbeat of the new life, and a fence agent.
  cluster->disk->knobs().latency_min = Milliseconds(5);
  cluster->disk->knobs().latency_max = Milliseconds(35);
  cluster->network.knobs().delay_min = Milliseconds(40);
  cluster->network.knobs().delay_max = Milliseconds(70);
  Machine& m = cluster->machine(NodeId(2));
  uint64_t before = m.boots;
  Instant begin = world.now();
  // Anywhere between two heartbeats.
  world.After(world.random().Between(Milliseconds(0), Milliseconds(200)), [c = cluster.get()] { c->KillDaemon(NodeId(2)); });
  world.RunUntil([&] { return !m.daemon->alive(); }, Seconds(1));
  out.back = world.RunUntil([&] { return IsMember(m) && cluster->NothingOwed(); }, Seconds(20));
  out.took = world.now() - begin;
  out.boots = m.boots - before;
  CHECK(cluster->checker().violation().empty());
  world.Abandon(std::move(cluster));
  world.Abandon(std::move(clients));
  return out;
}

}  // namespace

TEST_CASE("a holdfastd that starts again at once is not fenced by its peers") {
  Duration longest;
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    INFO("seed " << seed);
    Restart r = RestartOne(seed, Milliseconds(static_cast<int64_t>(10 + 10 * (seed % 10))));
    REQUIRE(r.formed);
    CHECK(r.back);
    CHECK(r.boots == 0);
    longest = std::max(longest, r.took);
  }
  CHECK(longest.ms() < 10'000);
}

TEST_CASE("a node that stays silent longer than the token is fenced, and comes back") {
  Restart r = RestartOne(1, Seconds(3));
  REQUIRE(r.formed);
  CHECK(r.back);
  CHECK(r.boots > 0);
}
