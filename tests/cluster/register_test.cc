// The register and the disk acceptor, case by case: what a lost, foreign, restored or doubled memory may not do.
#include <catch2/catch.hpp>

#include "cluster/disk_acceptor.h"
#include "cluster/disk_beats.h"
#include "cluster/node_acceptor.h"
#include "tests/cluster/sim_cluster.h"
#include "tests/sim/seeds.h"

using namespace holdfast;
using namespace holdfast::cluster;
using namespace holdfast::sim;

namespace {

struct DiskWorld {
  DiskWorld() : world(1), disk(&world, kQuorumAreaBytes), a(world.Start(NodeId(1))), b(world.Start(NodeId(2))) {
    da = disk.Open(a);
    db = disk.Open(b);
    REQUIRE(world.Run(a, InitQuorumArea(da.get(), 0, 77)).ok());
  }
  DiskAcceptorOptions Options(uint32_t node, uint64_t nonce) {
    DiskAcceptorOptions o;
    o.self = NodeId(node);
    o.nonce = nonce;
    o.nodes = {NodeId(1), NodeId(2)};
    return o;
  }
  World world;
  SimDisk disk;
  SimExecutor &a, &b;
  std::unique_ptr<SimDiskSession> da, db;
};

Ballot B(uint64_t counter, uint32_t node) { return {counter, NodeId(node), 1}; }

}  // namespace

