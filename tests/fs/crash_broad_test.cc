// Crash cuts under the broad script (crash_script.h): every operation, on one mount and on two that take turns, cut at the
// device's writes with chosen subsets of what was not flushed (crash_outcomes.h); replay, fsck, mount, the model
// (crash_model.h), unmount, fsck. Control: without replay something is found.
// HOLDFAST_CUTS=all: every subset of the list and every cut mounted (minutes for each seed).
#include <catch2/catch.hpp>

#include <cstdlib>

#include "tests/fs/crash_files.h"
#include "tests/fs/crash_outcomes.h"
#include "tests/fs/crash_script.h"
#include "tests/fs/model_locks.h"
#include "tests/sim/seeds.h"

namespace holdfast::fs::test {
namespace {

struct Options {
  size_t mounts = 1;
  bool replay = true;
  JournalMutant mutant = JournalMutant::kNone;
};

bool AllCuts() {
  const char* text = std::getenv("HOLDFAST_CUTS");
  return text != nullptr && std::string(text) == "all";
}

struct Member {
  sim::SimExecutor* process = nullptr;
  std::unique_ptr<sim::SimDiskSession> session;
  std::unique_ptr<ModelLocks::Port> port;
  std::unique_ptr<VfsRig> rig;
};

// Without replay: every journal is called clean.
Task<Status> ForgetJournals(BlockDevice* device) {
  auto super = co_await ReadSuperblock(*device);
  if (!super.ok()) co_return super.error();
  for (uint32_t i = 0; i < super->geometry.journal_count; ++i) {
    auto header = co_await ReadJournalHeader(*device, super->geometry, MountNo(i));
    if (!header.ok()) co_return header.error();
    header->state = JournalState::kClean;
    HF_CO_TRY(co_await WriteJournalHeader(*device, super->geometry, &*header));
  }
  co_return Status();
}

// What is left, seen by who comes after. deep: through a mount too.
std::string Verify(uint64_t seed, sim::DiskImage image, const CrashModel& model, bool deep, Options options) {
  sim::World world(seed);
  sim::SimDisk disk(&world, std::move(image));
  sim::SimExecutor& p = world.Start(NodeId(1));
  auto session = disk.Open(p);
  if (!options.replay) Must(world.Run(p, ForgetJournals(session.get())));
  std::string wrong = Findings(world.Run(p, CheckVolume(*session, CheckOptions{})), false);
  if (!wrong.empty() || !deep) return wrong;
  // Each journal's next owner takes over its orphans and claims.
  for (uint32_t next = 0; next < 2; ++next) {
    auto rig = std::make_unique<VfsRig>(session.get(), nullptr, MountNo(next));
    Status done = world.Run(p, rig->Start());
    if (done.ok() && next == 0) {
      auto tree = world.Run(p, ReadTree(rig->vfs.get()));
      wrong = tree.ok() ? model.Judge(*tree, options.mounts == 1) : "reading: " + tree.error().ToString();
    }
    if (done.ok() && wrong.empty()) {
      world.RunFor(Seconds(3));
      done = world.Run(p, rig->Stop());
    }
    if (!done.ok()) wrong = "mount " + std::to_string(next) + ": " + done.error().ToString();
    if (wrong.empty() && !rig->fatal.empty()) wrong = "fatal: " + rig->fatal;
    if (!wrong.empty()) world.Abandon(std::move(rig));
    if (!wrong.empty()) return wrong;
  }
  return Findings(world.Run(p, CheckVolume(*session, CheckOptions{})), true);
}

void SetKnobs(VfsRig* rig, sim::SimRandom* random) {
  rig->knobs.flush_age = Milliseconds(static_cast<int64_t>(1 + random->Below(2000)));
  rig->knobs.flush_interval = Milliseconds(100);
  rig->knobs.free_extents_max = 1 + random->Below(8);
  rig->knobs.inodes_max = random->Below(2) ? 16384 : 4;
  rig->knobs.nodes_per_inode_max = random->Below(2) ? 1024 : 2;
  rig->storage.journal_knobs.checkpoint_percent = static_cast<uint32_t>(random->Between(5, 90));
  if (random->Below(2)) rig->storage.journal_knobs.record_blocks_max = static_cast<uint32_t>(random->Between(40, 120));
  rig->storage.alloc_knobs.data_pool_blocks = random->Between(16, 400);
  rig->storage.alloc_knobs.meta_pool = static_cast<uint32_t>(random->Between(8, 64));
}

// One step on a mount, and what it asks of all mounts.
Status Step(sim::World* world, std::vector<Member>* members, CrashScript* script, size_t at) {
  script->Use(at);
  Member& one = (*members)[at];
  HF_TRY(world->Run(*one.process, script->Step()));
  if (script->wants_letting_go()) {
    auto let_go = [](LockTable* locks) -> Task<Status> {
      co_await locks->DemoteAll(LockType::kOpen);  // an open file keeps its own
      co_return Status();
    };
    HF_TRY(world->Run(*one.process, let_go(one.rig->storage.locks.get())));
  }
  if (!script->wants_all()) return Status();
  for (Member& m : *members) HF_TRY(world->Run(*m.process, m.rig->vfs->SyncFs()));
  script->Synced();
  return Status();
}

// Without a crash, when all is written and let go: nothing is promised any more, and what statfs tells is what is free.
Task<std::string> Accounts(VfsRig* rig) {
  auto synced = co_await rig->vfs->SyncFs();
  if (!synced.ok()) co_return "last sync: " + synced.error().ToString();
  co_await SleepFor(Seconds(3));  // the reaper
  co_await rig->storage.locks->DemoteAll(LockType::kOpen);
  Allocator& alloc = *rig->storage.alloc;
  auto pool = alloc.pool();
  if (pool.data_promised + pool.meta_promised != 0) co_return "space is promised to nobody";
  uint64_t told = alloc.totals().free;
  auto loaded = co_await alloc.LoadTotals();
  if (!loaded.ok()) co_return loaded.error().ToString();
  uint64_t is = alloc.totals().free;
  co_return told == is ? "" : "statfs tells " + std::to_string(told) + " free blocks, there are " + std::to_string(is);
}

std::string CrashRun(uint64_t seed, Options options) {
  SetLogLevel(LogLevel::kOff);
  sim::DiskKnobs knobs;
  knobs.volatile_cache = seed % 4 != 0;
  knobs.early_destage = 0;
  VolumeRig volume(seed, 32, knobs);
  FillFreeSpace(&volume);
  sim::World& world = volume.world;
  sim::SimRandom& random = world.random();
  ModelLocks locks(&world);
  std::vector<Member> members;
  std::vector<Vfs*> mounts;
  for (uint32_t i = 0; i < options.mounts; ++i) {
    Member m;
    m.process = &world.Start(NodeId(10 + i));
    m.session = volume.disk->Open(*m.process);
    m.port = locks.Join(m.process);
    m.rig = std::make_unique<VfsRig>(m.session.get(), m.port.get(), MountNo(i));
    m.rig->storage.alone = false;
    SetKnobs(m.rig.get(), &random);
    members.push_back(std::move(m));
  }
  for (Member& m : members) {
    Must(world.Run(*m.process, m.rig->Start()));
    m.rig->storage.journal->set_mutant(options.mutant);
    mounts.push_back(m.rig->vfs.get());
  }
  CrashScript script(mounts, &random, seed % 5 == 0 ? 2400 : 60);
  Status worked = world.Run(*members[0].process, script.Begin());
  std::string wrong;
  uint64_t cuts = 0, verified = 0;
  sim::SimRandom outcome(seed * 7919 + 5);
  const Geometry geometry = members[0].rig->storage.super.geometry;
  CrashOutcomes outcomes(volume.disk.get());
  bool all = AllCuts();
  volume.disk->OnFlush([&] { outcomes.Flushed(); });
  volume.disk->OnWrite([&](const sim::DiskWrite& write) {
    outcomes.Wrote(write);
    ++cuts;
    if (!wrong.empty() || (!all && outcome.Below(2) != 0)) return;
    for (sim::DiskImage& image : outcomes.Some(&outcome, geometry, all)) {
      bool deep = all || verified++ % 2 == 0;
      std::string bad = Verify(seed, std::move(image), script.model(), deep, options);
      std::string at = "cut " + std::to_string(cuts) + " (" + std::to_string(outcomes.pending()) + " unflushed writes): ";
      if (!bad.empty()) wrong = at + bad;
      if (!bad.empty()) return;
    }
  });
  for (int i = 0; i < 90 && worked.ok() && wrong.empty(); ++i)
    worked = Step(&world, &members, &script, random.Below(members.size()));
  volume.disk->OnWrite(nullptr);
  volume.disk->OnFlush(nullptr);
  if (!worked.ok() && wrong.empty()) wrong = "work: " + worked.error().ToString();
  if (wrong.empty() && members.size() == 1) wrong = world.Run(*members[0].process, Accounts(members[0].rig.get()));
  for (Member& m : members)
    if (wrong.empty() && !m.rig->fatal.empty()) wrong = "fatal: " + m.rig->fatal;
  if (wrong.empty() && cuts < 40) wrong = "only " + std::to_string(cuts) + " cuts";
  for (Member& m : members) {
    m.process->Crash();
    world.Abandon(std::move(m.rig));
    world.Abandon(std::move(m.port));
    world.Abandon(std::move(m.session));
  }
  return wrong;
}

}  // namespace

TEST_CASE("crash: every operation on one mount: each cut leaves the tree of one moment", "[fs][crash][sim]") {
  sim::SeedOptions seeds{.count = 40, .batch = 4, .seconds_max = 300};
  auto report = sim::RunSeeds(seeds, [](uint64_t seed) { return CrashRun(seed, {}); });
  INFO(report.ToString());
  CHECK(report.ok());
}

TEST_CASE("crash: every operation on two mounts: each cut leaves each inode whole", "[fs][crash][sim]") {
  sim::SeedOptions seeds{.count = 30, .batch = 3, .seconds_max = 300};
  auto report = sim::RunSeeds(seeds, [](uint64_t seed) { return CrashRun(seed, {.mounts = 2}); });
  INFO(report.ToString());
  CHECK(report.ok());
}

TEST_CASE("crash: every operation: control: without replay something is found", "[fs][crash][sim]") {
  for (size_t mounts : {size_t{1}, size_t{2}}) {
    Options options;
    options.mounts = mounts;
    options.replay = false;
    sim::SeedOptions seeds{.count = 4, .batch = 1, .seconds_max = 300, .failures_max = 1};
    auto report = sim::RunSeeds(seeds, [options](uint64_t seed) { return CrashRun(seed, options); });
    CHECK_FALSE(report.failures.empty());
  }
}

TEST_CASE("crash: every operation: mutants of the journal are noticed", "[fs][crash][sim][mutant]") {
  for (JournalMutant mutant : {JournalMutant::kCommitBeforeImages, JournalMutant::kTailEarly, JournalMutant::kUnordered}) {
    Options options;
    options.mutant = mutant;
    sim::SeedOptions seeds{.count = 40, .batch = 4, .seconds_max = 300, .failures_max = 1};
    auto report = sim::RunSeeds(seeds, [options](uint64_t seed) { return CrashRun(seed, options); });
    INFO("mutant " << static_cast<int>(mutant));
    CHECK_FALSE(report.failures.empty());
  }
}

}  // namespace holdfast::fs::test
