#include <catch2/catch.hpp>

#include <cstring>

#include "tests/sim/disk.h"

using namespace holdfast;
using namespace holdfast::sim;

static AlignedBuffer Filled(char c, size_t size = kBlockSize) {
  AlignedBuffer b(size);
  std::memset(b.data(), c, b.size());
  return b;
}

TEST_CASE("sim: a flushed write survives power loss, an unflushed one is kept, lost or torn", "[sim][unit]") {
  bool kept = false, lost = false, mixed = false;
  for (uint64_t seed = 1; seed < 100; ++seed) {
    World world(seed);
    SimDisk disk(&world, 1 << 30);
    SimExecutor& a = world.Start(NodeId(1));
    auto device = disk.Open(a);
    AlignedBuffer one = Filled('1'), two = Filled('2');
    CHECK(world.Run(a, device->Write(4096, one.span(), WriteFlags::kNone)).ok());
    CHECK(world.Run(a, device->Flush()).ok());
    CHECK(world.Run(a, device->Write(8192, one.span(), WriteFlags::kFua)).ok());
    CHECK(world.Run(a, device->Write(4096, two.span(), WriteFlags::kNone)).ok());
    disk.PowerLoss();
    AlignedBuffer got(8192);
    CHECK(world.Run(a, device->Read(4096, got.span())).ok());
    std::string text(AsText(got.span()));
    CHECK(text.substr(4096) == std::string(4096, '1'));
    size_t news = static_cast<size_t>(std::count(text.begin(), text.begin() + 4096, '2'));
    size_t olds = static_cast<size_t>(std::count(text.begin(), text.begin() + 4096, '1'));
    CHECK(news + olds == 4096);
    if (olds == 0) kept = true;
    else if (news == 0) lost = true;
    else mixed = true;
  }
  CHECK(mixed);
  (void)kept;
  (void)lost;
}

TEST_CASE("sim: a dead node's write lands late, unless it was preempted and drained", "[sim][unit]") {
  bool late = false;
  for (uint64_t seed = 1; seed < 300; ++seed) {
    World world(seed);
    DiskKnobs knobs = DiskKnobs::Random(world.random());
    SimDisk disk(&world, 1 << 20, knobs);
    SimExecutor& a = world.Start(NodeId(1));
    SimExecutor& b = world.Start(NodeId(2));
    auto da = disk.Open(a);
    auto db = disk.Open(b);
    CHECK(world.Run(a, da->Register(11)).ok());
    CHECK(world.Run(b, db->Register(22)).ok());
    CHECK(world.Run(b, db->Reserve(22)).ok());
    AlignedBuffer one = Filled('1');
    a.Spawn([](BlockDevice* d, std::span<const std::byte> in) -> Task<void> {
      auto status = co_await d->Write(0, in, WriteFlags::kNone);
      (void)status;
    }(da.get(), one.span()));
    bool drained = false;
    disk.OnWrite([&](const DiskWrite& w) {
      if (w.node != NodeId(1)) return;
      late = late || w.writer_dead;
      CHECK_FALSE(drained);
    });
    world.RunFor(world.random().Between(Duration{0}, Milliseconds(2)));
    world.CrashNode(NodeId(1));
    world.RunFor(world.random().Between(Duration{0}, Milliseconds(20)));
    CHECK(world.Run(b, db->Preempt(22, 11)).ok());
    CHECK(world.Run(b, db->Drain()).ok());
    drained = true;
    auto state = world.Run(b, static_cast<Reservations&>(*db).Read());
    CHECK(state->keys == std::vector<ReservationKey>{22});
    world.RunFor(Seconds(10));
    world.Abandon(std::move(da));
  }
  CHECK(late);
}

TEST_CASE("sim: a preempted session that lives gets a conflict", "[sim][unit]") {
  World world(5);
  SimDisk disk(&world, 1 << 20);
  SimExecutor& a = world.Start(NodeId(1));
  SimExecutor& b = world.Start(NodeId(2));
  auto da = disk.Open(a);
  auto db = disk.Open(b);
  AlignedBuffer one = Filled('1');
  CHECK(world.Run(a, da->Register(11)).ok());
  CHECK(world.Run(b, db->Register(22)).ok());
  CHECK(world.Run(a, da->Reserve(11)).ok());
  CHECK(world.Run(b, db->Preempt(22, 11)).ok());
  CHECK(world.Run(a, da->Write(0, one.span(), WriteFlags::kNone)).code() == Errc::kConflict);
  CHECK(world.Run(b, db->Write(0, one.span(), WriteFlags::kNone)).ok());
  CHECK(disk.conflicts() == 1);
}

TEST_CASE("sim: a sparse disk and its crash images share memory", "[sim][unit]") {
  World world(1);
  SimDisk disk(&world, uint64_t{1} << 42);
  SimExecutor& a = world.Start(NodeId(1));
  auto device = disk.Open(a);
  AlignedBuffer one = Filled('1');
  CHECK(world.Run(a, device->Write((uint64_t{1} << 42) - 4096, one.span(), WriteFlags::kFua)).ok());
  CHECK(disk.image().pages() == 1);
  DiskImage image = disk.CrashImage(world.random());
  AlignedBuffer got(4096);
  image.Read((uint64_t{1} << 42) - 4096, got.span());
  CHECK(AsText(got.span()) == AsText(one.span()));
}

TEST_CASE("sim: a cut path stalls and then fails, a healed one goes on", "[sim][unit]") {
  World world(1);
  SimDisk disk(&world, 1 << 20);
  SimExecutor& a = world.Start(NodeId(1));
  auto device = disk.Open(a);
  AlignedBuffer one = Filled('1');
  disk.CutPath(NodeId(1));
  CHECK(world.Run(a, device->Write(0, one.span(), WriteFlags::kNone)).code() == Errc::kDisconnected);
  world.After(Seconds(1), [&] { disk.HealPath(NodeId(1)); });
  CHECK(world.Run(a, device->Write(0, one.span(), WriteFlags::kNone)).ok());
}

// What a session has under way when it is lost may land after the next one has written: unless that is drained first.
TEST_CASE("sim: a write of a lost session that the next one overtakes is told", "[sim][unit]") {
  size_t overtaken[2] = {0, 0};
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    for (bool drains : {false, true}) {
      World world(seed);
      DiskKnobs knobs;
      knobs.crash_late = kMillion;
      SimDisk disk(&world, 1 << 20, knobs);
      SimExecutor& a = world.Start(NodeId(1));
      auto device = disk.Open(a);
      device->SetLosable();
      disk.OnWrite([&](const DiskWrite& w) { overtaken[drains] += w.overtaken; });
      AlignedBuffer one = Filled('1'), two = Filled('2');
      a.Spawn([](BlockDevice* d, std::span<const std::byte> in) -> Task<void> {
        auto status = co_await d->Write(0, in, WriteFlags::kNone);
        CHECK(status.code() == Errc::kDisconnected);
      }(device.get(), one.span()));
      REQUIRE(world.RunUntil([&] { return disk.accepted() == 1; }, Seconds(1)));
      a.Post([&] { device->Lose(); });
      world.RunFor(Microseconds(10));
      CHECK(world.Run(a, device->Relogin()));
      if (drains) CHECK(world.Run(a, device->Drain()).ok());
      CHECK(world.Run(a, device->Write(0, two.span(), WriteFlags::kNone)).ok());
      world.RunFor(Seconds(10));
    }
  }
  CHECK(overtaken[false] > 10);
  CHECK(overtaken[true] == 0);
}
