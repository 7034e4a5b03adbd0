#include <catch2/catch.hpp>

#include "io/volume_users.h"

#include <fcntl.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "io/open_device.h"
#include "io/thread_pool.h"
#include "tests/io/block_device_contract.h"
#include "tests/io/reservations_contract.h"
#include "tests/io/temp_dir.h"
#include "tests/sim/disk.h"

using namespace holdfast;

static std::string MakeImage(const TempDir& dir, uint64_t size) {
  std::string path = dir / "image";
  std::ofstream(path).close();
  std::filesystem::resize_file(path, size);
  return path;
}

TEST_CASE("contract BlockDevice: image file", "[io][contract][unit]") {
  TempDir dir;
  io::Reactor reactor;
  io::ThreadPool pool(2);
  auto opened = reactor.RunTask(io::OpenDevice(&reactor, &pool, MakeImage(dir, 8 << 20), {}));
  REQUIRE(opened.ok());
  auto device = std::move(*opened);
  CHECK(device->info().size_bytes == 8 << 20);
  CHECK(device->info().local_file);
  contract::BlockDeviceContract(device.get(), [&](auto task) { return reactor.RunTask(std::move(task)); });
}

TEST_CASE("contract BlockDevice: simulated disk", "[io][contract][unit]") {
  sim::World world(11);
  sim::SimDisk disk(&world, 8 << 20);
  sim::SimExecutor& executor = world.Start(NodeId(1));
  auto device = disk.Open(executor);
  contract::BlockDeviceContract(device.get(), [&](auto task) { return world.Run(executor, std::move(task)); });
}

TEST_CASE("contract Reservations: simulated disk", "[io][contract][unit]") {
  sim::World world(12);
  sim::SimDisk disk(&world, 8 << 20);
  sim::SimExecutor& executor = world.Start(NodeId(1));
  auto a = disk.Open(executor), b = disk.Open(executor);
  auto run = [&](auto task) { return world.Run(executor, std::move(task)); };
  AlignedBuffer block(kBlockSize);
  auto write = [&](Reservations* r) {
    return run(static_cast<sim::SimDiskSession*>(r)->Write(0, block.span(), WriteFlags::kNone));
  };
  SECTION("registering and reserving") { contract::ReservationsContract(a.get(), b.get(), run, write); }
  SECTION("preempting") { contract::PreemptContract(a.get(), b.get(), run, write); }
}

TEST_CASE("io: what is no volume is refused with the reason", "[io][unit]") {
  TempDir dir;
  io::Reactor reactor;
  io::ThreadPool pool(1);
  CHECK(io::FileDevice::Open(&reactor, &pool, dir / "none").code() == Errc::kNotFound);
  CHECK(io::FileDevice::Open(&reactor, &pool, dir.path(), {.read_only = true}).code() == Errc::kInvalid);
  CHECK(io::FileDevice::Open(&reactor, &pool, MakeImage(dir, 100)).code() == Errc::kInvalid);
  CHECK(reactor.RunTask(io::OpenDevice(&reactor, &pool, "http://x/y", {})).code() == Errc::kInvalid);
}

TEST_CASE("io: a read-only volume is not written", "[io][unit]") {
  TempDir dir;
  io::Reactor reactor;
  io::ThreadPool pool(1);
  auto device = io::FileDevice::Open(&reactor, &pool, MakeImage(dir, 1 << 20), {.read_only = true});
  REQUIRE(device.ok());
  AlignedBuffer b(kBlockSize);
  CHECK(reactor.RunTask((*device)->Write(0, b.span(), WriteFlags::kNone)).code() == Errc::kReadOnly);
  CHECK(reactor.RunTask((*device)->Read(0, b.span())).ok());
}

TEST_CASE("io: byte locks exclude another open of the volume and end with it", "[io][unit]") {
  TempDir dir;
  io::Reactor reactor;
  io::ThreadPool pool(1);
  std::string path = MakeImage(dir, 1 << 20);
  auto a = io::FileDevice::Open(&reactor, &pool, path);
  auto b = io::FileDevice::Open(&reactor, &pool, path);
  REQUIRE(a.ok());
  REQUIRE(b.ok());
  CHECK((*a)->LockByte(256).ok());
  CHECK((*a)->LockByte(256).ok());
  CHECK((*b)->LockByte(256).code() == Errc::kBusy);
  CHECK((*b)->LockByte(257).ok());
  CHECK(*(*b)->TestByte(256));
  CHECK_FALSE(*(*a)->TestByte(256));  // our own
  CHECK(*(*a)->TestByte(257));
  reactor.RunTask((*a)->Close());
  CHECK((*b)->LockByte(256).ok());
}

TEST_CASE("io: who wants a volume waits for a mount that is ending, not for one that stays", "[io][unit]") {
  TempDir dir;
  io::Reactor reactor;
  io::ThreadPool pool(1);
  std::string path = MakeImage(dir, 1 << 20);
  auto mount = io::FileDevice::Open(&reactor, &pool, path);
  auto next = io::FileDevice::Open(&reactor, &pool, path);
  REQUIRE(mount.ok());
  REQUIRE(next.ok());
  auto look = [&](Duration patience) { return reactor.RunTask(io::VolumeUserAfterEnding(next->get(), patience)); };
  auto elapsed = [&](auto run) {
    Instant begun = reactor.clock().Now();
    run();
    return reactor.clock().Now() - begun;
  };
  CHECK(look(Seconds(5))->who.empty());
  REQUIRE((*mount)->LockByte(io::kMountBytes + 3).ok());
  // It stays: said at once.
  CHECK(elapsed([&] { CHECK(look(Seconds(5))->who == "mount number 3"); }) < Seconds(2));
  CHECK(elapsed([&] { CHECK(reactor.RunTask(io::TakeMountByte(next->get(), 3, Seconds(5))).code() == Errc::kBusy); }) < Seconds(2));
  // It goes, but not within the patience.
  REQUIRE((*mount)->LockByte(io::kEndingBytes + 3).ok());
  CHECK(elapsed([&] { CHECK(look(Milliseconds(100))->ending); }) >= Milliseconds(100));
  CHECK(reactor.RunTask(io::TakeMountByte(next->get(), 3, Milliseconds(100))).code() == Errc::kBusy);
  // A daemon stays longer than it: no waiting.
  auto daemon = io::FileDevice::Open(&reactor, &pool, path);
  REQUIRE(daemon.ok());
  REQUIRE((*daemon)->LockByte(io::kDaemonBytes + 1).ok());
  CHECK(elapsed([&] { CHECK(look(Seconds(5))->who == "holdfastd of node 2"); }) < Seconds(2));
  reactor.RunTask((*daemon)->Close());
  // It goes while somebody waits.
  reactor.PostAt(reactor.clock().Now() + Milliseconds(50), [&] { Detach((*mount)->Close()); });
  CHECK(reactor.RunTask(io::TakeMountByte(next->get(), 3, Seconds(20))).ok());
  CHECK(look(Seconds(1))->who.empty());
}

TEST_CASE("io: a truncated image gives an error, not garbage", "[io][unit]") {
  TempDir dir;
  io::Reactor reactor;
  io::ThreadPool pool(1);
  std::string path = MakeImage(dir, 1 << 20);
  auto device = io::FileDevice::Open(&reactor, &pool, path);
  REQUIRE(device.ok());
  std::filesystem::resize_file(path, 4096);
  AlignedBuffer b(kBlockSize);
  CHECK(reactor.RunTask((*device)->Read(8192, b.span())).code() == Errc::kIo);
}
