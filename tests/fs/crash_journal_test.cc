// The journal where its log is short: commits that wrap, transactions that are joined at once, what one flush covers.
#include <cstring>

#include <catch2/catch.hpp>

#include "tests/fs/toy_objects.h"

namespace holdfast::fs::test {
namespace {

constexpr uint32_t kCells = 240;

struct JournalRig {
  sim::World world;
  sim::SimDisk disk;
  sim::SimExecutor* p;
  std::unique_ptr<sim::SimDiskSession> session;
  std::unique_ptr<StorageRig> rig;
  std::unique_ptr<Toys> toys;

  JournalRig() : world(5), disk(&world, 64 << 20, Knobs()), p(&world.Start(NodeId(1))), session(disk.Open(*p)) {
    world.Run(*p, MakeToyVolume(session.get(), &world.random(), 2));
    rig = std::make_unique<StorageRig>(session.get());
    REQUIRE(world.Run(*p, rig->Start(true)).ok());
    (void)rig->journal->data_device();  // from now on a commit without data needs one step
    toys = std::make_unique<Toys>(rig.get());
    REQUIRE(world.Run(*p, toys->CreateIndex()).ok());
  }
  ~JournalRig() {
    p->Crash();
    world.Abandon(std::move(toys));
    world.Abandon(std::move(rig));
    world.Abandon(std::move(session));
  }
  static sim::DiskKnobs Knobs() {
    sim::DiskKnobs knobs;
    knobs.early_destage = 0;
    return knobs;
  }
  // How far a replay would read if nothing unflushed was kept.
  uint64_t Durable() {
    sim::World after(7);
    sim::SimDisk left(&after, disk.DurableImage());
    sim::SimExecutor& q = after.Start(NodeId(2));
    auto device = left.Open(q);
    auto log = after.Run(q, ReadLog(*device, rig->super.geometry, MountNo(0)));
    return log.ok() ? log->next_sequence - 1 : 0;
  }
};

Task<Status> ChangeCell(StorageRig* rig, BlockNo at, uint32_t cell, uint64_t value) {
  auto guard = co_await rig->locks->Lock(CellResource(cell), LockMode::kEx);
  if (!guard.ok()) co_return guard.error();
  auto block = co_await rig->cache->Read(at, BlockType::kTree, CellResource(cell));
  if (!block.ok()) co_return block.error();
  auto tx = co_await rig->journal->Begin(1);
  if (!tx.ok()) co_return tx.error();
  As<DiskToyCell>(tx->Change(*block)).value = value;
  tx->Finish();
  co_return Status();
}

// Joins with room for `count` blocks, lets the others join too, and then uses all of it.
Task<void> ChangeMany(StorageRig* rig, const std::vector<BlockNo>* places, uint32_t first, uint32_t count, uint32_t* done) {
  std::vector<LockGuard> guards;
  std::vector<BlockRef> blocks;
  for (uint32_t cell = first; cell < first + count; ++cell) {
    auto guard = co_await rig->locks->Lock(CellResource(cell), LockMode::kEx);
    auto block = co_await rig->cache->Read((*places)[cell], BlockType::kTree, CellResource(cell));
    HF_CHECK(guard.ok() && block.ok(), "a cell that cannot be read");
    guards.push_back(std::move(*guard));
    blocks.push_back(std::move(*block));
  }
  auto tx = co_await rig->journal->Begin(count);
  HF_CHECK(tx.ok(), "begin: %s", tx.error().ToString().c_str());
  co_await SleepFor(Milliseconds(1));
  for (BlockRef& block : blocks) As<DiskToyCell>(tx->Change(block)).value = 7;
  tx->Finish();
  ++*done;
}

}  // namespace

TEST_CASE("crash: what a commit acknowledged needs nothing unflushed, also where its record wraps", "[fs][journal][crash]") {
  JournalRig r;
  REQUIRE(r.world.Run(*r.p, r.toys->Put(1, 42, 1)).ok());
  REQUIRE(r.world.Run(*r.p, r.rig->journal->Commit()).ok());
  BlockNo at = r.toys->PlaceOf(1);
  uint32_t blocks = 0, wraps = 0;
  for (uint64_t i = 0; i < 300; ++i) {
    REQUIRE(r.world.Run(*r.p, ChangeCell(r.rig.get(), at, 1, i)).ok());
    REQUIRE(r.world.Run(*r.p, r.rig->journal->Commit()).ok());
    blocks += 3;
    if (blocks > r.rig->journal->log_blocks()) ++wraps, blocks = 0;
    CHECK(r.Durable() == r.rig->journal->committed_sequence());
  }
  CHECK(wraps >= 2);
}

// Every block of it is whole, yet one is what an earlier record had left there: a log that wraps and loses a write.
TEST_CASE("journal: a record whose blocks do not belong together is the end of the log", "[fs][journal][crash]") {
  JournalRig r;
  REQUIRE(r.world.Run(*r.p, r.toys->Put(1, 42, 1)).ok());
  REQUIRE(r.world.Run(*r.p, r.rig->journal->Commit()).ok());
  BlockNo at = r.toys->PlaceOf(1);
  for (uint64_t value : {1, 2}) {
    REQUIRE(r.world.Run(*r.p, ChangeCell(r.rig.get(), at, 1, value)).ok());
    REQUIRE(r.world.Run(*r.p, r.rig->journal->Commit()).ok());
  }
  REQUIRE(r.Durable() == r.rig->journal->committed_sequence());
  const Geometry& geometry = r.rig->super.geometry;
  uint64_t log = geometry.JournalStart(MountNo(0)).v + kJournalLogIndex;
  BlockDevice& device = *r.session;
  AlignedBuffer block(kBlockSize), former(kBlockSize);
  uint64_t former_at = 0;
  for (uint64_t i = log; i < log + 40; ++i) {
    REQUIRE(r.world.Run(*r.p, device.Read(i * kBlockSize, block.span())).ok());
    if (!CheckBlock(std::as_const(block).span(), at, BlockType::kTree, geometry.uuid).ok()) continue;
    if (former_at != 0 && As<DiskToyCell>(std::as_const(block).span()).value == 2)
      REQUIRE(r.world.Run(*r.p, device.Write(i * kBlockSize, std::as_const(former).span(), WriteFlags::kFua)).ok());
    former_at = i;
    std::swap(block, former);
  }
  REQUIRE(former_at != 0);
  CHECK(r.Durable() == r.rig->journal->committed_sequence() - 1);
}

TEST_CASE("journal: what is joined at once fits the log together", "[fs][journal][crash]") {
  JournalRig r;
  std::vector<BlockNo> places(kCells);
  for (uint32_t cell = 0; cell < kCells; ++cell) {
    REQUIRE(r.world.Run(*r.p, r.toys->Put(cell, cell, 1)).ok());
    places[cell] = r.toys->PlaceOf(cell);
  }
  REQUIRE(r.world.Run(*r.p, r.rig->journal->Checkpoint()).ok());
  uint32_t done = 0, each = r.rig->journal->max_transaction_blocks() / 4, started = 0;
  for (uint32_t first = 0; first + each <= kCells; first += each, ++started)
    r.p->Spawn(ChangeMany(r.rig.get(), &places, first, each, &done));
  REQUIRE(started * each > r.rig->journal->max_transaction_blocks());
  CHECK(r.world.RunUntil([&] { return done == started; }, Seconds(60)));
  CHECK(r.rig->journal->counters().space_waits > 0);
  REQUIRE(r.world.Run(*r.p, r.rig->journal->Commit()).ok());
  CHECK(r.Durable() == r.rig->journal->committed_sequence());
}

// A device that answers flushes late: what is written between a flush and its answer is not covered by it.
class LateFlush final : public BlockDevice {
 public:
  explicit LateFlush(BlockDevice* device) : device_(device) {}
  const DeviceInfo& info() const override { return device_->info(); }
  Task<Status> Read(uint64_t offset, std::span<std::byte> out) override { return device_->Read(offset, out); }
  Task<Status> Write(uint64_t offset, std::span<const std::byte> in, WriteFlags flags) override {
    return device_->Write(offset, in, flags);
  }
  Task<Status> Flush() override {
    Status done = co_await device_->Flush();
    ++flushes;
    if (late) co_await SleepFor(Milliseconds(100));
    co_return done;
  }
  Task<Status> Discard(uint64_t offset, uint64_t length) override { return device_->Discard(offset, length); }
  Task<void> Close() override { return device_->Close(); }
  bool late = false;
  size_t flushes = 0;

