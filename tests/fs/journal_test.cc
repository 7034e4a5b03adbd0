// Journal, allocator and replay on a healthy simulated disk.
#include <catch2/catch.hpp>

#include "tests/fs/toy_objects.h"

using namespace holdfast;
using namespace holdfast::fs;
using namespace holdfast::fs::test;

namespace {

struct Volume {
  sim::World world;
  sim::SimDisk disk;
  explicit Volume(uint64_t seed, bool volatile_cache = true) : world(seed), disk(&world, 64 << 20, Knobs(volatile_cache)) {
    sim::SimExecutor& p = world.Start(NodeId(1));
    auto session = disk.Open(p);
    world.Run(p, MakeToyVolume(session.get(), &world.random(), 2));
  }
  static sim::DiskKnobs Knobs(bool volatile_cache) {
    sim::DiskKnobs knobs;
    knobs.volatile_cache = volatile_cache;
    return knobs;
  }
};

Task<Status> SomeWork(StorageRig* rig, Toys* toys, Random* random, int steps) {
  HF_CO_TRY(co_await toys->CreateIndex());
  for (int i = 0; i < steps; ++i) {
    auto cell = static_cast<uint32_t>(random->Below(40));
    uint64_t what = random->Below(10);
    if (what < 6) {
      HF_CO_TRY(co_await toys->Put(cell, random->Next(), static_cast<uint32_t>(1 + random->Below(20))));
    } else if (toys->state().contains(cell)) {
      if (what < 8) HF_CO_TRY(co_await toys->Remove(cell));
      if (what == 8) HF_CO_TRY(co_await toys->AbortedChange(cell));
    }
    if (what == 9) HF_CO_TRY(co_await rig->journal->Commit());
    if (i % 50 == 49) co_await rig->locks->Demote(CellResource(cell), LockMode::kNone);
    if (i % 70 == 69) co_await rig->locks->Demote(GroupResource(0), LockMode::kNone);
  }
  toys->ReleaseIndex();
  co_return Status();
}

}  // namespace

TEST_CASE("superblock: geometry survives encoding, damage is noticed", "[fs][format][unit]") {
  Volume v(1);
  sim::SimExecutor& p = v.world.Start(NodeId(1));
  auto session = v.disk.Open(p);
  auto super = v.world.Run(p, ReadSuperblock(*session));
  REQUIRE(super.ok());
  CHECK(super->geometry.journal_count == 2);
  AlignedBuffer block(kBlockSize);
  EncodeSuperblock(*super, BlockNo(16), block.span());
  CHECK(DecodeSuperblock(block.span(), BlockNo(16)).ok());
  CHECK(DecodeSuperblock(block.span(), BlockNo(17)).code() == Errc::kCorrupt);
  for (size_t at : {100u, 150u, 1000u, 4095u}) {
    AlignedBuffer bad = block.Clone();
    bad.data()[at] ^= std::byte{1};
    CHECK_FALSE(DecodeSuperblock(bad.span(), BlockNo(16)).ok());
  }
}

TEST_CASE("superblock: one bad copy is survived", "[fs][format][unit]") {
  Volume v(2);
  sim::SimExecutor& p = v.world.Start(NodeId(1));
  auto session = v.disk.Open(p);
  AlignedBuffer junk(kBlockSize);
  junk.data()[5] = std::byte{7};
  for (uint64_t block : {17u, 16u}) {
    REQUIRE(v.world.Run(p, session->Write(block * kBlockSize, std::as_const(junk).span(), WriteFlags::kFua)).ok());
    CHECK(v.world.Run(p, ReadSuperblock(*session)).ok());  // the second time from the backup
  }
}

