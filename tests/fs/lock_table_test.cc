// Facts about cached locks: one member's local rules, and several members over a modelled lock manager.
#include <catch2/catch.hpp>

#include "fs/lock_table.h"

#include "tests/fs/model_locks.h"
#include "tests/sim/seeds.h"

using namespace holdfast;
using namespace holdfast::fs;
using namespace holdfast::fs::test;
using sim::SimExecutor;
using sim::World;

namespace {

const Resource kA{LockType::kInode, 100};

// "What is on disk" and what each member caches of it, with the hooks that letting go calls.
struct Store : LockHooks {
  Store(World* world, SimExecutor* executor) : world(world), executor(executor) {}
  Task<Status> Flush(Resource) override {
    ++flushes;
    co_await SleepFor(world->random().Between(Microseconds(10), Microseconds(500)));
    co_return Status();
  }
  void Drop(Resource, LockMode to) override {
    if (to == LockMode::kNone) ++drops;
  }
  World* world;
  SimExecutor* executor;
  int flushes = 0, drops = 0;
};

struct Member {
  Member(World* world, ModelLocks* model, NodeId node)
      : executor(&world->Start(node)), port(model->Join(executor)), store(world, executor),
        table(*port, executor->clock(), {}) {
    table.SetHooks(LockType::kInode, &store);
  }
  SimExecutor* executor;
  std::unique_ptr<ModelLocks::Port> port;
  Store store;
  LockTable table;
};

Task<void> Hold(LockTable* table, LockMode mode, Duration time, std::string* log, std::string tag) {
  auto guard = co_await table->Lock(kA, mode);
  HF_CHECK(guard.ok(), "lock failed: %s", guard.error().ToString().c_str());
  *log += tag + "+";
  co_await SleepFor(time);
  *log += tag + "-";
}

}  // namespace

TEST_CASE("locks: PR guards share, an EX guard is alone, first come first served", "[fs][unit]") {
  World world(1);
  ModelLocks model(&world);
  Member m(&world, &model, NodeId(1));
  std::string log;
  // The first to ask decides what is asked of the lock manager; the rest queues behind it.
  m.executor->Spawn(Hold(&m.table, LockMode::kEx, Milliseconds(5), &log, "x"));
  m.executor->Spawn(Hold(&m.table, LockMode::kPr, Milliseconds(5), &log, "a"));
  m.executor->Spawn(Hold(&m.table, LockMode::kPr, Milliseconds(6), &log, "b"));
  m.executor->Spawn(Hold(&m.table, LockMode::kEx, Milliseconds(5), &log, "y"));
  m.executor->Spawn(Hold(&m.table, LockMode::kPr, Milliseconds(5), &log, "c"));
  world.RunFor(Seconds(2));
  CHECK(log == "x+x-a+b+a-b-y+y-c+c-");
}

TEST_CASE("locks: a cached lock is taken again without asking anybody", "[fs][unit]") {
  World world(1);
  ModelLocks model(&world);
  Member m(&world, &model, NodeId(1));
  std::string log;
  m.executor->Spawn(Hold(&m.table, LockMode::kEx, Milliseconds(1), &log, "x"));
  world.RunFor(Seconds(1));
  ExecutorTurn turn(m.executor);
  uint64_t acquisition = m.table.Acquisition(kA);
  CHECK(acquisition != 0);
  LockGuard guard = m.table.TryLock(kA, LockMode::kPr);
  CHECK(guard);
  CHECK(guard.acquisition() == acquisition);
  CHECK(m.table.Valid(kA, acquisition));
  CHECK_FALSE(m.table.TryLock(kA, LockMode::kEx));
}

