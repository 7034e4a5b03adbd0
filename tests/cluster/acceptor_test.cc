// The register's two kinds of acceptors, line by line: what they have answered outlives their power, a slot outlives a torn
// copy of it and a value that was begun, ballots are compared whole.
#include <cstring>

#include <catch2/catch.hpp>

#include "cluster/disk_acceptor.h"
#include "cluster/node_acceptor.h"
#include "tests/sim/disk.h"
#include "tests/sim/kv_store.h"

using namespace holdfast;
using namespace holdfast::cluster;
using namespace holdfast::sim;

namespace {

Ballot B(uint64_t counter, uint32_t node, uint64_t nonce = 1) { return {counter, NodeId(node), nonce}; }

// Two nodes on one quorum area.
struct Area {
  explicit Area(uint64_t seed)
      : world(seed), disk(&world, kQuorumAreaBytes), a(world.Start(NodeId(1))), b(world.Start(NodeId(2))) {
    da = disk.Open(a);
    db = disk.Open(b);
    REQUIRE(world.Run(a, InitQuorumArea(da.get(), 0, 77)).ok());
    REQUIRE(world.Run(a, da->Flush()).ok());
  }
  std::unique_ptr<DiskAcceptor> Attach(uint32_t node, uint64_t nonce) {
    DiskAcceptorOptions o;
    o.self = NodeId(node);
    o.nonce = nonce;
    o.nodes = {NodeId(1), NodeId(2)};
    auto acceptor = std::make_unique<DiskAcceptor>(o, node == 1 ? da.get() : db.get());
    REQUIRE(world.Run(node == 1 ? a : b, acceptor->Attach()).ok());
    return acceptor;
  }
  SlotHeader Copy(uint32_t copy) {
    AlignedBuffer block(kBlockSize);
    REQUIRE(world.Run(b, static_cast<BlockDevice*>(db.get())->Read(HeaderOffset(NodeId(1), copy), block.span())).ok());
    auto header = DecodeHeader(block.span(), NodeId(1));
    REQUIRE(header.ok());
    return *header;
  }
  void Tear(uint32_t copy) {
    AlignedBuffer block(kBlockSize);
    REQUIRE(world.Run(b, static_cast<BlockDevice*>(db.get())->Read(HeaderOffset(NodeId(1), copy), block.span())).ok());
    std::memset(block.data() + 40, 0x5a, 200);
    REQUIRE(world.Run(b, db->Write(HeaderOffset(NodeId(1), copy), block.span(), WriteFlags::kFua)).ok());
  }
  World world;
  SimDisk disk;
  SimExecutor &a, &b;
  std::unique_ptr<SimDiskSession> da, db;
};

}  // namespace

TEST_CASE("node acceptor: ballots are compared whole, not by their counters", "[cluster][unit]") {
  World world(1);
  auto& p = world.Start(NodeId(1));
  SimKvMedium medium(&world);
  SimKvStore store(&p, &medium);
  NodeAcceptor acceptor(&store, &world.random());
  REQUIRE(world.Run(p, acceptor.Load()).ok());
  REQUIRE(world.Run(p, acceptor.Prepare(B(5, 2, 9)))->ok);
  for (const Ballot& lower : {B(5, 1, 9), B(5, 2, 8), B(4, 3, 9)}) {
    CHECK(!world.Run(p, acceptor.Prepare(lower))->ok);
    CHECK(!world.Run(p, acceptor.Accept(lower, "v"))->ok);
  }
  CHECK(acceptor.accepted().counter == 0);
  CHECK(world.Run(p, acceptor.Accept(B(5, 2, 9), "v"))->ok);
  CHECK(world.Run(p, acceptor.Prepare(B(5, 3, 1)))->ok);
  CHECK(!world.Run(p, acceptor.Accept(B(5, 2, 9), "w"))->ok);
  CHECK(acceptor.value() == "v");
}