TEST_CASE("storage: work, clean end, everything accounted for", "[fs][journal][unit]") {
  for (bool volatile_cache : {true, false}) {
    Volume v(3, volatile_cache);
    sim::SimExecutor& p = v.world.Start(NodeId(1));
    auto session = v.disk.Open(p);
    auto rig = std::make_unique<StorageRig>(session.get());
    REQUIRE(v.world.Run(p, rig->Start(true)).ok());
    uint64_t free_before = rig->alloc->totals().free;
    Toys toys(rig.get());
    auto worked = v.world.Run(p, SomeWork(rig.get(), &toys, &v.world.random(), 400));
    INFO((worked.ok() ? "" : worked.error().ToString()));
    REQUIRE(worked.ok());
    BlockNo index(0);
    index = BlockNo(rig->super.root_inode.v);
    // The index block is the first metadata block claimed; find it by its resource.
    for (uint64_t b = rig->super.geometry.first_group_block; b < rig->super.geometry.volume_blocks; ++b) {
      BlockRef ref = rig->cache->Find(BlockNo(b));
      if (ref && ref.resource() == ResourceOf(InodeNo(kToyIndexInode))) index = BlockNo(b);
    }
    auto stopped = v.world.Run(p, rig->Stop());
    INFO((stopped.ok() ? "" : stopped.error().ToString()));
    REQUIRE(stopped.ok());
    CHECK(rig->journal->not_in_place() == 0);
    uint64_t used = 1;
    for (auto& [c, cell] : toys.state()) used += 1 + cell.data_blocks;
    CHECK(rig->alloc->totals().free == free_before - used);
    ToyState read;
    CHECK(v.world.Run(p, ReadToys(session.get(), rig->super, index, &read)) == "");
    CHECK(read == toys.state());
    CHECK(rig->journal->counters().commits > 10);
  }
}

namespace {

Task<void> CommitNow(Journal* journal, bool* done) {
  auto committed = co_await journal->Commit();
  HF_CHECK(committed.ok(), "commit: %s", committed.error().ToString().c_str());
  *done = true;
}

// A commit is asked for while a transaction runs, which is then undone: there is nothing to write.
Task<Status> CommitNothing(StorageRig* rig, Scope* scope, bool* done) {
  auto tx = co_await rig->journal->Begin(2);
  if (!tx.ok()) co_return tx.error();
  scope->Spawn(CommitNow(rig->journal.get(), done));
  co_await SleepFor(Milliseconds(1));
  tx->Abort();
  co_await scope->Join();
  co_return Status();
}

}  // namespace

TEST_CASE("journal: a commit of nothing leaves no gap in the log", "[fs][journal][unit]") {
  Volume v(9);
  sim::SimExecutor& p = v.world.Start(NodeId(1));
  auto session = v.disk.Open(p);
  auto rig = std::make_unique<StorageRig>(session.get());
  REQUIRE(v.world.Run(p, rig->Start(true)).ok());
  Toys toys(rig.get());
  REQUIRE(v.world.Run(p, toys.CreateIndex()).ok());
  REQUIRE(v.world.Run(p, toys.Put(1, 42, 3)).ok());
  REQUIRE(v.world.Run(p, rig->journal->Commit()).ok());
  uint64_t before = rig->journal->committed_sequence();
  for (int i = 0; i < 3; ++i) {
    Scope scope;
    bool done = false;
    REQUIRE(v.world.Run(p, CommitNothing(rig.get(), &scope, &done)).ok());
    CHECK(done);
  }
  CHECK(rig->journal->committed_sequence() == before);
  REQUIRE(v.world.Run(p, toys.Put(1, 4711, 3)).ok());
  REQUIRE(v.world.Run(p, rig->journal->Commit()).ok());
  CHECK(rig->journal->committed_sequence() > before);
  auto log = v.world.Run(p, ReadLog(*session, rig->super.geometry, MountNo(0)));
  REQUIRE(log.ok());
  CHECK(log->next_sequence == rig->journal->committed_sequence() + 1);  // replay reads all of it
  toys.ReleaseIndex();
  CHECK(v.world.Run(p, rig->Stop()).ok());
}

Task<Status> PutAndCommit(StorageRig* rig, Toys* toys, uint32_t cell) {
  auto put = co_await toys->Put(cell, 4711, 3);
  if (!put.ok()) co_return put.error();
  auto done = co_await rig->journal->Commit();
  co_return done;
}

