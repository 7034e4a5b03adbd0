// Blocks that one mount has logged and another frees and uses again. The storms of tests/whole do meet these, but not the one
// crash at the one moment at which a missing rule shows.
#include <algorithm>
#include <cstring>

#include <catch2/catch.hpp>

#include "tests/fs/toy_objects.h"
#include "tests/fs/two_mounts.h"

namespace holdfast::fs::test {
namespace {

constexpr uint32_t kCell = 7;

Task<Status> Own(StorageRig* rig, Resource resource) {
  auto guard = co_await rig->locks->Lock(resource, LockMode::kEx);
  co_return guard.ok() ? Status() : Status(guard.error());
}

// A cell of one metadata block.
Task<Result<BlockNo>> NewCell(StorageRig* rig, uint32_t cell, uint64_t value) {
  auto guard = co_await rig->locks->Lock(CellResource(cell), LockMode::kEx);
  if (!guard.ok()) co_return guard.error();
  auto r = co_await rig->alloc->Reserve({.meta = 1});
  if (!r.ok()) co_return r.error();
  auto tx = co_await rig->journal->Begin(2);
  if (!tx.ok()) co_return tx.error();
  BlockRef block = r->New(*tx, BlockType::kTree, CellResource(cell), BlockNo());
  As<DiskToyCell>(tx->Change(block)).value = value;
  tx->Finish();
  co_return block.number();
}

Task<Status> FreeCell(StorageRig* rig, uint32_t cell, BlockNo at) {
  auto guard = co_await rig->locks->Lock(CellResource(cell), LockMode::kEx);
  if (!guard.ok()) co_return guard.error();
  auto block = co_await rig->cache->Read(at, BlockType::kTree, CellResource(cell));
  if (!block.ok()) co_return block.error();
  std::vector<Extent> extents = {{at, 1}};
  auto groups = co_await rig->alloc->LockGroupsFor(std::move(extents));
  if (!groups.ok()) co_return groups.error();
  auto tx = co_await rig->journal->Begin(groups->credits());
  if (!tx.ok()) co_return tx.error();
  HF_CO_TRY(rig->alloc->FreeMeta(*tx, *groups, *block));
  tx->Finish();
  co_return Status();
}

Task<Status> ChangeCell(StorageRig* rig, uint32_t cell, BlockNo at, uint64_t value) {
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

// Takes data blocks until there are no more. True: the block was among them; it then holds `fill`.
Task<Result<bool>> TakeAllData(StorageRig* rig, BlockNo wanted, char fill) {
  AlignedBuffer bytes(kBlockSize);
  std::memset(bytes.data(), fill, kBlockSize);
  for (;;) {
    auto r = co_await rig->alloc->Reserve({.data = 16});
    if (r.code() == Errc::kNoSpace) r = co_await rig->alloc->Reserve({.data = 1});
    if (r.code() == Errc::kNoSpace) co_return false;
    if (!r.ok()) co_return r.error();
    bool found = false;
    while (r->data_left() > 0) {
      Extent e = r->TakeData(r->data_left(), BlockNo());
      found = found || (e.start.v <= wanted.v && wanted.v < e.start.v + e.count);
    }
    if (!found) continue;
    auto written = co_await rig->device->Write(wanted.v * kBlockSize, std::as_const(bytes).span(), WriteFlags::kFua);
    if (!written.ok()) co_return written.error();
    co_return true;
  }
}

Task<Result<char>> FirstByte(BlockDevice* device, BlockNo at) {
  AlignedBuffer bytes(kBlockSize);
  auto read = co_await device->Read(at.v * kBlockSize, bytes.span());
  if (!read.ok()) co_return read.error();
  co_return static_cast<char>(bytes.data()[0]);
}

struct Metadata : Two<StorageRig> {
  BlockNo at;
  explicit Metadata(uint64_t seed) : Two(seed) {
    for (int i : {0, 1}) Must(Run(i, m[i].rig->Start(true)));
  }
  StorageRig* Rig(int i) { return m[i].rig.get(); }
  // The first mount logs a block, some versions of it; the second frees it. The old images stay in the first one's log.
  void LogHereFreeThere() {
    at = Must(Run(0, NewCell(Rig(0), kCell, 1)));
    for (uint64_t value : {2, 3, 4}) {
      Must(Run(0, Rig(0)->journal->Commit()));
      Must(Run(0, ChangeCell(Rig(0), kCell, at, value)));
    }
    Must(Run(0, Rig(0)->journal->Commit()));
    Must(Run(1, FreeCell(Rig(1), kCell, at)));
    Must(Run(1, Rig(1)->journal->Commit()));
  }
  // A mount makes new cells until the freed block is one of them.
  void UseAgain(int i) {
    BlockNo got;
    for (uint32_t cell = 100; cell < 4000 && got != at; ++cell) got = Must(Run(i, NewCell(Rig(i), cell, 1000 + cell)));
    REQUIRE(got == at);
  }
  // The value of the cell that stands there now, whole.
  uint64_t InPlace() {
    AlignedBuffer bytes(kBlockSize);
    Must(Run(1, static_cast<BlockDevice*>(m[1].session.get())->Read(at.v * kBlockSize, bytes.span())));
    bool whole = CheckBlock(std::as_const(bytes).span(), at, BlockType::kTree, Rig(1)->super.geometry.uuid).ok();
    return whole ? uint64_t{As<DiskToyCell>(std::as_const(bytes).span()).value} : 0;
  }
  // Kills the first mount; the second replays its journal.
  void ReplayTheFirst() {
    m[0].process->Crash();
    Must(Run(1, Replay(Rig(1), MountNo(0))));
  }
};

}  // namespace

TEST_CASE("hand-over: a freed metadata block is no data while another journal may hold it", "[fs][alloc][crash][sim]") {
  Metadata two(1);
  two.LogHereFreeThere();
  bool asked = false;
  SECTION("the other cannot checkpoint: it stays with the metadata") {
    two.Rig(1)->alloc->SetCheckpointOthers([&asked]() -> Task<Status> {
      asked = true;
      co_return Errc::kBusy;
    });
    CHECK_FALSE(Must(two.Run(1, TakeAllData(two.Rig(1), two.at, 'd'))));
  }
  SECTION("it can: then nothing of it is replayed over the data") {
    two.Rig(1)->alloc->SetCheckpointOthers([&]() -> Task<Status> {
      asked = true;
      Completion<Errc> done;
      Completion<Errc>* answer = &done;
      StorageRig* other = two.Rig(0);
      two.m[0].process->Spawn([](StorageRig* rig, Completion<Errc>* told) -> Task<void> {
        auto status = co_await rig->journal->Checkpoint();
        told->Set(status.ok() ? Errc::kOk : status.code());
      }(other, answer));
      Errc code = co_await done;
      if (code != Errc::kOk) co_return code;
      co_return Status();
    });
    REQUIRE(Must(two.Run(1, TakeAllData(two.Rig(1), two.at, 'd'))));
    two.ReplayTheFirst();
    CHECK(Must(two.Run(1, FirstByte(two.Rig(1)->device, two.at))) == 'd');
  }
  CHECK(asked);
}

TEST_CASE("hand-over: a freed metadata block becomes data after its freeing is durable", "[fs][alloc][crash][sim]") {
  Metadata two(2);
  two.at = Must(two.Run(0, NewCell(two.Rig(0), kCell, 1)));
  Must(two.Run(0, two.Rig(0)->journal->Checkpoint()));
  two.Rig(0)->alloc->SetCheckpointOthers([]() -> Task<Status> { co_return Status(); });
  uint64_t before = two.Rig(0)->journal->committed_sequence();
  Must(two.Run(0, FreeCell(two.Rig(0), kCell, two.at)));
  REQUIRE(Must(two.Run(0, TakeAllData(two.Rig(0), two.at, 'd'))));
  CHECK(two.Rig(0)->journal->committed_sequence() > before);
}

TEST_CASE("hand-over: claims that go back stay the metadata's while another journal may hold them", "[fs][alloc][sim]") {
  Metadata two(4);
  two.LogHereFreeThere();
  for (int i : {0, 1}) two.Rig(i)->alloc->SetCheckpointOthers([]() -> Task<Status> { co_return Errc::kBusy; });
  // Claimed again as metadata and never used.
  auto claim = [](StorageRig* rig) -> Task<Status> {
    auto r = co_await rig->alloc->Reserve({.meta = 4});
    if (!r.ok()) co_return r.error();
    r->Release();
    auto done = co_await rig->journal->Commit();
    co_return done;
  };
  Must(two.Run(1, claim(two.Rig(1))));
  auto claimed = two.Rig(1)->alloc->claimed();
  auto holds = [&](const Extent& e) { return e.start.v <= two.at.v && two.at.v < e.start.v + e.count; };
  REQUIRE(std::any_of(claimed.begin(), claimed.end(), holds));
  int taker = 1;
  SECTION("given back by their owner") { Must(two.Run(1, two.Rig(1)->alloc->ShrinkPool())); }
  SECTION("given back for a dead owner") {
    two.Run(1, two.Rig(1)->locks->DemoteAll());
    two.m[1].process->Crash();
    Must(two.Run(0, Replay(two.Rig(0), MountNo(1))));
    Must(two.Run(0, two.Rig(0)->alloc->ReturnClaims(MountNo(1))));
    taker = 0;
  }
  CHECK_FALSE(Must(two.Run(taker, TakeAllData(two.Rig(taker), two.at, 'd'))));
}

TEST_CASE("hand-over: what is handed over is on the medium before the lock goes", "[fs][journal][crash][sim]") {
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    Metadata two(seed);
    two.at = Must(two.Run(0, NewCell(two.Rig(0), kCell, 2000)));
    Must(two.Run(0, two.Rig(0)->journal->Commit()));
    Must(two.Run(1, Own(two.Rig(1), CellResource(kCell))));
    // Its last owner dies, and the array loses its power. What a living mount holds is not taken from the dead one's journal.
    two.m[0].process->Crash();
    two.disk->knobs().keep = 0;
    two.disk->PowerLoss();
    Must(two.Run(1, Replay(two.Rig(1), MountNo(0), CellResource(kCell))));
    CHECK(two.InPlace() == 2000);
  }
}

TEST_CASE("hand-over: what one mount logged and freed is not written over what another made of it", "[fs][journal][crash][sim]") {
  Metadata two(3);
  SECTION("by its checkpoint") {
    two.at = Must(two.Run(0, NewCell(two.Rig(0), kCell, 1)));
    Must(two.Run(0, two.Rig(0)->journal->Commit()));
    Must(two.Run(0, FreeCell(two.Rig(0), kCell, two.at)));
    Must(two.Run(0, two.Rig(0)->journal->Commit()));
    two.UseAgain(1);
    Must(two.Run(1, two.Rig(1)->journal->Checkpoint()));
    Must(two.Run(0, two.Rig(0)->journal->Checkpoint()));
  }
  SECTION("by a write in place that is under way when it is freed") {
    two.at = Must(two.Run(0, NewCell(two.Rig(0), kCell, 1)));
    Must(two.Run(0, two.Rig(0)->journal->Commit()));
    two.m[0].device->Hold(two.at);
    two.m[0].process->Spawn([](StorageRig* rig) -> Task<void> { Must(co_await rig->journal->Checkpoint()); }(two.Rig(0)));
    REQUIRE(two.world.RunUntil([&] { return two.m[0].device->waited() > 0; }, Seconds(5)));
    Must(two.Run(0, FreeCell(two.Rig(0), kCell, two.at)));
    Must(two.Run(0, two.Rig(0)->journal->Commit()));
    two.world.After(Seconds(3), [&] { two.m[0].process->Post([&] { two.m[0].device->Release(); }); });
    two.UseAgain(1);
    Must(two.Run(1, two.Rig(1)->journal->Checkpoint()));
    two.world.RunFor(Seconds(5));
  }
  SECTION("by the replay of its journal") {
    two.LogHereFreeThere();
    two.UseAgain(1);
    Must(two.Run(1, two.Rig(1)->journal->Checkpoint()));
    two.ReplayTheFirst();
  }
  CHECK(two.InPlace() > 1000);
}

}  // namespace holdfast::fs::test
