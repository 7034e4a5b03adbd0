// Crash cuts of a whole mount: the workload of crash_files.h, cut at the device's writes; each unflushed sector kept,
// lost or torn; then the checks there. Control: without replay fsck must find something somewhere.
#include <catch2/catch.hpp>

#include "tests/fs/crash_files.h"
#include "tests/sim/seeds.h"

namespace holdfast::fs::test {
namespace {

// One legal outcome of a power loss that independent sectors hardly ever give: the journal's area was destaged whole,
// everything else that was not flushed is lost.
sim::DiskImage LogAloneKept(const sim::SimDisk& disk, const Geometry& geometry) {
  sim::DiskImage image = disk.DurableImage();
  std::vector<std::byte> block(kBlockSize);
  uint64_t first = geometry.JournalStart(MountNo(0)).v;
  for (uint64_t b = first; b < first + geometry.journal_blocks; ++b) {
    disk.image().Read(b * kBlockSize, block);
    image.Write(b * kBlockSize, block);
  }
  return image;
}

std::string CrashRun(uint64_t seed, bool replay, JournalMutant mutant = JournalMutant::kNone) {
  SetLogLevel(LogLevel::kOff);
  sim::DiskKnobs knobs;
  knobs.volatile_cache = seed % 3 != 0;
  VolumeRig rig(seed, 24, knobs);
  FillFreeSpace(&rig);
  sim::SimRandom& random = rig.world.random();
  rig.knobs.flush_age = Milliseconds(static_cast<int64_t>(1 + random.Below(2000)));
  rig.knobs.flush_interval = Milliseconds(100);
  rig.knobs.free_extents_max = 1 + random.Below(8);
  rig.mount = std::make_unique<VfsRig>(rig.session.get());
  rig.mount->knobs = rig.knobs;
  rig.mount->storage.journal_knobs.checkpoint_percent = static_cast<uint32_t>(random.Between(5, 90));
  rig.mount->storage.alloc_knobs.data_pool_blocks = random.Between(16, 400);
  rig.mount->storage.alloc_knobs.meta_pool = static_cast<uint32_t>(random.Between(8, 64));
  Must(rig.world.Run(*rig.process, rig.mount->Start()));
  rig.mount->storage.journal->set_mutant(mutant);
  Workload work({rig.mount->vfs.get()}, &random);
  std::string wrong;
  uint64_t cuts = 0;
  sim::SimRandom outcome(seed * 7919 + 3);
  auto cut = [&] {
    if (!wrong.empty()) return;
    bool deep = cuts % 3 == 0;
    bool log_alone = outcome.Below(3) == 0;
    sim::DiskImage left = log_alone ? LogAloneKept(*rig.disk, rig.mount->storage.super.geometry) : rig.disk->CrashImage(outcome);
    std::string bad = Verify(seed, std::move(left), work.promise(), deep, replay);
    if (!bad.empty()) wrong = "cut " + std::to_string(cuts) + ": " + bad;
    ++cuts;
  };
  rig.disk->OnWrite([&](const sim::DiskWrite&) { cut(); });
  Status worked = rig.world.Run(*rig.process, work.Begin());
  for (int i = 0; i < 60 && worked.ok(); ++i) worked = RunStep(&rig.world, {rig.process}, {rig.mount->vfs.get()}, &work, 0, i);
  rig.disk->OnWrite(nullptr);
  if (!worked.ok() && wrong.empty()) wrong = "work: " + worked.error().ToString();
  if (wrong.empty() && cuts < 20) wrong = "only " + std::to_string(cuts) + " cuts";
  rig.process->Crash();
  rig.world.Abandon(std::move(rig.mount));
  return wrong;
}

}  // namespace

TEST_CASE("crash: files: every cut replays, fsck is clean, synced files are whole", "[fs][crash][sim]") {
  auto report = sim::RunSeeds({.count = 30, .batch = 5}, [](uint64_t seed) { return CrashRun(seed, true); });
  INFO(report.ToString());
  CHECK(report.ok());
}

TEST_CASE("crash: files: mutants of the journal are noticed", "[fs][crash][sim][mutant]") {
  for (JournalMutant mutant : {JournalMutant::kCommitBeforeImages, JournalMutant::kTailEarly, JournalMutant::kUnordered}) {
    auto report = sim::RunSeeds({.count = 60, .batch = 5, .failures_max = 1}, [mutant](uint64_t seed) { return CrashRun(seed, true, mutant); });
    INFO("mutant " << static_cast<int>(mutant));
    CHECK_FALSE(report.failures.empty());
  }
}

TEST_CASE("crash: files: control: without replay fsck finds something", "[fs][crash][sim]") {
  auto report = sim::RunSeeds({.count = 4, .batch = 1, .failures_max = 1}, [](uint64_t seed) { return CrashRun(seed, false); });
  CHECK_FALSE(report.failures.empty());
}

}  // namespace holdfast::fs::test