TEST_CASE("journal: a damaged record with others behind it is no end of the log", "[fs][journal][unit]") {
  Volume v(8);
  sim::SimExecutor& p = v.world.Start(NodeId(1));
  auto session = v.disk.Open(p);
  auto rig = std::make_unique<StorageRig>(session.get());
  REQUIRE(v.world.Run(p, rig->Start(true)).ok());
  auto toys = std::make_unique<Toys>(rig.get());
  REQUIRE(v.world.Run(p, toys->CreateIndex()).ok());
  REQUIRE(v.world.Run(p, PutAndCommit(rig.get(), toys.get(), 1)).ok());
  const fs::Geometry& geometry = rig->super.geometry;
  auto before = v.world.Run(p, ReadLog(*session, geometry, MountNo(0)));
  REQUIRE(before.ok());
  CHECK(before->hole.empty());
  REQUIRE(v.world.Run(p, PutAndCommit(rig.get(), toys.get(), 2)).ok());
  REQUIRE(v.world.Run(p, PutAndCommit(rig.get(), toys.get(), 3)).ok());

  uint32_t into = GENERATE(0, 1);  // its descriptor, its first image
  BlockNo at(geometry.JournalStart(MountNo(0)).v + kJournalLogIndex + before->end_position + into);
  AlignedBuffer rot(kBlockSize);
  REQUIRE(v.world.Run(p, session->Write(at.v * kBlockSize, std::as_const(rot).span(), WriteFlags::kFua)).ok());
  auto log = v.world.Run(p, ReadLog(*session, geometry, MountNo(0)));
  REQUIRE(log.ok());
  CHECK(log->records == before->records);
  CHECK(log->hole.find("record " + std::to_string(before->next_sequence) + " ") != std::string::npos);
  CHECK(v.world.Run(p, ReplayJournal(*session, geometry, MountNo(0), nullptr)).code() == Errc::kCorrupt);
  auto header = v.world.Run(p, ReadJournalHeader(*session, geometry, MountNo(0)));
  REQUIRE(header.ok());
  CHECK(header->state == JournalState::kDirty);  // refused: still owed
  auto given_up = v.world.Run(p, ReplayJournal(*session, geometry, MountNo(0), nullptr, Hole::kGiveUp));
  REQUIRE(given_up.ok());
  CHECK(given_up->records == before->records);
  CHECK(!given_up->hole.empty());
  auto after = v.world.Run(p, ReadLog(*session, geometry, MountNo(0)));
  REQUIRE(after.ok());
  CHECK(after->hole.empty());
  v.world.Abandon(std::move(toys));
  v.world.Abandon(std::move(rig));
}

TEST_CASE("journal: a damaged last record is the end of the log, as after a crash", "[fs][journal][unit]") {
  Volume v(9);
  sim::SimExecutor& p = v.world.Start(NodeId(1));
  auto session = v.disk.Open(p);
  auto rig = std::make_unique<StorageRig>(session.get());
  REQUIRE(v.world.Run(p, rig->Start(true)).ok());
  auto toys = std::make_unique<Toys>(rig.get());
  REQUIRE(v.world.Run(p, toys->CreateIndex()).ok());
  REQUIRE(v.world.Run(p, PutAndCommit(rig.get(), toys.get(), 1)).ok());
  const fs::Geometry& geometry = rig->super.geometry;
  auto before = v.world.Run(p, ReadLog(*session, geometry, MountNo(0)));
  REQUIRE(before.ok());
  REQUIRE(v.world.Run(p, PutAndCommit(rig.get(), toys.get(), 2)).ok());
  BlockNo at(geometry.JournalStart(MountNo(0)).v + kJournalLogIndex + before->end_position);
  AlignedBuffer rot(kBlockSize);
  REQUIRE(v.world.Run(p, session->Write(at.v * kBlockSize, std::as_const(rot).span(), WriteFlags::kFua)).ok());
  auto log = v.world.Run(p, ReadLog(*session, geometry, MountNo(0)));
  REQUIRE(log.ok());
  CHECK(log->hole.empty());
  CHECK(log->records == before->records);
  v.world.Abandon(std::move(toys));
  v.world.Abandon(std::move(rig));
}

TEST_CASE("journal: a header older than the log is found", "[fs][journal][unit]") {
  Volume v(10);
  sim::SimExecutor& p = v.world.Start(NodeId(1));
  auto session = v.disk.Open(p);
  auto rig = std::make_unique<StorageRig>(session.get());
  REQUIRE(v.world.Run(p, rig->Start(true)).ok());
  const fs::Geometry& geometry = rig->super.geometry;
  AlignedBuffer headers(2 * kBlockSize);
  uint64_t place = geometry.JournalStart(MountNo(0)).v * kBlockSize;
  REQUIRE(v.world.Run(p, session->Read(place, headers.span())).ok());
  auto toys = std::make_unique<Toys>(rig.get());
  REQUIRE(v.world.Run(p, SomeWork(rig.get(), toys.get(), &v.world.random(), 1500)).ok());
  REQUIRE(rig->journal->counters().log_blocks > rig->journal->log_blocks());  // the log was overwritten
  CHECK(v.world.Run(p, ReadLog(*session, geometry, MountNo(0)))->hole.empty());
  REQUIRE(v.world.Run(p, session->Write(place, std::as_const(headers).span(), WriteFlags::kFua)).ok());
  auto log = v.world.Run(p, ReadLog(*session, geometry, MountNo(0)));
  REQUIRE(log.ok());
  CHECK(!log->hole.empty());
  v.world.Abandon(std::move(toys));
  v.world.Abandon(std::move(rig));
}