TEST_CASE("disk acceptor: a higher ballot in any slot refuses, the newest value is read", "[cluster][unit]") {
  DiskWorld d;
  DiskAcceptor one(d.Options(1, 11), d.da.get()), two(d.Options(2, 12), d.db.get());
  REQUIRE(d.world.Run(d.a, one.Attach()).ok());
  REQUIRE(d.world.Run(d.b, two.Attach()).ok());
  CHECK(one.area_id() == 77);
  auto p = d.world.Run(d.a, one.Prepare(B(1, 1), {}));
  REQUIRE(p.ok());
  CHECK(p->ok);
  CHECK(p->accepted.counter == 0);
  CHECK(d.world.Run(d.a, one.Accept(B(1, 1), "value one", {}))->ok);
  auto q = d.world.Run(d.b, two.Prepare(B(2, 2), {}));
  CHECK(q->ok);
  CHECK(q->accepted == B(1, 1));
  CHECK(q->value == "value one");
  // The first comes again with its old ballot: refused, in both phases.
  auto again = d.world.Run(d.a, one.Accept(B(1, 1), "late", {}));
  CHECK(!again->ok);
  CHECK(again->highest == B(2, 2));
  CHECK(d.world.Run(d.b, two.Accept(B(2, 2), std::string(60'000, 'x'), {}))->ok);
  CHECK(*d.world.Run(d.a, one.HighestAccepted()) == B(2, 2));
  CHECK(d.world.Run(d.a, one.ReadValue(B(2, 2)))->size() == 60'000);
  CHECK(d.world.Run(d.a, one.ReadValue(B(9, 9))).code() == Errc::kNotFound);
}

TEST_CASE("disk acceptor: a slot that cannot be read is no answer", "[cluster][unit]") {
  DiskWorld d;
  DiskAcceptor one(d.Options(1, 11), d.da.get());
  REQUIRE(d.world.Run(d.a, one.Attach()).ok());
  d.disk.SetFault([](DiskOp op, NodeId, uint64_t offset, uint64_t) -> Status {
    if (op == DiskOp::kRead && offset == HeaderOffset(NodeId(2), 1)) return Errc::kIo;
    return {};
  });
  CHECK(d.world.Run(d.a, one.Prepare(B(1, 1), {})).code() == Errc::kIo);
  d.disk.SetFault({});
  CHECK(d.world.Run(d.a, one.Prepare(B(2, 1), {}))->ok);
  // A foreign or zeroed slot neither.
  AlignedBuffer zero(kBlockSize);
  for (uint32_t copy : {0u, 1u})
    REQUIRE(d.world.Run(d.b, d.db->Write(HeaderOffset(NodeId(2), copy), zero.span(), WriteFlags::kFua)).ok());
  CHECK(!d.world.Run(d.a, one.Prepare(B(3, 1), {})).ok());
}

TEST_CASE("disk acceptor: an area restored from an old copy has no vote", "[cluster][unit]") {
  DiskWorld d;
  DiskAcceptor one(d.Options(1, 11), d.da.get());
  REQUIRE(d.world.Run(d.a, one.Attach()).ok());
  REQUIRE(d.world.Run(d.a, one.Prepare(B(1, 1), {}))->ok);
  AlignedBuffer saved[2] = {AlignedBuffer(kBlockSize), AlignedBuffer(kBlockSize)};
  for (uint32_t copy : {0u, 1u}) REQUIRE(d.world.Run(d.b, static_cast<BlockDevice*>(d.db.get())->Read(HeaderOffset(NodeId(1), copy), saved[copy].span())).ok());
  REQUIRE(d.world.Run(d.a, one.Accept(B(1, 1), "v", {}))->ok);
  for (uint32_t copy : {0u, 1u}) REQUIRE(d.world.Run(d.b, d.db->Write(HeaderOffset(NodeId(1), copy), saved[copy].span(), WriteFlags::kFua)).ok());
  // The next write of ours goes over the copy that was not the newest; reading shows a slot that is not ours.
  REQUIRE(d.world.Run(d.b, d.db->Write(HeaderOffset(NodeId(1), 0), saved[0].span(), WriteFlags::kFua)).ok());
  DiskAcceptor two(d.Options(2, 12), d.db.get());
  REQUIRE(d.world.Run(d.b, two.Attach()).ok());
  REQUIRE(InitQuorumArea(d.db.get(), 0, 99).valid());
  REQUIRE(d.world.Run(d.b, InitQuorumArea(d.db.get(), 0, 99)).ok());  // another area altogether
  CHECK(!d.world.Run(d.b, two.Prepare(B(5, 2), {})).ok());
}

TEST_CASE("disk beats: a living twin is found before anything is written to the slot", "[cluster][unit]") {
  DiskWorld d;
  DiskBeats first(d.da.get(), 0, NodeId(1), NodeId(2));
  REQUIRE(d.world.Run(d.a, first.CheckTwin(77, 5, Milliseconds(500))).ok());
  bool stop = false;
  d.a.Spawn([](DiskBeats* beats, bool* stop) -> Task<void> {
    while (!*stop) {
      DiskBeat beat;
      beat.nonce = 5;
      auto write = beats->Write(beat);
      auto status = co_await std::move(write);
      (void)status;
      co_await SleepFor(Milliseconds(200));
    }
  }(&first, &stop));
  DiskBeats twin(d.db.get(), 0, NodeId(1), NodeId(2));
  CHECK(d.world.Run(d.b, twin.CheckTwin(77, 6, Milliseconds(500))).code() == Errc::kBusy);
  stop = true;
  d.world.RunFor(Seconds(1));
  CHECK(d.world.Run(d.b, twin.CheckTwin(77, 7, Milliseconds(500))).ok());
}

TEST_CASE("node acceptor: what it promised and accepted survives, an empty store is another memory", "[cluster][unit]") {
  World world(1);
  auto& p = world.Start(NodeId(1));
  SimKvMedium medium(&world);
  SimKvStore store(&p, &medium);
  NodeAcceptor acceptor(&store, &world.random());
  REQUIRE(world.Run(p, acceptor.Load()).ok());
  uint64_t storage = acceptor.storage();
  CHECK(storage != 0);
  CHECK(world.Run(p, acceptor.Prepare(B(5, 2)))->ok);
  CHECK(world.Run(p, acceptor.Prepare(B(5, 2)))->ok);  // a repeated message
  CHECK(!world.Run(p, acceptor.Prepare(B(4, 2)))->ok);
  CHECK(!world.Run(p, acceptor.Accept(B(4, 2), "v"))->ok);
  CHECK(world.Run(p, acceptor.Accept(B(5, 2), "v"))->ok);
  medium.Crash();
  NodeAcceptor second(&store, &world.random());
  REQUIRE(world.Run(p, second.Load()).ok());
  CHECK(second.storage() == storage);
  CHECK(second.promised() == B(5, 2));
  CHECK(second.value() == "v");
  medium.Wipe();
  NodeAcceptor third(&store, &world.random());
  REQUIRE(world.Run(p, third.Load()).ok());
  CHECK(third.storage() != storage);
  CHECK(third.accepted().counter == 0);
}

TEST_CASE("register: a wiped node is admitted again by the others, a store behind its slot counts as lost", "[cluster][sim]") {
  World world(21);
  SimClusterOptions options;
  SimCluster cluster(&world, options);
  REQUIRE(cluster.Bring());
  cluster.Kill(NodeId(2));
  cluster.media.at(2)->Wipe();
  cluster.StartNode(NodeId(2));
  CHECK(world.RunUntil([&] { return cluster.Settled(); }, Seconds(30)));
  CHECK(cluster.life(NodeId(2))->engine->storage_id() != 0);
  CHECK(cluster.violation() == "");
}

TEST_CASE("register: quorum init refuses where there is a register, and without enough votes", "[cluster][sim]") {
  World world(22);
  SimClusterOptions options;
  SimCluster cluster(&world, options);
  REQUIRE(cluster.Bring());
  for (uint32_t n = 1; n <= 3; ++n) cluster.Kill(NodeId(n));
  auto& p = world.Start(NodeId(2));
  auto session = cluster.disk->Open(p);
  SimKvMedium empty(&world);
  SimKvStore store(&p, &empty);
  OfflineInitOptions init;
  init.self = NodeId(2);
  init.args.cluster_name = "sim";
  init.args.cluster_uuid = std::string(16, 'v');
  for (uint32_t n = 1; n <= 3; ++n) init.args.nodes.push_back({NodeId(n), "", 1, 0});
  init.args.disk_votes = 2;
  init.disk = session.get();
  CHECK(world.Run(p, OfflineInit(init, &p, &world.random(), &store)).code() == Errc::kExists);
  init.args.disk_votes = 1;
  CHECK(world.Run(p, OfflineInit(init, &p, &world.random(), &store)).code() == Errc::kNoQuorum);
  init.args.disk_votes = 2;
  init.force = true;
  auto made = world.Run(p, OfflineInit(init, &p, &world.random(), &store));
  REQUIRE(made.ok());
  CHECK((*made)->cluster_uuid() == std::string(16, 'v'));
}

TEST_CASE("engine: a clean leave evicts nobody and is told at once", "[cluster][sim]") {
  World world(23);
  SimClusterOptions options;
  SimCluster cluster(&world, options);
  REQUIRE(cluster.Bring());
  SimLife* two = cluster.life(NodeId(2));
  CHECK(world.Run(*two->executor, two->engine->Leave()).ok());
  world.RunFor(Seconds(5));
  CHECK(cluster.evictions == 0);
  CHECK(FindNode(*cluster.newest(), NodeId(2))->state() == LEFT);
  CHECK(!two->evicted);
  cluster.Kill(NodeId(2));
  cluster.StartNode(NodeId(2));
  CHECK(world.RunUntil([&] { return cluster.Settled(); }, Seconds(30)));
  CHECK(cluster.evictions == 0);
}

TEST_CASE("register: after a second quorum init the former cluster's stores do not hide the new register", "[cluster][sim]") {
  World world(24);
  SimClusterOptions options;
  SimCluster cluster(&world, options);
  REQUIRE(cluster.Bring());
  for (uint32_t n = 1; n <= 3; ++n) cluster.Kill(NodeId(n));
  world.RunFor(Seconds(6));
  auto& p = world.Start(NodeId(1));
  auto session = cluster.disk->Open(p);
  SimKvStore store(&p, cluster.media.at(1).get());
  OfflineInitOptions init;
  init.self = NodeId(1);
  init.args.cluster_name = "sim";
  init.args.cluster_uuid = std::string(16, 'w');
  init.args.config_version = 1;
  init.args.config_hash = "h";
  for (uint32_t n = 1; n <= 3; ++n) init.args.nodes.push_back({NodeId(n), "", 1, 0});
  init.args.disk_votes = 2;
  init.disk = session.get();
  CHECK(world.Run(p, OfflineInit(init, &p, &world.random(), &store)).code() == Errc::kExists);
  init.force = true;
  REQUIRE(world.Run(p, OfflineInit(init, &p, &world.random(), &store)).ok());
  p.Crash();
  cluster.ForgetHistory();
  for (uint32_t n = 3; n >= 1; --n) cluster.StartNode(NodeId(n));  // the old stores first
  CHECK(world.RunUntil([&] { return cluster.newest() != nullptr && cluster.Settled(); }, Seconds(30)));
  REQUIRE(cluster.newest() != nullptr);
  CHECK(cluster.newest()->cluster_uuid() == std::string(16, 'w'));
  CHECK(cluster.violation() == "");
}

namespace {

// Node 3 is cut off, and put out. How much of ten seconds are the leases of the others valid, who need the votes of a disk whose
// requests take long? comes_back: its next life wants the register too, by the disk and its own vote.
std::string SlowDisk(uint64_t seed, Duration latency_min, Duration latency_max, bool comes_back, int percent) {
  World world(seed);
  SimClusterOptions options;
  SimCluster cluster(&world, options);
  if (!cluster.Bring()) return "the cluster did not come up";
  sim::DiskKnobs& disk = cluster.disk->knobs();
  disk.latency_min = latency_min;
  disk.latency_max = latency_max;
  cluster.network.Cut(NodeId(3), NodeId(1));
  cluster.network.Cut(NodeId(3), NodeId(2));
  if (!world.RunUntil([&] { return cluster.evictions > 0; }, Seconds(30))) return "nobody was put out";
  int valid = 0;
  for (int i = 0; i < 200; ++i) {
    world.RunFor(Milliseconds(100));
    if (comes_back && cluster.life(NodeId(3))->evicted) {
      cluster.Kill(NodeId(3));
      cluster.StartNode(NodeId(3));
    }
    if (i < 100) continue;
    bool one = cluster.life(NodeId(1))->engine->picture().quorate, two = cluster.life(NodeId(2))->engine->picture().quorate;
    valid += one && two;
  }
  if (!cluster.violation().empty()) return cluster.violation();
  return valid >= percent ? "" : "quorate only " + std::to_string(valid) + "% of the time";
}

}  // namespace

// They had settled the same value again and again, each because of the other's settling, for ever on a busy machine.
TEST_CASE("register: two who need the disk's votes do not keep each other from them", "[cluster][sim]") {
  SeedOptions seeds;
  seeds.count = 20;
  auto report = RunSeeds(seeds, [](uint64_t seed) { return SlowDisk(seed, Milliseconds(60), Milliseconds(160), false, 99); });
  INFO(report.ToString());
  CHECK(report.ok());
}

TEST_CASE("register: a cut-off node that comes back does not keep the others from the votes of a slow disk", "[cluster][sim]") {
  SeedOptions seeds;
  seeds.count = 20;
  auto report = RunSeeds(seeds, [](uint64_t seed) { return SlowDisk(seed, Milliseconds(80), Milliseconds(220), true, 50); });
  INFO(report.ToString());
  CHECK(report.ok());
}