TEST_CASE("node acceptor: what it has answered survives its node's power, at every step", "[cluster][unit]") {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    World world(seed);
    auto& p = world.Start(NodeId(1));
    SimKvMedium medium(&world);
    SimKvStore store(&p, &medium);
    for (uint64_t i = 1; i <= 6; ++i) {
      NodeAcceptor acceptor(&store, &world.random());
      REQUIRE(world.Run(p, acceptor.Load()).ok());
      CHECK(acceptor.promised() == (i == 1 ? Ballot{} : B(i - 1, 2)));
      CHECK(acceptor.value() == (i == 1 ? "" : std::to_string(i - 1)));
      REQUIRE(world.Run(p, acceptor.Prepare(B(i, 2)))->ok);
      medium.Crash();
      NodeAcceptor second(&store, &world.random());
      REQUIRE(world.Run(p, second.Load()).ok());
      CHECK(second.promised() == B(i, 2));
      REQUIRE(world.Run(p, second.Accept(B(i, 2), std::to_string(i)))->ok);
      medium.Crash();
    }
  }
}

TEST_CASE("disk acceptor: a former life's ballot of the same number is not passed over", "[cluster][unit]") {
  Area area(1);
  auto first = area.Attach(1, 11);
  REQUIRE(area.world.Run(area.a, first->Prepare(B(5, 1, 9), {}))->ok);
  auto second = area.Attach(1, 12);
  CHECK(!area.world.Run(area.a, second->Prepare(B(5, 1, 3), {}))->ok);
  CHECK(!area.world.Run(area.a, second->Accept(B(5, 1, 3), "v", {}))->ok);
  CHECK(area.world.Run(area.a, second->Accept(B(5, 1, 9), "v", {}))->ok);
}

TEST_CASE("disk acceptor: a torn copy of a slot, whichever it is, leaves the other", "[cluster][unit]") {
  for (uint64_t rounds : {2, 3}) {
    for (uint32_t torn : {0u, 1u}) {
      Area area(1);
      auto one = area.Attach(1, 11);
      for (uint64_t i = 1; i <= rounds; ++i) REQUIRE(area.world.Run(area.a, one->Prepare(B(i, 1), {}))->ok);
      SlotHeader other = area.Copy(1 - torn);
      area.Tear(torn);
      auto again = area.Attach(1, 12);
      auto two = area.Attach(2, 22);
      auto looked = area.world.Run(area.b, two->Prepare(B(99, 2), {}));
      REQUIRE(looked.ok());
      CHECK(looked->highest == B(99, 2));
      // Not the torn copy is what it goes on from: the next write of its own goes over that one.
      auto next = area.world.Run(area.a, again->Prepare(B(100, 1), {}));
      REQUIRE(next.ok());
      CHECK(area.Copy(torn).promised == B(100, 1));
      CHECK(area.Copy(1 - torn).promised == other.promised);
    }
  }
}

TEST_CASE("disk acceptor: a value stands until the header of the next one does", "[cluster][unit]") {
  Area area(1);
  auto one = area.Attach(1, 11);
  REQUIRE(area.world.Run(area.a, one->Prepare(B(1, 1), {}))->ok);
  REQUIRE(area.world.Run(area.a, one->Accept(B(1, 1), "one", {}))->ok);
  area.disk.SetFault([](DiskOp op, NodeId node, uint64_t offset, uint64_t) -> Status {
    bool header = offset == HeaderOffset(NodeId(1), 0) || offset == HeaderOffset(NodeId(1), 1);
    return op == DiskOp::kWrite && node == NodeId(1) && header ? Status(Errc::kIo) : Status();
  });
  CHECK(!area.world.Run(area.a, one->Accept(B(2, 1), "another value", {})).ok());
  area.disk.SetFault({});
  auto two = area.Attach(2, 22);
  auto read = area.world.Run(area.b, two->Prepare(B(3, 2), {}));
  REQUIRE(read.ok());
  CHECK(read->accepted == B(1, 1));
  CHECK(read->value == "one");
}

TEST_CASE("disk acceptor: what it has answered survives the array's power", "[cluster][unit]") {
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    Area area(seed);
    auto one = area.Attach(1, 11);
    REQUIRE(area.world.Run(area.a, one->Prepare(B(1, 1), {}))->ok);
    REQUIRE(area.world.Run(area.a, one->Accept(B(1, 1), std::string(9000, '1'), {}))->ok);
    if (seed % 2 == 0) REQUIRE(area.world.Run(area.a, one->Prepare(B(2, 1), {}))->ok);
    area.disk.PowerLoss();
    auto two = area.Attach(2, 22);
    auto read = area.world.Run(area.b, two->Prepare(B(9, 2), {}));
    REQUIRE(read.ok());
    CHECK(read->accepted == B(1, 1));
    CHECK(read->value == std::string(9000, '1'));
    CHECK(area.Attach(1, 12)->noted().accepted == Ballot{});
    auto late = area.world.Run(area.a, area.Attach(1, 13)->Prepare(B(seed % 2 == 0 ? 1 : 0, 1), {}));
    CHECK((!late.ok() || !late->ok));
  }
}

