// The kernel's rules (filesystem.md) in simulation: several mounts, each with a modelled kernel that caches attributes,
// names and pages, holds i_rwsem and page locks while a request is held back, and uses replies late. The checker is
// I6: a read sees nothing older than what was complete when it began; and everything gets through.
#include <catch2/catch.hpp>

#include <map>

#include "fs/kernel_cache.h"

#include "tests/fs/model_kernel.h"
#include "tests/fs/model_locks.h"
#include "tests/sim/seeds.h"

using namespace holdfast;
using namespace holdfast::fs;
using namespace holdfast::fs::test;
using sim::SimExecutor;
using sim::World;

namespace {

constexpr KernelInode kDir = 50;
constexpr KernelInode kFile = 60;

// The volume: versions of things, changed under EX only. `complete`: answered to the user.
struct Truth {
  std::map<std::string, uint64_t> now, complete;
  std::string wrong;
  uint64_t estale = 0, operations = 0;
  void Saw(const std::string& what, uint64_t version, uint64_t at_least) {
    if (version < at_least && wrong.empty()) {
      wrong = what + ": saw version " + std::to_string(version) + ", complete was " + std::to_string(at_least);
    }
  }
};

// Locks go as soon as they are asked for: replies are still under way then.
LockTableKnobs NoHold() {
  LockTableKnobs knobs;
  knobs.min_hold_floor = knobs.min_hold_max = Duration{0};
  return knobs;
}

struct Mount {
  Mount(World* w, ModelLocks* model, Truth* t, NodeId node, bool epoch, KernelCacheKnobs knobs)
      : world(w), truth(t), executor(&w->Start(node)), port(model->Join(executor)), kernel(w, epoch),
        table(*port, executor->clock(), NoHold()), cache(kernel, table, executor->clock(), knobs) {
    table.SetKernelHooks(&cache);
  }
  World* world;
  Truth* truth;
  SimExecutor* executor;
  std::unique_ptr<ModelLocks::Port> port;
  ModelKernel kernel;
  LockTable table;
  KernelCache cache;
};

using DirRequest = KernelCache::DirRequest;
using PageRequest = KernelCache::PageRequest;

Resource Of(KernelInode inode) { return Resource{LockType::kInode, inode}; }

// stat(2) of the file.
Task<void> Stat(Mount* m) {
  uint64_t at_least = m->truth->complete["attr"];
  ModelKernel::Inode& inode = m->kernel.Get(kFile);
  if (inode.known && inode.attr_kept) {
    m->truth->Saw("attr", inode.attr, at_least);
    co_return;
  }
  bool first = !inode.known;
  uint64_t version = inode.attr_version;
  co_await SleepFor(m->kernel.Delay());
  uint64_t value = 0, acquisition = 0;
  {
    auto guard = co_await m->table.Lock(Of(kFile), LockMode::kPr);
    value = m->truth->now["attr"];
    acquisition = guard->acquisition();
  }
  bool keep = m->cache.GaveAttr(kFile, acquisition, 0);
  m->cache.LookedUp(kFile);
  co_await SleepFor(m->kernel.Delay());  // the reply is on its way
  bool fresh = (first && !inode.known) || inode.attr_version == version;
  inode.known = true;
  if (fresh) {
    inode.attr = value;
    inode.attr_kept = keep;
  }
  m->truth->Saw("attr", value, at_least);
}

// write(2) through O_DIRECT, or chmod: changes both.
Task<void> Change(Mount* m) {
  if (!m->kernel.Get(kFile).known) co_return;
  co_await SleepFor(m->kernel.Delay());
  uint64_t value = 0;
  {
    auto guard = co_await m->table.Lock(Of(kFile), LockMode::kEx);
    value = ++m->truth->now["attr"];
    co_await SleepFor(m->kernel.Delay());
  }
  ModelKernel::Inode& inode = m->kernel.Get(kFile);
  inode.attr_kept = false;  // the kernel's own part
  inode.attr_version = m->kernel.NextVersion();
  {
    Mutex::Guard locked = co_await inode.page_lock.Lock();
    inode.page = false;
  }
  m->truth->complete["attr"] = std::max(m->truth->complete["attr"], value);
}

// read(2) through the page cache.
Task<void> ReadPage(Mount* m) {
  uint64_t at_least = m->truth->complete["attr"];
  ModelKernel::Inode& inode = m->kernel.Get(kFile);
  if (!inode.known) co_return;
  Mutex::Guard locked = co_await inode.page_lock.Lock();
  if (!inode.page) {
    PageRequest request(&m->cache, kFile, 0, 4096, false);
    co_await SleepFor(m->kernel.Delay());
    co_await m->cache.ReadGate(kFile);
    LockOptions options;
    options.page_io = options.page_read = true;
    for (;;) {
      uint64_t acquisition = 0;
      {
        auto guard = co_await m->table.Lock(Of(kFile), LockMode::kPr, options);
        acquisition = guard->acquisition();
        inode.page_value = m->truth->now["attr"];
        co_await SleepFor(m->kernel.Delay());
      }
      if (m->cache.PageReplyValid(kFile, acquisition, LockMode::kPr)) break;
    }
    inode.page = true;
  }
  m->truth->Saw("page", inode.page_value, at_least);
}

// A path walk over one name of the directory; ESTALE is repeated once by the VFS.
Task<void> Walk(Mount* m, std::string name, bool repeat = false) {
  uint64_t at_least = m->truth->complete[name];
  ModelKernel::Inode& dir = m->kernel.Get(kDir);
  ModelKernel::Name& cached = dir.names[name];
  bool usable = cached.keep && (!m->kernel.has_epoch() || cached.epoch == m->kernel.epoch());
  if (usable) {
    m->truth->Saw(name, cached.value, at_least);
    co_return;
  }
  bool revalidates = cached.epoch != 0;  // the dentry is there: no i_rwsem
  Mutex::Guard locked;
  if (!revalidates) {
    Mutex::Guard got = co_await dir.i_rwsem.Lock();
    locked = std::move(got);
  }
  uint64_t epoch = m->kernel.epoch();
  uint64_t dentry = cached.dentry;
  uint64_t value = 0, acquisition = 0;
  Errc code = Errc::kOk;
  bool keep = false;
  {
    Interrupt interrupt;
    DirRequest request(&m->cache, kDir, &interrupt, KernelCache::Holds::kAnother);
    co_await SleepFor(m->kernel.Delay());
    LockOptions options = Interruptible(&interrupt);
    options.page_io = true;  // as LockDirectory
    auto guard = co_await m->table.Lock(Of(kDir), LockMode::kPr, options);
    code = guard.code();
    if (guard.ok()) {
      value = m->truth->now[name];
      acquisition = guard->acquisition();
      guard->Release();
      // Every name has an inode of its own that the kernel knows once it has seen the name: a directory, the harder case.
      KernelInode child = 1000 + static_cast<KernelInode>(name[0]);
      keep = m->cache.GaveEntry(kDir, acquisition, name, child, true);
      m->cache.LookedUp(child);
    }
  }
  co_await SleepFor(m->kernel.Delay());
  if (code == Errc::kInterrupted) {
    if (repeat) {
      ++m->truth->estale;
    } else {
      locked.Release();
      while (m->cache.Hurts(kDir)) co_await SleepFor(Milliseconds(1));
      co_await Walk(m, name, true);
    }
    co_return;
  }
  m->truth->Saw(name, value, at_least);
  if (dir.names[name].dentry == dentry) dir.names[name] = {value, epoch, keep, dentry};
}

// CREATE or RENAME of a name: i_rwsem is held until the reply; ESTALE is repeated once by the VFS.
Task<void> ChangeName(Mount* m, std::string name) {
  ModelKernel::Inode& dir = m->kernel.Get(kDir);
  for (int attempt = 0; attempt < 2; ++attempt) {
    while (m->cache.Hurts(kDir)) co_await SleepFor(Milliseconds(1));  // as DoLookup, of the path's part before
    Mutex::Guard locked = co_await dir.i_rwsem.Lock();
    uint64_t epoch = m->kernel.epoch();
    Errc code;
    uint64_t value = 0, acquisition = 0;
    {
      Interrupt interrupt;
      DirRequest request(&m->cache, kDir, &interrupt);
      co_await SleepFor(m->kernel.Delay());
      LockOptions options = Interruptible(&interrupt);
      options.page_io = true;  // as LockDirectory
      auto guard = co_await m->table.Lock(Of(kDir), LockMode::kEx, options);
      code = guard.code();
      if (guard.ok()) {
        value = ++m->truth->now[name];
        acquisition = guard->acquisition();
        co_await SleepFor(m->kernel.Delay());
        guard->Release();
      }
    }
    if (code == Errc::kInterrupted) continue;  // ESTALE
    KernelInode child = 1000 + static_cast<KernelInode>(name[0]);
    bool keep = m->cache.GaveEntry(kDir, acquisition, name, child, true);
    m->cache.LookedUp(child);
    co_await SleepFor(m->kernel.Delay());
    dir.names[name] = {value, epoch, keep, dir.names[name].dentry + 1};
    m->truth->complete[name] = std::max(m->truth->complete[name], value);
    co_return;
  }
  ++m->truth->estale;
}

Task<void> User(Mount* m, int rounds, int* done) {
  for (int i = 0; i < rounds; ++i) {
    ++m->truth->operations;
    std::string name(1, static_cast<char>('a' + m->world->random().Below(3)));
    switch (m->world->random().Below(8)) {
      case 0: co_await Change(m); break;
      case 1: co_await ChangeName(m, name); break;
      case 2: case 3: co_await Stat(m); break;
      case 4: co_await ReadPage(m); break;
      default: co_await Walk(m, name); break;
    }
    co_await SleepFor(m->world->random().Between(Microseconds(1), Milliseconds(3)));
  }
  ++*done;
}

std::string Run(uint64_t seed, bool epoch, KernelCacheKnobs knobs) {
  World world(seed);
  ModelLocks model(&world);
  Truth truth;
  std::vector<std::unique_ptr<Mount>> mounts;
  int done = 0;
  for (uint32_t n = 1; n <= 3; ++n) {
    mounts.push_back(std::make_unique<Mount>(&world, &model, &truth, NodeId(n), epoch, knobs));
    Mount* m = mounts.back().get();
    m->executor->Post([m] { m->cache.LookedUp(kDir); });
    m->kernel.Get(kDir).known = true;
    for (int u = 0; u < 3; ++u) m->executor->Spawn(User(m, 40, &done));
  }
  bool all = world.RunUntil([&] { return done == 9 || !truth.wrong.empty(); }, Seconds(300));
  if (!truth.wrong.empty()) return truth.wrong;
  if (!all) return "no progress: " + std::to_string(done) + " of 9 users ended";
  if (truth.estale > 0) return "ESTALE reached a user " + std::to_string(truth.estale) + " times";
  return model.Check();
}

}  // namespace

