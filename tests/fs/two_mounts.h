// Two mounts of one volume over one modelled lock manager, for cases that are told step by step: what passes from one to the other.
#pragma once

#include <memory>

#include "base/log.h"
#include "tests/fs/model_locks.h"
#include "tests/fs/vfs_rig.h"

namespace holdfast::fs::test {

// A device that holds the writes of one block back.
class HeldWrites final : public BlockDevice {
 public:
  explicit HeldWrites(BlockDevice* device) : device_(device) {}
  void Hold(BlockNo block) { held_ = block; }
  void Release() {
    held_ = {};
    changed_.WakeAll();
  }
  const DeviceInfo& info() const override { return device_->info(); }
  Task<Status> Read(uint64_t offset, std::span<std::byte> out) override { return device_->Read(offset, out); }
  Task<Status> Write(uint64_t offset, std::span<const std::byte> in, WriteFlags flags) override {
    auto held = [&] { return held_.v != 0 && offset <= held_.v * kBlockSize && held_.v * kBlockSize < offset + in.size(); };
    if (held()) ++waited_;
    while (held()) co_await changed_.Wait();
    auto done = co_await device_->Write(offset, in, flags);
    co_return done;
  }
  Task<Status> Flush() override { return device_->Flush(); }
  Task<Status> Discard(uint64_t offset, uint64_t length) override { return device_->Discard(offset, length); }
  Task<void> Close() override { return device_->Close(); }
  size_t waited() const { return waited_; }

 private:
  BlockDevice* device_;
  BlockNo held_;
  WaitList changed_;
  size_t waited_ = 0;
};

template <class Rig>
struct Member {
  sim::SimExecutor* process = nullptr;
  std::unique_ptr<sim::SimDiskSession> session;
  std::unique_ptr<HeldWrites> device;
  std::unique_ptr<ModelLocks::Port> port;
  std::unique_ptr<Rig> rig;
};

inline sim::DiskKnobs Calm() {
  sim::DiskKnobs knobs;
  knobs.early_destage = 0;
  return knobs;
}

inline StorageRig& StorageOf(StorageRig& rig) { return rig; }
inline StorageRig& StorageOf(VfsRig& rig) { return rig.storage; }

// Two mounts of one volume over one lock manager.
template <class Rig>
struct Two {
  sim::World world;
  std::unique_ptr<sim::SimDisk> disk;
  ModelLocks locks;
  Member<Rig> m[2];

  explicit Two(uint64_t seed, uint64_t mib = 24) : world(seed), locks(&world) {
    SetLogLevel(LogLevel::kOff);
    disk = std::make_unique<sim::SimDisk>(&world, mib << 20, Calm());
    sim::SimExecutor& maker = world.Start(NodeId(1));
    auto session = disk->Open(maker);
    (void)world.Run(maker, MakeToyVolume(session.get(), &world.random(), 2));
    for (uint32_t i = 0; i < 2; ++i) {
      m[i].process = &world.Start(NodeId(10 + i));
      m[i].session = disk->Open(*m[i].process);
      m[i].port = locks.Join(m[i].process);
      m[i].device = std::make_unique<HeldWrites>(m[i].session.get());
      m[i].rig = std::make_unique<Rig>(m[i].device.get(), m[i].port.get(), MountNo(i));
      StorageRig& storage = StorageOf(*m[i].rig);
      storage.alone = false;
      storage.journal_knobs.checkpoint_percent = 95;  // nothing goes in place, and nothing is committed, before it must
      storage.journal_knobs.commit_age = Seconds(3600);
      storage.alloc_knobs.data_pool_blocks = 16;
      storage.alloc_knobs.meta_pool = 8;
      storage.alloc_knobs.emergency_meta = 0;
    }
  }
  ~Two() {
    for (auto& member : m) {
      if (member.process->alive()) member.process->Crash();
      world.Abandon(std::move(member.rig));
      world.Abandon(std::move(member.port));
      world.Abandon(std::move(member.device));
      world.Abandon(std::move(member.session));
    }
  }
  template <class T>
  T Run(int i, Task<T> task) {
    return world.Run(*m[i].process, std::move(task));
  }
};

// All that the journal's dead owner had logged counts as frozen, but what a living mount holds.
inline Task<Status> Replay(StorageRig* rig, MountNo journal, Resource held = {}) {
  FrozenPredicate all = [held](Resource resource) -> Task<Result<bool>> { co_return resource != held; };
  auto report = co_await ReplayJournal(*rig->device, rig->super.geometry, journal, all);
  co_return report.ok() ? Status() : Status(report.error());
}

}  // namespace holdfast::fs::test