TEST_CASE("locks: wanted elsewhere, EX is flushed and lowered to PR; EX there takes it away and grows the acquisition",
          "[fs][unit]") {
  World world(2);
  ModelLocks model(&world);
  Member a(&world, &model, NodeId(1)), b(&world, &model, NodeId(2));
  std::string log;
  a.executor->Spawn(Hold(&a.table, LockMode::kEx, Milliseconds(1), &log, "a"));
  world.RunFor(Milliseconds(50));
  uint64_t first = a.table.Acquisition(kA);
  b.executor->Spawn(Hold(&b.table, LockMode::kPr, Milliseconds(1), &log, "b"));
  world.RunFor(Seconds(1));
  CHECK(a.table.Held(kA) == LockMode::kPr);
  CHECK(a.table.Acquisition(kA) == first);
  CHECK(a.store.flushes == 1);
  CHECK(a.store.drops == 0);
  b.executor->Spawn(Hold(&b.table, LockMode::kEx, Milliseconds(1), &log, "B"));
  world.RunFor(Seconds(1));
  CHECK(a.table.Held(kA) == LockMode::kNone);
  CHECK(a.store.drops == 1);
  CHECK_FALSE(a.table.Valid(kA, first));
  a.executor->Spawn(Hold(&a.table, LockMode::kPr, Milliseconds(1), &log, "c"));
  world.RunFor(Seconds(1));
  CHECK(a.table.Acquisition(kA) > first);
  CHECK(log == "a+a-b+b-B+B-c+c-");
}

TEST_CASE("locks: two holders of PR that both want EX: one steps back, both get it", "[fs][unit]") {
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    World world(seed);
    ModelLocks model(&world);
    Member a(&world, &model, NodeId(1)), b(&world, &model, NodeId(2));
    std::string log;
    a.executor->Spawn(Hold(&a.table, LockMode::kPr, Milliseconds(1), &log, ""));
    b.executor->Spawn(Hold(&b.table, LockMode::kPr, Milliseconds(1), &log, ""));
    world.RunFor(Seconds(1));
    log.clear();
    a.executor->Spawn(Hold(&a.table, LockMode::kEx, Milliseconds(1), &log, "a"));
    b.executor->Spawn(Hold(&b.table, LockMode::kEx, Milliseconds(1), &log, "b"));
    world.RunFor(Seconds(2));
    CHECK((log == "a+a-b+b-" || log == "b+b-a+a-"));
    CHECK(model.Check() == "");
  }
}

TEST_CASE("locks: a polite EX that its users need as PR only is shared while they use it", "[fs][unit]") {
  World world(4);
  ModelLocks model(&world);
  Member a(&world, &model, NodeId(1)), b(&world, &model, NodeId(2));
  a.table.SetPolite(LockType::kInode);
  b.table.SetPolite(LockType::kInode);
  std::string log;
  a.executor->Spawn(Hold(&a.table, LockMode::kEx, Milliseconds(1), &log, "reap"));
  world.RunFor(Seconds(1));
  a.executor->Spawn(Hold(&a.table, LockMode::kPr, Seconds(60), &log, "a"));  // under the cached EX
  world.RunFor(Milliseconds(50));
  b.executor->Spawn(Hold(&b.table, LockMode::kPr, Seconds(60), &log, "b"));
  world.RunFor(Seconds(5));
  CHECK(log == "reap+reap-a+b+");
  CHECK(a.table.Held(kA) == LockMode::kPr);
  b.executor->Spawn(Hold(&b.table, LockMode::kEx, Milliseconds(1), &log, "B"));  // polite: waits for their end
  world.RunFor(Seconds(100));
  CHECK(log == "reap+reap-a+b+a-b-B+B-");
  CHECK(model.Check() == "");
}

TEST_CASE("locks: NOQUEUE fails where another member holds it, and where somebody here does", "[fs][unit]") {
  World world(3);
  ModelLocks model(&world);
  Member a(&world, &model, NodeId(1)), b(&world, &model, NodeId(2));
  std::string log;
  a.executor->Spawn(Hold(&a.table, LockMode::kEx, Seconds(1), &log, "a"));
  world.RunFor(Milliseconds(50));
  struct Try {
    static Task<Errc> Run(LockTable* table, LockMode mode) {
      LockOptions options;
      options.noqueue = true;
      auto guard = co_await table->Lock(kA, mode, options);
      co_return guard.code();
    }
  };
  CHECK(world.Run(*b.executor, Try::Run(&b.table, LockMode::kEx)) == Errc::kWouldBlock);
  CHECK(world.Run(*a.executor, Try::Run(&a.table, LockMode::kEx)) == Errc::kWouldBlock);
}