 private:
  BlockDevice* device_;
};

TEST_CASE("journal: a flush covers what was written before it began, also for who joins it", "[fs][journal][crash]") {
  for (bool joins : {false, true}) {
    sim::World world(6);
    sim::SimDisk disk(&world, 64 << 20, JournalRig::Knobs());
    sim::SimExecutor& p = world.Start(NodeId(1));
    auto session = disk.Open(p);
    auto device = std::make_unique<LateFlush>(session.get());
    world.Run(p, MakeToyVolume(session.get(), &world.random(), 2));
    auto rig = std::make_unique<StorageRig>(device.get());
    REQUIRE(world.Run(p, rig->Start(true)).ok());
    BlockDevice& data = rig->journal->data_device();
    AlignedBuffer bytes(kBlockSize);
    std::memset(bytes.data(), 'd', kBlockSize);
    uint64_t at = (64 << 20) - 64 * kBlockSize;
    REQUIRE(world.Run(p, data.Write(at, std::as_const(bytes).span(), WriteFlags::kNone)).ok());
    device->late = true;
    size_t before = device->flushes;
    bool ended = false;
    p.Spawn([](StorageRig* mount, bool* done) -> Task<void> {
      auto synced = co_await mount->journal->Sync();
      *done = synced.ok();
    }(rig.get(), &ended));
    REQUIRE(world.RunUntil([&] { return device->flushes > before; }, Seconds(1)));
    REQUIRE(world.Run(p, data.Write(at + kBlockSize, std::as_const(bytes).span(), WriteFlags::kNone)).ok());
    if (!joins) REQUIRE(world.RunUntil([&] { return ended; }, Seconds(1)));
    REQUIRE(world.Run(p, rig->journal->Sync()).ok());
    CHECK(disk.unflushed_sectors() == 0);
    p.Crash();
    world.Abandon(std::move(rig));
    world.Abandon(std::move(device));
    world.Abandon(std::move(session));
  }
}

TEST_CASE("journal: room that was asked for and not used goes to who waits for it", "[fs][journal][crash]") {
  JournalRig r;
  REQUIRE(r.world.Run(*r.p, r.rig->journal->Commit()).ok());
  bool begun = false;
  auto all = [](StorageRig* rig, bool* other, sim::SimExecutor* p) -> Task<bool> {
    uint32_t most = rig->journal->max_transaction_blocks();
    auto first = co_await rig->journal->Begin(most);
    if (!first.ok()) co_return false;
    p->Spawn([](StorageRig* mount, uint32_t blocks, bool* done) -> Task<void> {
      auto second = co_await mount->journal->Begin(blocks);
      *done = second.ok();
      if (second.ok()) second->Finish();
    }(rig, most, other));
    co_await SleepFor(Milliseconds(10));
    bool waited = !*other;
    first->Finish();
    co_return waited;
  };
  CHECK(r.world.Run(*r.p, all(r.rig.get(), &begun, r.p)));
  CHECK(r.world.RunUntil([&] { return begun; }, Seconds(60)));
}

}  // namespace holdfast::fs::test