TEST_CASE("journal: a full log makes room by itself", "[fs][journal][unit]") {
  Volume v(4);
  sim::SimExecutor& p = v.world.Start(NodeId(1));
  auto session = v.disk.Open(p);
  auto rig = std::make_unique<StorageRig>(session.get());
  rig->journal_knobs.checkpoint_percent = 100;  // never in advance
  REQUIRE(v.world.Run(p, rig->Start(true)).ok());
  Toys toys(rig.get());
  auto worked = v.world.Run(p, SomeWork(rig.get(), &toys, &v.world.random(), 1500));
  REQUIRE(worked.ok());
  CHECK(rig->journal->counters().log_blocks > rig->journal->log_blocks());
  CHECK(v.world.Run(p, rig->Stop()).ok());
}

TEST_CASE("journal: commits are shared", "[fs][journal][unit]") {
  Volume v(5);
  sim::SimExecutor& p = v.world.Start(NodeId(1));
  auto session = v.disk.Open(p);
  auto rig = std::make_unique<StorageRig>(session.get());
  REQUIRE(v.world.Run(p, rig->Start(true)).ok());
  auto toys = std::make_unique<Toys>(rig.get());
  REQUIRE(v.world.Run(p, toys->CreateIndex()).ok());
  int done = 0;
  struct Writers {
    static Task<void> One(StorageRig* rig, Toys* toys, uint32_t cell, int* done) {
      for (int i = 0; i < 10; ++i) {
        auto put = co_await toys->Put(cell, cell * 100 + i, 1);
        HF_CHECK(put.ok(), "put: %s", put.error().ToString().c_str());
        auto synced = co_await rig->journal->Commit();
        HF_CHECK(synced.ok(), "commit");
      }
      ++*done;
    }
  };
  for (uint32_t c = 0; c < 20; ++c) p.Spawn(Writers::One(rig.get(), toys.get(), c, &done));
  REQUIRE(v.world.RunUntil([&] { return done == 20; }, Seconds(60)));
  CHECK(rig->journal->counters().commits < 150);  // of 200 that asked
  toys->ReleaseIndex();
  CHECK(v.world.Run(p, rig->Stop()).ok());
}

TEST_CASE("alloc: a full volume says so, removing helps, metadata space comes back", "[fs][alloc][unit]") {
  Volume v(6);
  sim::SimExecutor& p = v.world.Start(NodeId(1));
  auto session = v.disk.Open(p);
  auto rig = std::make_unique<StorageRig>(session.get());
  REQUIRE(v.world.Run(p, rig->Start(true)).ok());
  auto toys = std::make_unique<Toys>(rig.get());
  REQUIRE(v.world.Run(p, toys->CreateIndex()).ok());
  Status put;
  uint32_t n = 0;
  for (; n < 400 && put.ok(); ++n) put = v.world.Run(p, toys->Put(n, n, 500));
  REQUIRE(put.code() == Errc::kNoSpace);
  CHECK(n > 10);
  uint64_t used = 0;
  for (auto& [c, cell] : toys->state()) used += 1 + cell.data_blocks;
  CHECK(used > rig->alloc->totals().total - 700);
  REQUIRE(v.world.Run(p, toys->Remove(3)).ok());
  v.world.RunFor(Seconds(2));
  put = v.world.Run(p, toys->Put(3, 9, 400));
  INFO((put.ok() ? "" : put.error().ToString()));
  CHECK(put.ok());
  toys->ReleaseIndex();
  CHECK(v.world.Run(p, rig->Stop()).ok());
}

TEST_CASE("alloc: claims are returned at the end", "[fs][alloc][unit]") {
  Volume v(7);
  sim::SimExecutor& p = v.world.Start(NodeId(1));
  auto session = v.disk.Open(p);
  for (int round = 0; round < 2; ++round) {
    auto rig = std::make_unique<StorageRig>(session.get());
    REQUIRE(v.world.Run(p, rig->Start(true)).ok());
    uint64_t before = rig->alloc->totals().free;
    {
      auto r = v.world.Run(p, rig->alloc->Reserve({.meta = 5, .data = 100}));
      REQUIRE(r.ok());
      CHECK(rig->alloc->pool().data >= 100);
      CHECK(rig->alloc->totals().free == before - 105);
    }
    CHECK(rig->alloc->totals().free == before);
    REQUIRE(v.world.Run(p, rig->Stop()).ok());
    CHECK(rig->alloc->totals().free == before);
    CHECK(rig->alloc->totals().meta_free == 0);
  }
}
