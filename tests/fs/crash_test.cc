// Crash cuts: a workload of toy objects, cut at every device write; each unflushed sector kept, lost or torn; then
// replay, and what is there must be a state of the model no older than the last acknowledged commit, with bitmaps that
// agree. Control: without replay some cut must fail. Mutants: a journal that is deliberately wrong must be noticed.
#include <catch2/catch.hpp>

#include "base/log.h"
#include "tests/fs/toy_objects.h"
#include "tests/sim/seeds.h"

using namespace holdfast;
using namespace holdfast::fs;
using namespace holdfast::fs::test;

namespace {

struct Options {
  bool replay = true;
  JournalMutant mutant = JournalMutant::kNone;
  bool volatile_cache = true;
  int steps = 60;
};

struct Run {
  std::vector<ToyState> history;  // after each step
  size_t synced = 0;              // history up to here was acknowledged as durable
  bool indexed = false;
  BlockNo index;
};

Task<Status> Work(StorageRig* rig, Toys* toys, Random* random, Run* run, int steps) {
  HF_CO_TRY(co_await toys->CreateIndex());
  run->index = toys->index_block();
  HF_CO_TRY(co_await rig->journal->Commit());
  run->indexed = true;
  run->history.push_back(toys->state());
  for (int i = 0; i < steps; ++i) {
    auto cell = static_cast<uint32_t>(random->Below(12));
    uint64_t what = random->Below(12);
    // Replacing is two transactions: removing first keeps the history exact.
    if (what < 6) {
      if (toys->state().contains(cell)) {
        HF_CO_TRY(co_await toys->Remove(cell));
        run->history.push_back(toys->state());
      }
      HF_CO_TRY(co_await toys->Put(cell, random->Next(), static_cast<uint32_t>(1 + random->Below(6))));
    } else if (what < 8 && toys->state().contains(cell)) {
      HF_CO_TRY(co_await toys->Remove(cell));
    } else if (what == 8 && toys->state().contains(cell)) {
      HF_CO_TRY(co_await toys->AbortedChange(cell));
    }
    run->history.push_back(toys->state());
    size_t now = run->history.size() - 1;
    if (what >= 10) {
      HF_CO_TRY(co_await rig->journal->Commit());
      run->synced = now;
    }
    if (i % 9 == 8) co_await rig->locks->Demote(CellResource(cell), LockMode::kNone);
    if (i % 13 == 12) co_await rig->locks->Demote(GroupResource(0), LockMode::kNone);
    if (i % 17 == 16) {
      HF_CO_TRY(co_await rig->journal->Checkpoint());
      run->synced = now;
    }
  }
  co_return Status();
}

// Mounts what is left after the cut in a world of its own and looks at it.
std::string Verify(uint64_t seed, sim::DiskImage image, const Run& run, size_t synced, bool replay) {
  sim::World world(seed);
  sim::SimDisk disk(&world, std::move(image));
  sim::SimExecutor& p = world.Start(NodeId(1));
  auto session = disk.Open(p);
  auto rig = std::make_unique<StorageRig>(session.get());
  auto started = world.Run(p, rig->Start(replay));
  if (!started.ok()) return "start: " + started.error().ToString();
  auto stopped = world.Run(p, rig->Stop());
  if (!stopped.ok()) return "stop: " + stopped.error().ToString();
  ToyState read;
  std::string wrong = world.Run(p, ReadToys(session.get(), rig->super, run.index, &read));
  if (!wrong.empty()) return wrong;
  for (size_t i = synced; i < run.history.size(); ++i) {
    if (run.history[i] == read) return "";
  }
  return "what is there is no state since the last commit that was acknowledged";
}

// "" or the first thing wrong.
std::string CrashRun(uint64_t seed, Options options) {
  SetLogLevel(LogLevel::kOff);  // a mutant that fails, fails a thousand times
  sim::World world(seed);
  sim::DiskKnobs knobs = sim::DiskKnobs::Random(world.random());
  knobs.volatile_cache = options.volatile_cache;
  knobs.read_error = knobs.write_error = 0;
  sim::SimDisk disk(&world, 16 << 20, knobs);
  {
    sim::SimExecutor& p = world.Start(NodeId(1));
    auto session = disk.Open(p);
    world.Run(p, MakeToyVolume(session.get(), &world.random(), 1));
  }
  sim::SimExecutor& p = world.Start(NodeId(1));
  auto session = disk.Open(p);
  auto* rig = new StorageRig(session.get());
  rig->journal_knobs.checkpoint_percent = static_cast<uint32_t>(world.random().Between(10, 90));
  rig->journal_knobs.write_blocks_max = static_cast<uint32_t>(world.random().Between(1, 8));
  rig->alloc_knobs.data_pool_blocks = world.random().Between(4, 100);
  rig->alloc_knobs.meta_pool = static_cast<uint32_t>(world.random().Between(1, 30));
  rig->alloc_knobs.emergency_meta = 4;
  auto started = world.Run(p, rig->Start(true));
  if (!started.ok()) return "first start: " + started.error().ToString();
  rig->journal->set_mutant(options.mutant);
  auto* toys = new Toys(rig);
  Run run;
  std::string wrong;
  uint64_t cuts = 0;
  sim::SimRandom outcome(seed * 7919 + 1);
  auto cut = [&] {
    if (!run.indexed || !wrong.empty()) return;
    std::string bad = Verify(seed, disk.CrashImage(outcome), run, run.synced, options.replay);
    ++cuts;
    if (!bad.empty()) wrong = "cut " + std::to_string(cuts) + ": " + bad;
  };
  disk.OnWrite([&](const sim::DiskWrite&) { cut(); });
  auto worked = world.Run(p, Work(rig, toys, &world.random(), &run, options.steps));
  cut();
  disk.OnWrite(nullptr);
  if (!worked.ok() && wrong.empty()) wrong = "work: " + worked.error().ToString();
  if (wrong.empty() && cuts < 30) wrong = "only " + std::to_string(cuts) + " cuts";
  return wrong;
}

std::string FirstFailures(const sim::SeedReport& report) {
  std::string text;
  for (auto& f : report.failures) text += "seed " + std::to_string(f.seed) + ": " + f.what + "\n";
  return text;
}

}  // namespace

TEST_CASE("crash: every cut replays to a consistent state with all that was synced", "[fs][crash][sim]") {
  for (bool volatile_cache : {true, false}) {
    Options options;
    options.volatile_cache = volatile_cache;
    auto report = sim::RunSeeds({.count = 30, .batch = 5}, [&](uint64_t seed) { return CrashRun(seed, options); });
    INFO(FirstFailures(report));
    CHECK(report.ok());
  }
}

TEST_CASE("crash: control: without replay the check fails somewhere", "[fs][crash][sim]") {
  Options options;
  options.replay = false;
  auto report = sim::RunSeeds({.count = 6, .batch = 2, .failures_max = 1}, [&](uint64_t seed) { return CrashRun(seed, options); });
  CHECK_FALSE(report.failures.empty());
}

TEST_CASE("crash: mutants of the journal are noticed", "[fs][crash][sim][mutant]") {
  for (JournalMutant mutant : {JournalMutant::kCommitBeforeImages, JournalMutant::kTailEarly}) {
    Options options;
    options.mutant = mutant;
    auto report = sim::RunSeeds({.count = 20, .batch = 2, .failures_max = 1}, [&](uint64_t seed) { return CrashRun(seed, options); });
    INFO("mutant " << static_cast<int>(mutant));
    CHECK_FALSE(report.failures.empty());
  }
}