TEST_CASE("locks: an error of the flush keeps the lock and is fatal", "[fs][unit]") {
  struct Broken : LockHooks {
    Task<Status> Flush(Resource) override { co_return Errc::kIo; }
    void Drop(Resource, LockMode) override {}
  } broken;
  World world(4);
  ModelLocks model(&world);
  Member a(&world, &model, NodeId(1)), b(&world, &model, NodeId(2));
  a.table.SetHooks(LockType::kInode, &broken);
  Errc fatal = Errc::kOk;
  a.table.SetFatal([&](Error e) { fatal = e.code; });
  std::string log;
  a.executor->Spawn(Hold(&a.table, LockMode::kEx, Milliseconds(1), &log, "a"));
  world.RunFor(Milliseconds(20));
  b.executor->Spawn(Hold(&b.table, LockMode::kEx, Milliseconds(1), &log, "b"));
  world.RunFor(Seconds(1));
  CHECK(fatal == Errc::kIo);
  CHECK(log == "a+a-");
  CHECK(model.Granted(kA, a.port.get()) == LockMode::kEx);
}

TEST_CASE("locks: a failed table ends every waiter with the error", "[fs][unit]") {
  World world(5);
  ModelLocks model(&world);
  Member a(&world, &model, NodeId(1));
  struct Try {
    static Task<void> Run(LockTable* table, Errc* out) {
      auto guard = co_await table->Lock(kA, LockMode::kEx);
      *out = guard.code();
    }
  };
  std::string log;
  Errc waited = Errc::kOk, later = Errc::kOk;
  a.executor->Spawn(Hold(&a.table, LockMode::kEx, Seconds(1), &log, "a"));
  a.executor->Spawn(Try::Run(&a.table, &waited));
  world.RunFor(Milliseconds(50));
  a.executor->Post([&] { a.table.Fail(Errc::kFenced); });
  a.executor->Spawn(Try::Run(&a.table, &later));
  world.RunFor(Seconds(2));
  CHECK(waited == Errc::kFenced);
  CHECK(later == Errc::kFenced);
}

TEST_CASE("locks: idle locks beyond the limit are let go, oldest first", "[fs][unit]") {
  World world(6);
  ModelLocks model(&world);
  SimExecutor* executor = &world.Start(NodeId(1));
  auto port = model.Join(executor);
  LockTableKnobs knobs;
  knobs.idle_locks_max = 10;
  LockTable table(*port, executor->clock(), knobs);
  struct Many {
    static Task<void> Run(LockTable* table) {
      for (uint64_t i = 0; i < 100; ++i) {
        auto guard = co_await table->Lock(Resource{LockType::kInode, i}, LockMode::kPr);
        HF_CHECK(guard.ok(), "lock %llu", static_cast<unsigned long long>(i));
      }
    }
  };
  world.Run(*executor, Many::Run(&table));
  world.RunFor(Seconds(1));
  CHECK(table.cached() <= 10);
  CHECK(table.Held(Resource{LockType::kInode, 99}) == LockMode::kPr);
  CHECK(table.Held(Resource{LockType::kInode, 0}) == LockMode::kNone);
}

