// Crash cuts with a hand-over in the middle: two mounts with a journal each take turns in the same directories and files, so
// that blocks that one has logged are changed by the other; the whole cluster loses power at a write of the device. Both
// journals are replayed, and the checks of crash_files.h are made. A replay that ignores versions fails every seed here (seen),
// and none with one mount.
#include <catch2/catch.hpp>

#include "tests/fs/crash_files.h"
#include "tests/fs/model_locks.h"
#include "tests/sim/seeds.h"

namespace holdfast::fs::test {
namespace {

struct Member {
  sim::SimExecutor* process;
  std::unique_ptr<sim::SimDiskSession> session;
  std::unique_ptr<ModelLocks::Port> port;
  std::unique_ptr<VfsRig> rig;
};

std::string CrashRun(uint64_t seed, bool replay) {
  SetLogLevel(LogLevel::kOff);
  sim::DiskKnobs knobs;
  knobs.volatile_cache = seed % 3 != 0;
  VolumeRig volume(seed, 24, knobs);
  FillFreeSpace(&volume);
  sim::World& world = volume.world;
  sim::SimRandom& random = world.random();
  ModelLocks model(&world);
  std::vector<Member> members;
  std::vector<sim::SimExecutor*> processes;
  std::vector<Vfs*> mounts;
  for (uint32_t i = 0; i < 2; ++i) {
    Member m;
    m.process = &world.Start(NodeId(10 + i));
    m.session = volume.disk->Open(*m.process);
    m.port = model.Join(m.process);
    m.rig = std::make_unique<VfsRig>(m.session.get(), m.port.get(), MountNo(i));
    m.rig->storage.alone = false;
    m.rig->knobs.flush_age = Milliseconds(static_cast<int64_t>(1 + random.Below(2000)));
    m.rig->knobs.flush_interval = Milliseconds(100);
    m.rig->storage.journal_knobs.checkpoint_percent = static_cast<uint32_t>(random.Between(5, 90));
    m.rig->storage.alloc_knobs.data_pool_blocks = random.Between(16, 400);
    m.rig->storage.alloc_knobs.meta_pool = static_cast<uint32_t>(random.Between(8, 64));
    members.push_back(std::move(m));
    processes.push_back(members.back().process);
  }
  // Both start on clean journals.
  for (Member& m : members) {
    Must(world.Run(*m.process, m.rig->Start()));
    mounts.push_back(m.rig->vfs.get());
  }
  Workload work(mounts, &random);
  std::string wrong;
  uint64_t cuts = 0;
  sim::SimRandom outcome(seed * 7919 + 3);
  volume.disk->OnWrite([&](const sim::DiskWrite&) {
    if (!wrong.empty()) return;
    std::string bad = Verify(seed, volume.disk->CrashImage(outcome), work.promise(), cuts % 4 == 0, replay, 2);
    if (!bad.empty()) wrong = "cut " + std::to_string(cuts) + ": " + bad;
    ++cuts;
  });
  Status worked = world.Run(*processes[0], work.Begin());
  for (int i = 0; i < 50 && worked.ok() && wrong.empty(); ++i) worked = RunStep(&world, processes, mounts, &work, random.Below(2), i);
  volume.disk->OnWrite(nullptr);
  if (!worked.ok() && wrong.empty()) wrong = "work: " + worked.error().ToString();
  if (wrong.empty() && cuts < 20) wrong = "only " + std::to_string(cuts) + " cuts";
  for (Member& m : members) {
    m.process->Crash();
    world.Abandon(std::move(m.rig));
    world.Abandon(std::move(m.port));
    world.Abandon(std::move(m.session));
  }
  return wrong;
}

}  // namespace

TEST_CASE("crash: two mounts, hand-over in the middle: every cut replays, synced files are whole", "[fs][crash][sim]") {
  auto report = sim::RunSeeds({.count = 24, .batch = 4}, [](uint64_t seed) { return CrashRun(seed, true); });
  INFO(report.ToString());
  CHECK(report.ok());
}

TEST_CASE("crash: two mounts: control: without replay fsck finds something", "[fs][crash][sim]") {
  auto report = sim::RunSeeds({.count = 4, .batch = 1, .failures_max = 1}, [](uint64_t seed) { return CrashRun(seed, false); });
  CHECK_FALSE(report.failures.empty());
}

}  // namespace holdfast::fs::test
