// The storage step on the simulated disk: whatever the schedule, after it no write of the victim lands.

#include <catch2/catch.hpp>

#include <set>

#include "fence/pr_fence.h"
#include "tests/sim/disk.h"
#include "tests/sim/seeds.h"
#include "tests/sim/world.h"

namespace holdfast::fence {
namespace {

class SimSession final : public ReservationSession {
 public:
  explicit SimSession(std::unique_ptr<sim::SimDiskSession> session) : session_(std::move(session)) {}
  Reservations& reservations() override { return *session_; }
  Task<void> Close() override { return session_->Close(); }

 private:
  std::unique_ptr<sim::SimDiskSession> session_;
};

class SimSessions final : public ReservationSessions {
 public:
  SimSessions(sim::SimDisk* disk, sim::SimExecutor* process) : disk_(disk), process_(process) {}
  bool Supports(const std::string&) const override { return true; }
  Task<Result<std::unique_ptr<ReservationSession>>> Open(std::string) override {
    co_return std::unique_ptr<ReservationSession>(new SimSession(disk_->Open(*process_)));
  }

 private:
  sim::SimDisk* disk_;
  sim::SimExecutor* process_;
};

constexpr ReservationKey kVictimDaemon = MakeKey(NodeId(2), 7, 0), kVictimMount = MakeKey(NodeId(2), 7, 1);
constexpr ReservationKey kVictimLater = MakeKey(NodeId(2), 8, 0);  // its next life
constexpr ReservationKey kSurvivor = MakeKey(NodeId(1), 5, 1), kFencer = MakeKey(NodeId(1), 5, kFencerProcess);

Task<void> WriteForEver(BlockDevice* device, uint64_t from) {
  AlignedBuffer block(kBlockSize);
  for (uint64_t i = 0;; i++) {
    auto status = co_await device->Write((from + i % 8) * kBlockSize, block.span(), WriteFlags::kNone);
    if (status.code() == Errc::kConflict) co_return;
  }
}

std::string OneSeed(uint64_t seed) {
  sim::World world(seed);
  sim::DiskKnobs knobs = sim::DiskKnobs::Random(world.random());
  knobs.read_error = knobs.write_error = 0;
  sim::SimDisk disk(&world, 1 << 20, knobs);
  auto& survivor = world.Start(NodeId(1));
  auto& victim = world.Start(NodeId(2));
  auto mine = disk.Open(survivor);
  auto daemon = disk.Open(victim), mount = disk.Open(victim), later = disk.Open(victim);
  if (!world.Run(survivor, mine->Register(kSurvivor)).ok() || !world.Run(survivor, mine->Reserve(kSurvivor)).ok()) return "setup";
  if (!world.Run(victim, daemon->Register(kVictimDaemon)).ok() || !world.Run(victim, mount->Register(kVictimMount)).ok()) return "setup";
  if (!world.Run(victim, later->Register(kVictimLater)).ok()) return "setup";
  victim.Spawn(WriteForEver(daemon.get(), 0));
  victim.Spawn(WriteForEver(mount.get(), 16));
  world.RunFor(world.random().Between(Milliseconds(0), Milliseconds(50)));
  bool crashed = world.random().Chance(sim::kMillion / 2);
  if (crashed) victim.Crash();
  Instant fenced{UINT64_MAX};
  std::string trouble;
  disk.OnWrite([&](const sim::DiskWrite& write) {
    if (write.landed >= fenced && (write.key == kVictimDaemon || write.key == kVictimMount)) trouble = "a fenced write landed";
  });
  SimSessions sessions(&disk, &survivor);
  PrFence fence(&sessions, kFencer);
  // The mount's key is known to the array alone: it belongs to the same life.
  auto proof = world.Run(survivor, fence.Fence("v", {kVictimDaemon}, true, nullptr));
  if (!proof.ok()) return "not fenced: " + proof.error().ToString();
  fenced = world.now();
  world.RunFor(Seconds(10));
  if (!trouble.empty()) return trouble;
  auto state = disk.reservation();
  std::set<ReservationKey> keys(state.keys.begin(), state.keys.end());
  if (keys != std::set<ReservationKey>{kSurvivor, kVictimLater}) return "wrong keys are left";
  if (!state.reserved) return "the reservation is gone";
  auto again = world.Run(survivor, fence.Fence("v", {kVictimDaemon, kVictimMount}, true, nullptr));
  if (!again.ok()) return "not repeatable: " + again.error().ToString();
  // A mount alone: the daemon of the same life keeps its key.
  auto mount_only = world.Run(survivor, fence.FenceMount("v", kVictimLater));
  if (!mount_only.ok()) return "mount not fenced";
  // The last key is the fencer's own: it stays, or the reservation would go.
  if (!world.Run(survivor, mine->Unregister(kSurvivor)).ok()) return "unregister";
  auto last = world.Run(survivor, fence.Fence("v", {kVictimDaemon}, true, nullptr));
  if (!last.ok() || !disk.reservation().reserved) return "the reservation went with the last key";
  world.Abandon(std::move(daemon));
  world.Abandon(std::move(mount));
  return "";
}

}  // namespace

TEST_CASE("fence_pr: after the storage step no write of the victim's life lands, on any seed", "[fence][sim]") {
  auto report = sim::RunSeeds({.count = 300}, OneSeed);
  INFO(report.ToString());
  CHECK(report.ok());
}

TEST_CASE("fence_pr: refuses to preempt itself", "[fence][unit]") {
  sim::World world(1);
  sim::SimDisk disk(&world, 1 << 20);
  auto& process = world.Start(NodeId(1));
  SimSessions sessions(&disk, &process);
  PrFence fence(&sessions, kFencer);
  CHECK(world.Run(process, fence.Fence("v", {kFencer}, false, nullptr)).code() == Errc::kInvalid);
}

}  // namespace holdfast::fence