TEST_CASE("disk acceptor: a slot that somebody else has written since has no vote", "[cluster][unit]") {
  Area area(1);
  auto one = area.Attach(1, 11);
  REQUIRE(area.world.Run(area.a, one->Prepare(B(1, 1), {}))->ok);
  auto twin = area.Attach(1, 99);
  for (uint64_t i = 2; i <= 4; ++i) REQUIRE(area.world.Run(area.a, twin->Prepare(B(i, 1), {}))->ok);
  CHECK(area.world.Run(area.a, one->Prepare(B(9, 1), {})).code() == Errc::kStale);
  CHECK(!area.world.Run(area.a, one->Accept(B(9, 1), "v", {})).ok());
}

TEST_CASE("disk acceptor: bytes that are not the value of the header are no value", "[cluster][unit]") {
  Area area(1);
  auto one = area.Attach(1, 11);
  REQUIRE(area.world.Run(area.a, one->Prepare(B(1, 1), {}))->ok);
  REQUIRE(area.world.Run(area.a, one->Accept(B(1, 1), "one", {}))->ok);
  AlignedBuffer junk(kBlockSize);  // as if its owner had moved on, twice, while it is read
  std::memset(junk.data(), 'j', junk.size());
  for (uint32_t at : {0u, 1u})
    REQUIRE(area.world.Run(area.b, area.db->Write(ValueOffset(NodeId(1), at), std::as_const(junk).span(), WriteFlags::kFua)).ok());
  auto two = area.Attach(2, 22);
  auto read = area.world.Run(area.b, two->Prepare(B(3, 2), {}));
  CHECK(!read.ok());
  CHECK(!area.world.Run(area.b, two->ReadValue(B(1, 1))).ok());
}

// A header whose write failed may stand in the array's cache alone. Read again it names a value area; were it believed, the next
// value would go over the one that the header before it names, and a power loss would leave neither.
TEST_CASE("disk acceptor: a slot read back is durable before it is believed", "[cluster][unit]") {
  size_t believed = 0;
  for (uint64_t seed = 1; seed <= 80; ++seed) {
    Area area(seed);
    auto one = area.Attach(1, 11);
    REQUIRE(area.world.Run(area.a, one->Prepare(B(1, 1), {}))->ok);
    REQUIRE(area.world.Run(area.a, one->Accept(B(1, 1), "one", {}))->ok);
    auto is_header = [](DiskOp op, NodeId node, uint64_t offset) {
      bool slot = offset == HeaderOffset(NodeId(1), 0) || offset == HeaderOffset(NodeId(1), 1);
      return slot && op == DiskOp::kWrite && node == NodeId(1);
    };
    area.disk.SetFault([&](DiskOp op, NodeId node, uint64_t offset, uint64_t) -> Status {
      if (is_header(op, node, offset)) area.disk.SetTrouble(NodeId(1), {kMillion, 0});  // it fails, and may land in the cache
      return {};
    });
    CHECK(!area.world.Run(area.a, one->Accept(B(2, 1), "two", {})).ok());
    area.disk.EndTroubles();
    // The value of the next goes out, and the power with it.
    bool out = false;
    area.disk.SetFault([&](DiskOp op, NodeId, uint64_t offset, uint64_t) -> Status {
      out = out || (op == DiskOp::kWrite && (offset == ValueOffset(NodeId(1), 0) || offset == ValueOffset(NodeId(1), 1)));
      return op == DiskOp::kFlush && out ? Status(Errc::kIo) : Status();
    });
    CHECK(!area.world.Run(area.a, one->Accept(B(3, 1), "three", {})).ok());
    area.disk.SetFault({});
    area.disk.PowerLoss();
    auto two = area.Attach(2, 22);
    auto read = area.world.Run(area.b, two->Prepare(B(9, 2), {}));
    INFO("seed " << seed << ": " << (read.ok() ? "" : read.error().ToString()));
    REQUIRE(read.ok());
    bool first = read->accepted == B(1, 1) && read->value == "one", second = read->accepted == B(2, 1) && read->value == "two";
    CHECK((first || second));
    believed += second;
  }
  CHECK(believed > 10);
}