TEST_CASE("kernel: with the epoch, nothing stale is seen and nothing hangs", "[fs][sim]") {
  auto report = sim::RunSeeds({.count = 300}, [](uint64_t seed) { return Run(seed, true, {}); });
  INFO(report.ToString());
  CHECK(report.ok());
}

TEST_CASE("kernel: without the epoch (before 6.16), nothing stale is seen and nothing hangs", "[fs][sim]") {
  auto report = sim::RunSeeds({.count = 300}, [](uint64_t seed) { return Run(seed, false, {}); });
  INFO(report.ToString());
  CHECK(report.ok());
}

TEST_CASE("kernel: control: forgetting replies under way (rule 3) shows old names", "[fs][sim]") {
  KernelCacheKnobs knobs;
  knobs.reply_flight = Duration{0};
  auto report = sim::RunSeeds({.count = 300, .failures_max = 1}, [knobs](uint64_t seed) { return Run(seed, true, knobs); });
  CHECK_FALSE(report.ok());
}

TEST_CASE("kernel: control: waiting for i_rwsem for ever (rule 1) hangs two creators", "[fs][sim]") {
  KernelCacheKnobs knobs;
  knobs.notify_patience = Seconds(10000);
  auto report = sim::RunSeeds({.count = 100, .failures_max = 1}, [knobs](uint64_t seed) { return Run(seed, false, knobs); });
  CHECK_FALSE(report.ok());
}
