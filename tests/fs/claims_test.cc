// What a mount had claimed of the volume and not used comes back after a crash, all of it; what it had freed is not used again
// before a crash can no more give it back to its file.
#include <algorithm>
#include <cstring>

#include <catch2/catch.hpp>

#include "base/log.h"
#include "fs/alloc_claims.h"
#include "tests/fs/toy_objects.h"

namespace holdfast::fs::test {
namespace {

struct Storage {
  sim::World world;
  sim::SimDisk disk;
  sim::SimExecutor* p = nullptr;
  std::unique_ptr<sim::SimDiskSession> session;
  std::unique_ptr<StorageRig> rig;
  std::unique_ptr<Toys> toys;
  BlockNo index;

  explicit Storage(uint64_t seed) : world(seed), disk(&world, 24 << 20) {
    SetLogLevel(LogLevel::kOff);
    sim::SimExecutor& maker = world.Start(NodeId(1));
    auto its = disk.Open(maker);
    world.Run(maker, MakeToyVolume(its.get(), &world.random(), 2));
    Mount();
    toys = std::make_unique<Toys>(rig.get());
    REQUIRE(world.Run(*p, toys->CreateIndex()).ok());
    index = toys->index_block();
  }
  ~Storage() { Kill(); }
  void Mount() {
    p = &world.Start(NodeId(1));
    session = disk.Open(*p);
    rig = std::make_unique<StorageRig>(session.get());
    rig->journal_knobs.commit_age = Seconds(3600);
    rig->alloc_knobs.data_pool_blocks = 16;
    rig->alloc_knobs.meta_pool = 8;
    rig->alloc_knobs.emergency_meta = 0;
    REQUIRE(world.Run(*p, rig->Start(true)).ok());
  }
  void Kill() {
    if (!rig) return;
    p->Crash();
    world.Abandon(std::move(toys));
    world.Abandon(std::move(rig));
    world.Abandon(std::move(session));
  }
  // Kill -9, mounted and unmounted again: do bitmaps and counts agree with what is there, and is that what had been committed?
  std::string Remount(const ToyState& committed) {
    Kill();
    world.RunFor(Seconds(10));
    Mount();
    Status stopped = world.Run(*p, rig->Stop());
    if (!stopped.ok()) return stopped.error().ToString();
    ToyState found;
    std::string wrong = world.Run(*p, ReadToys(session.get(), rig->super, index, &found));
    if (wrong.empty() && found != committed) wrong = "other cells than were committed";
    return wrong;
  }
  template <class T>
  T Run(Task<T> task) {
    return world.Run(*p, std::move(task));
  }
};

// Takes all free data blocks and keeps them; true: the wanted one is among them.
Task<Result<bool>> TakeUntil(StorageRig* rig, BlockNo wanted) {
  for (;;) {
    auto r = co_await rig->alloc->Reserve({.data = 1});
    if (r.code() == Errc::kNoSpace) co_return false;
    if (!r.ok()) co_return r.error();
    Extent e = r->TakeData(1, BlockNo());
    if (e.start == wanted) co_return true;
  }
}

Task<Result<BlockNo>> DataOf(StorageRig* rig, Toys* toys, uint32_t cell) {
  auto guard = co_await rig->locks->Lock(CellResource(cell), LockMode::kEx);
  if (!guard.ok()) co_return guard.error();
  auto block = co_await rig->cache->Read(toys->PlaceOf(cell), BlockType::kTree, CellResource(cell));
  if (!block.ok()) co_return block.error();
  co_return BlockNo(block->as<DiskToyCell>().data_start);
}

}  // namespace

TEST_CASE("alloc: freed data is used again after its freeing is durable", "[fs][alloc][crash][sim]") {
  Storage s(1);
  REQUIRE(s.Run(s.toys->Put(1, 42, 1)).ok());
  REQUIRE(s.Run(s.rig->journal->Checkpoint()).ok());
  auto data = s.Run(DataOf(s.rig.get(), s.toys.get(), 1));
  REQUIRE(data.ok());
  uint64_t before = s.rig->journal->committed_sequence();
  REQUIRE(s.Run(s.toys->Remove(1)).ok());
  auto found = s.Run(TakeUntil(s.rig.get(), *data));
  REQUIRE(found.ok());
  CHECK(*found);
  CHECK(s.rig->journal->committed_sequence() > before);
}

TEST_CASE("alloc: what was taken and is in no file yet comes back after a crash", "[fs][alloc][crash][sim]") {
  Storage s(2);
  REQUIRE(s.Run(s.toys->Put(1, 42, 3)).ok());
  auto take = [](StorageRig* rig) -> Task<Status> {
    auto r = co_await rig->alloc->Reserve({.meta = 2, .data = 8});
    if (!r.ok()) co_return r.error();
    (void)r->TakeData(5, BlockNo());
    (void)r->TakeMeta(BlockNo());
    auto done = co_await rig->journal->Commit();  // of something else
    co_return done;
  };
  REQUIRE(s.Run(s.toys->Put(2, 43, 2)).ok());
  ToyState committed = s.toys->state();
  REQUIRE(s.Run(take(s.rig.get())).ok());
  CHECK(s.Remount(committed) == "");
}

// A metadata block out of the pool, in use from now on.
static Task<Result<BlockNo>> UseOne(StorageRig* rig, uint32_t cell) {
  auto guard = co_await rig->locks->Lock(CellResource(cell), LockMode::kEx);
  if (!guard.ok()) co_return guard.error();
  auto r = co_await rig->alloc->Reserve({.meta = 1});
  if (!r.ok()) co_return r.error();
  auto tx = co_await rig->journal->Begin(1);
  if (!tx.ok()) co_return tx.error();
  BlockRef block = r->New(*tx, BlockType::kTree, CellResource(cell), BlockNo());
  tx->Finish();
  auto done = co_await rig->journal->Commit();
  if (!done.ok()) co_return done.error();
  co_return block.number();
}

TEST_CASE("alloc: a claimed block that came into use is not given back after a crash", "[fs][alloc][crash][sim]") {
  Storage s(4);
  std::vector<BlockNo> used;
  for (uint32_t cell = 0; cell < 4; ++cell) {
    auto one = s.Run(UseOne(s.rig.get(), cell));
    REQUIRE(one.ok());
    used.push_back(*one);
  }
  s.Kill();
  s.world.RunFor(Seconds(10));
  s.Mount();
  for (uint32_t cell = 0; cell < 40; ++cell) {
    auto one = s.Run(UseOne(s.rig.get(), 100 + cell));
    REQUIRE(one.ok());
    CHECK(std::count(used.begin(), used.end(), *one) == 0);
  }
}

TEST_CASE("alloc: claims that fill more than one block come back after a crash", "[fs][alloc][crash][sim]") {
  Storage s(3);
  constexpr uint32_t kCells = 390;
  for (uint32_t cell = 0; cell < kCells; ++cell) REQUIRE(s.Run(s.toys->Put(cell, cell, 1)).ok());
  for (uint32_t cell = 0; cell < kCells; cell += 2) REQUIRE(s.Run(s.toys->Remove(cell)).ok());
  REQUIRE(s.Run(s.rig->journal->Commit()).ok());
  ToyState committed = s.toys->state();
  // Everything that is free, in small pieces.
  auto all = [](StorageRig* rig) -> Task<Status> {
    auto metadata = co_await rig->alloc->Reserve({.meta = 150});
    if (!metadata.ok()) co_return metadata.error();
    std::vector<Reservation> kept;
    for (uint64_t n : {512, 64, 8, 1}) {
      for (;;) {
        auto r = co_await rig->alloc->Reserve({.data = n});
        if (!r.ok()) break;
        kept.push_back(std::move(*r));
      }
    }
    auto done = co_await rig->journal->Commit();
    size_t claims = rig->alloc->claimed().size();
    if (claims <= kClaimsPerBlock) co_return Error(Errc::kInvalid, "too few: " + std::to_string(claims));
    co_return done;
  };
  Status claimed = s.Run(all(s.rig.get()));
  INFO((claimed.ok() ? "" : claimed.error().ToString()));
  REQUIRE(claimed.ok());
  CHECK(s.Remount(committed) == "");
}

}  // namespace holdfast::fs::test
