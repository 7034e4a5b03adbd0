// The last node leaves in good order while a fenced one sleeps: the reservation that keeps the sleeper out must stand, or what
// it sent before it fell asleep is written when it wakes up. Found by holdfast-sim (--scenario all --seed 502699 of its day).
#include <catch2/catch.hpp>

#include "tests/whole/cluster.h"

using namespace holdfast;
using namespace holdfast::whole;

namespace {

bool Gone(const Machine& m) { return !m.daemon || !m.daemon->alive(); }

size_t KeysOf(const Cluster& cluster, NodeId node) {
  size_t count = 0;
  for (ReservationKey key : cluster.disk->reservation().keys) count += (key >> 48) == node.v ? 1 : 0;
  return count;
}

}  // namespace

TEST_CASE("the last to leave keeps its key while a fenced node has not come back; its next life drops it") {
  const NodeId sleeper(1), last(2);
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    INFO("seed " << seed);
    sim::World world(seed);
    auto clients = MakePlainClients(&world);
    ClusterOptions options;
    options.nodes = 2;
    options.power = false;  // fenced by the reservation alone
    auto cluster = std::make_unique<Cluster>(&world, options, clients.get());
    REQUIRE(cluster->Form(Seconds(30)));
    cluster->Pause(sleeper);
    auto fenced = [&] {
      const auto& state = cluster->checker().newest();
      for (const auto& node : state->nodes())
        if (node.id() == sleeper.v) return node.state() == cluster::NodeState::FENCED && cluster->NothingOwed();
      return false;
    };
    REQUIRE(world.RunUntil(fenced, Seconds(60)));
    cluster->Leave(last);
    REQUIRE(world.RunUntil([&] { return Gone(cluster->machine(last)); }, Seconds(60)));
    CHECK(cluster->disk->reservation().reserved);
    CHECK(KeysOf(*cluster, sleeper) == 0);
    CHECK(KeysOf(*cluster, last) == 1);

    cluster->Resume(sleeper);  // the checker looks at what it writes
    cluster->machine(last).want_daemon = cluster->machine(last).want_mount = true;
    cluster->PowerOn(last);
    CHECK(world.RunUntil([&] { return cluster->AllMounted() && cluster->NothingOwed(); }, Seconds(60)));
    CHECK(KeysOf(*cluster, last) == 2);  // holdfastd's and the mount's, of this life alone
    CHECK(cluster->checker().violation() == "");

    // Nobody is kept out any more: the last to leave takes the reservation along.
    cluster->Leave(sleeper);
    REQUIRE(world.RunUntil([&] { return Gone(cluster->machine(sleeper)); }, Seconds(60)));
    cluster->Leave(last);
    REQUIRE(world.RunUntil([&] { return Gone(cluster->machine(last)); }, Seconds(60)));
    CHECK(cluster->disk->reservation().keys.empty());
    world.Abandon(std::move(cluster));
    world.Abandon(std::move(clients));
  }
}