namespace {

struct Shared {
  uint64_t value = 0;
  int writers = 0, readers = 0;
  uint64_t writes = 0;
  std::string wrong;
};

Task<void> Worker(World* world, LockTable* table, Shared* shared, int rounds, int* done) {
  for (int i = 0; i < rounds; ++i) {
    bool write = world->random().Chance(400'000);
    // Now and then its process is killed while it waits.
    auto killed = std::make_shared<Interrupt>();
    if (world->random().Chance(300'000)) {
      Executor& executor = Executor::Current();
      executor.PostAt(executor.clock().Now() + world->random().Between(Microseconds(1), Milliseconds(3)), [killed] { killed->Raise(); });
    }
    auto guard = co_await table->Lock(kA, write ? LockMode::kEx : LockMode::kPr, Interruptible(killed.get()));
    if (guard.code() == Errc::kInterrupted) continue;
    if (!guard.ok()) shared->wrong = "lock failed";
    (write ? shared->writers : shared->readers)++;
    if (shared->writers > 1 || (shared->writers == 1 && shared->readers > 0)) shared->wrong = "not exclusive";
    uint64_t before = shared->value;
    co_await SleepFor(world->random().Between(Microseconds(1), Microseconds(400)));
    if (write) {
      shared->value = before + 1;
      ++shared->writes;
    } else if (shared->value != before) {
      shared->wrong = "changed under PR";
    }
    (write ? shared->writers : shared->readers)--;
    guard->Release();
    co_await SleepFor(world->random().Between(Microseconds(1), Milliseconds(2)));
  }
  ++*done;
}

}  // namespace

namespace {

Task<void> HoldUnless(LockTable* table, LockMode mode, Interrupt* interrupt, std::string* log, std::string tag) {
  auto guard = co_await table->Lock(kA, mode, Interruptible(interrupt));
  if (!guard.ok()) {
    *log += tag + (guard.code() == Errc::kInterrupted ? "!" : "?");
    co_return;
  }
  *log += tag + "+";
}

}  // namespace

TEST_CASE("locks: an interrupt ends the wait for a lock held elsewhere at once and leaves no request behind", "[fs][unit]") {
  World world(3);
  ModelLocks model(&world);
  Member a(&world, &model, NodeId(1)), b(&world, &model, NodeId(2));
  std::string log;
  a.executor->Spawn(Hold(&a.table, LockMode::kEx, Seconds(10), &log, "a"));
  world.RunFor(Milliseconds(50));
  Interrupt x, y;
  b.executor->Spawn(HoldUnless(&b.table, LockMode::kEx, &x, &log, "x"));
  b.executor->Spawn(HoldUnless(&b.table, LockMode::kPr, &y, &log, "y"));
  world.RunFor(Milliseconds(50));
  CHECK(log == "a+");
  {
    ExecutorTurn turn(b.executor);
    x.Raise();
  }
  world.RunFor(Milliseconds(1));
  CHECK(log == "a+x!");
  {
    ExecutorTurn turn(b.executor);
    y.Raise();
  }
  world.RunFor(Milliseconds(50));
  CHECK(log == "a+x!y!");
  CHECK(b.table.cached() == 0);  // the request was taken back: nothing is there to be granted
  // One that was interrupted before it began to wait does not begin; one that need not wait goes on.
  b.executor->Spawn(HoldUnless(&b.table, LockMode::kPr, &x, &log, "z"));
  world.RunFor(Seconds(20));
  CHECK(log == "a+x!y!z!a-");
  CHECK(model.Granted(kA, b.port.get()) == LockMode::kNone);
  a.executor->Spawn(Hold(&a.table, LockMode::kEx, Milliseconds(1), &log, "b"));
  world.RunFor(Seconds(1));
  a.executor->Spawn(HoldUnless(&a.table, LockMode::kEx, &x, &log, "c"));
  world.RunFor(Seconds(1));
  CHECK(log == "a+x!y!z!a-b+b-c+");
}

TEST_CASE("locks: an interrupted EX request lets the readers behind it in", "[fs][unit]") {
  World world(4);
  ModelLocks model(&world);
  Member m(&world, &model, NodeId(1));
  std::string log;
  Interrupt x, y;
  m.executor->Spawn(Hold(&m.table, LockMode::kPr, Seconds(1), &log, "a"));
  world.RunFor(Milliseconds(50));
  m.executor->Spawn(HoldUnless(&m.table, LockMode::kEx, &x, &log, "x"));
  m.executor->Spawn(HoldUnless(&m.table, LockMode::kPr, &y, &log, "y"));
  world.RunFor(Milliseconds(50));
  CHECK(log == "a+");
  {
    ExecutorTurn turn(m.executor);
    x.Raise();
  }
  world.RunFor(Milliseconds(50));
  CHECK(log == "a+x!y+");
  world.RunFor(Seconds(2));
  CHECK(log == "a+x!y+a-");
}

TEST_CASE("locks: three members with several users each never overlap, and all get through", "[fs][sim]") {
  auto report = sim::RunSeeds({.count = 200}, [](uint64_t seed) -> std::string {
    World world(seed);
    ModelLocks model(&world);
    std::vector<std::unique_ptr<Member>> members;
    Shared shared;
    int done = 0;
    for (uint32_t n = 1; n <= 3; ++n) {
      members.push_back(std::make_unique<Member>(&world, &model, NodeId(n)));
      for (int u = 0; u < 3; ++u) members.back()->executor->Spawn(Worker(&world, &members.back()->table, &shared, 30, &done));
    }
    bool all = world.RunUntil([&] { return done == 9 || !shared.wrong.empty(); }, Seconds(600));
    if (!shared.wrong.empty()) return shared.wrong;
    if (!model.Check().empty()) return model.Check();
    if (!all) return "no progress: " + std::to_string(done) + " of 9";
    return shared.value == shared.writes ? "" : "lost a write";
  });
  INFO(report.ToString());
  CHECK(report.ok());
}
