// StorageRig: a volume on a simulated disk with the storage half of a mount on it: cached locks whose lock manager
// grants everything (one member), metadata cache, journal, allocator. For tests of fs/'s storage.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "fs/alloc.h"
#include "fs/journal.h"
#include "fs/lock_port.h"
#include "fs/lock_table.h"
#include "fs/meta_cache.h"
#include "fs/replay.h"
#include "fs/superblock.h"
#include "mkfs/make_volume.h"
#include "tests/sim/disk.h"
#include "tests/sim/world.h"

namespace holdfast::fs::test {

class GrantAll final : public LockPort {
 public:
  void SetBlocking(Blocking) override {}
  Task<Status> Acquire(Resource, LockMode, LockMode, bool) override { co_return Status(); }
  Task<Status> Lower(Resource, LockMode, LockMode) override { co_return Status(); }
  void Cancel(Resource) override {}
};

// Blocks of toy objects under inode locks.
class ToyHooks final : public LockHooks {
 public:
  ToyHooks(Journal& journal, MetaCache& cache) : journal_(journal), cache_(cache) {}
  Task<Status> Flush(Resource resource) override { return journal_.WriteInPlace(resource); }
  void Drop(Resource resource, LockMode to) override {
    if (to == LockMode::kNone) cache_.DropResource(resource);
  }

 private:
  Journal& journal_;
  MetaCache& cache_;
};

inline Task<Superblock> MakeToyVolume(BlockDevice* device, Random* random, uint32_t journals) {
  mkfs::MakeVolumeOptions options;
  options.journals = journals;
  options.journal_mib = 1;
  options.quorum_area = false;
  options.now = {1'700'000'000, 0};
  auto super = co_await mkfs::MakeVolume(*device, std::move(options), *random);
  HF_CHECK(super.ok(), "making the volume: %s", super.error().ToString().c_str());
  co_return *super;
}

// The storage of one mount. Start replays every journal that is dirty, unless others are mounted (not `alone`).
struct StorageRig {
  BlockDevice* device;
  GrantAll grant_all;
  LockPort* port;
  MountNo mount;
  bool alone = true;
  std::unique_ptr<LockTable> locks;
  std::unique_ptr<MetaCache> cache;
  std::unique_ptr<Journal> journal;
  std::unique_ptr<Allocator> alloc;
  std::unique_ptr<ToyHooks> hooks;
  Superblock super;
  bool replayed = false;
  JournalKnobs journal_knobs;
  AllocatorKnobs alloc_knobs;

  explicit StorageRig(BlockDevice* d, LockPort* lock_port = nullptr, MountNo number = MountNo(0))
      : device(d), port(lock_port ? lock_port : &grant_all), mount(number) {}

  Task<Status> Start(bool replay) {
    auto read = co_await ReadSuperblock(*device);
    if (!read.ok()) co_return read.error();
    super = *read;
    for (uint32_t i = 0; alone && i < super.geometry.journal_count; ++i) HF_CO_TRY(co_await Recover(MountNo(i), replay));
    locks = std::make_unique<LockTable>(*port, Executor::Current().clock(), LockTableKnobs{});
    cache = std::make_unique<MetaCache>(*device, super.geometry);
    journal = std::make_unique<Journal>(*device, super.geometry, *cache, journal_knobs);
    alloc = std::make_unique<Allocator>(*locks, *journal, *cache, super.geometry, alloc_knobs);
    hooks = std::make_unique<ToyHooks>(*journal, *cache);
    locks->SetHooks(LockType::kGroup, alloc->hooks());
    locks->SetHooks(LockType::kJournal, alloc->hooks());
    locks->SetHooks(LockType::kInode, hooks.get());
    OwnerStamp owner{NodeId(1 + mount.v), Incarnation(1), 77, mount};
    HF_CO_TRY(co_await journal->Open(mount, owner));
    HF_CO_TRY(co_await alloc->ReturnClaims(mount));
    HF_CO_TRY(co_await alloc->Open());
    HF_CO_TRY(co_await alloc->LoadTotals());
    co_return Status();
  }
  Task<Status> Recover(MountNo number, bool replay) {
    auto header = co_await ReadJournalHeader(*device, super.geometry, number);
    if (!header.ok()) co_return header.error();
    if (header->state != JournalState::kDirty) co_return Status();
    replayed = true;
    if (replay) {
      auto report = co_await ReplayJournal(*device, super.geometry, number, nullptr);
      co_return report.ok() ? Status() : Status(report.error());
    }
    header->state = JournalState::kClean;  // the control: as if the journal had been clean
    auto written = co_await WriteJournalHeader(*device, super.geometry, &*header);
    co_return written;
  }
  Task<Status> Stop() {
    HF_CO_TRY(co_await alloc->Close());
    HF_CO_TRY(co_await journal->Close());
    co_await locks->DemoteAll();
    co_return Status();
  }
};

}  // namespace holdfast::fs::test
