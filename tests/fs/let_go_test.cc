// Letting go, step by step: page I/O in the window, replies that outlive an acquisition, who is told of a last close.
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include "base/log.h"
#include "fs/lock_table.h"
#include "fs/open_locks.h"
#include "tests/fs/model_locks.h"

namespace holdfast::fs::test {
namespace {

const Resource kA{LockType::kInode, 100};

// What letting go calls, in the order in which it does.
struct Steps final : LockHooks, KernelHooks {
  LockTable* table = nullptr;
  std::string log;
  bool slow_page_io = false;
  Task<Status> Flush(Resource) override {
    log += "flush ";
    co_return Status();
  }
  void Drop(Resource, LockMode) override { log += "drop "; }
  bool NeedsDrop(Resource, LockMode, LockMode) override { return true; }
  Task<Status> DropKernel(Resource, LockMode, LockMode) override {
    log += "kernel ";
    if (slow_page_io) Executor::Current().Post([this] { Detach(PageIo()); });
    co_await SleepFor(Milliseconds(1));
    co_return Status();
  }
  // The kernel writes a dirty page while its caches are taken back, and takes long over it.
  Task<void> PageIo() {
    LockOptions options;
    options.page_io = true;
    auto guard = co_await table->Lock(kA, LockMode::kEx, options);
    HF_CHECK(guard.ok(), "page I/O in the window: %s", guard.error().ToString().c_str());
    log += "page+ ";
    co_await SleepFor(Milliseconds(50));
    log += "page- ";
  }
};

struct Member {
  Member(sim::World* world, ModelLocks* model, NodeId node)
      : executor(&world->Start(node)), port(model->Join(executor)), table(*port, executor->clock(), {}), opens(table) {
    SetLogLevel(LogLevel::kOff);
    steps.table = &table;
    table.SetHooks(LockType::kInode, &steps);
    table.SetKernelHooks(&steps);
  }
  sim::SimExecutor* executor;
  std::unique_ptr<ModelLocks::Port> port;
  Steps steps;
  LockTable table;
  OpenLocks opens;
};

Task<uint64_t> Take(LockTable* table, LockMode mode) {
  auto guard = co_await table->Lock(kA, mode);
  HF_CHECK(guard.ok(), "lock: %s", guard.error().ToString().c_str());
  co_return guard->acquisition();
}

}  // namespace

TEST_CASE("locks: page I/O that came in while the kernel's caches were dropped ends before the data is written", "[fs][unit]") {
  sim::World world(1);
  ModelLocks model(&world);
  Member a(&world, &model, NodeId(1));
  (void)world.Run(*a.executor, Take(&a.table, LockMode::kEx));
  a.steps.slow_page_io = true;
  world.Run(*a.executor, a.table.Demote(kA, LockMode::kNone));
  CHECK(a.steps.log == "kernel page+ page- flush drop ");
}

TEST_CASE("locks: a page reply of an earlier acquisition counts no more", "[fs][unit]") {
  sim::World world(1);
  ModelLocks model(&world);
  Member a(&world, &model, NodeId(1));
  uint64_t first = world.Run(*a.executor, Take(&a.table, LockMode::kPr));
  CHECK(a.table.PageReplyValid(kA, first, LockMode::kPr));
  world.Run(*a.executor, a.table.Demote(kA, LockMode::kNone));
  CHECK(!a.table.PageReplyValid(kA, first, LockMode::kPr));
  uint64_t second = world.Run(*a.executor, Take(&a.table, LockMode::kPr));
  CHECK(first != second);
  CHECK(!a.table.PageReplyValid(kA, first, LockMode::kPr));
  CHECK(a.table.PageReplyValid(kA, second, LockMode::kPr));
  CHECK(!a.table.PageReplyValid(kA, second, LockMode::kEx));
}

TEST_CASE("locks: the last close of an inode that somebody wants to free is told, and not before", "[fs][unit]") {
  sim::World world(2);
  ModelLocks model(&world);
  Member a(&world, &model, NodeId(1)), b(&world, &model, NodeId(2));
  InodeNo inode(100);
  std::vector<InodeNo> told;
  a.opens.SetLastClose([&](InodeNo which) { told.push_back(which); });
  for (int i = 0; i < 2; ++i) REQUIRE(world.Run(*a.executor, a.opens.Opened(inode)).ok());
  auto refused = world.Run(*b.executor, b.opens.TryReap(inode));
  REQUIRE(refused.ok());
  CHECK(!static_cast<bool>(*refused));
  auto close = [&] {
    ExecutorTurn turn(a.executor);
    return a.opens.Released(inode);
  };
  world.RunFor(Milliseconds(100));
  CHECK(!close());
  CHECK(a.opens.OpenHere(inode));
  refused = world.Run(*b.executor, b.opens.TryReap(inode));
  CHECK((refused.ok() && !static_cast<bool>(*refused)));
  CHECK(told.empty());
  world.RunFor(Milliseconds(100));
  CHECK(close());
  CHECK(told == std::vector{inode});
  world.RunFor(Seconds(2));
  auto reaps = world.Run(*b.executor, b.opens.TryReap(inode));
  REQUIRE(reaps.ok());
  CHECK(static_cast<bool>(*reaps));
}

}  // namespace holdfast::fs::test
