// VfsRig: StorageRig with the objects on it: a whole mount of one member without FUSE, on a simulated disk.
#pragma once

#include <string>

#include "fs/open_locks.h"
#include "fs/orphans.h"
#include "fs/vfs.h"
#include "fs/vfs_core.h"
#include "tests/fs/storage_rig.h"

namespace holdfast::fs::test {

struct VfsRig {
  StorageRig storage;
  std::unique_ptr<OpenLocks> open_locks;
  std::unique_ptr<Vfs> vfs;
  VfsKnobs knobs;
  std::string fatal;

  explicit VfsRig(BlockDevice* device, LockPort* port = nullptr, MountNo number = MountNo(0)) : storage(device, port, number) {}

  Task<Status> Start(bool replay = true) {
    auto started = co_await storage.Start(replay);
    if (!started.ok()) co_return started;
    open_locks = std::make_unique<OpenLocks>(*storage.locks);
    storage.locks->SetPolite(LockType::kOpen);
    VfsParts parts;
    parts.device = &storage.journal->data_device();
    parts.super = &storage.super;
    parts.cache = storage.cache.get();
    parts.journal = storage.journal.get();
    parts.allocator = storage.alloc.get();
    parts.locks = storage.locks.get();
    parts.open_locks = open_locks.get();
    parts.clock = &Executor::Current().clock();
    parts.fatal = [this](Error e) { fatal = e.ToString(); };
    parts.knobs = knobs;
    vfs = std::make_unique<Vfs>(std::move(parts));
    storage.locks->SetHooks(LockType::kInode, vfs->inode_hooks());
    auto ready = co_await vfs->Start();
    co_return ready;
  }
  Task<Status> Stop() {
    auto stopped = co_await vfs->Stop();
    if (!stopped.ok()) co_return stopped;
    auto given = co_await storage.alloc->Close();
    if (!given.ok()) co_return given;
    auto closed = co_await storage.journal->Close();
    if (!closed.ok()) co_return closed;
    co_await storage.locks->DemoteAll();
    co_return Status();
  }
};

// Runs an operation and requires that it succeeds; returns its value.
template <class T>
T Must(Result<T> result) {
  HF_CHECK(result.ok(), "the operation failed: %s", result.error().ToString().c_str());
  return std::move(*result);
}
inline void Must(Status status) { HF_CHECK(status.ok(), "the operation failed: %s", status.error().ToString().c_str()); }

// A volume of `mib` MiB and what is needed to mount it again and again.
struct VolumeRig {
  sim::World world;
  std::unique_ptr<sim::SimDisk> disk;
  sim::SimExecutor* process = nullptr;
  std::unique_ptr<sim::SimDiskSession> session;
  std::unique_ptr<VfsRig> mount;
  VfsKnobs knobs;

  VolumeRig(uint64_t seed, uint64_t mib, sim::DiskKnobs disk_knobs = {}) : world(seed) {
    disk = std::make_unique<sim::SimDisk>(&world, mib << 20, disk_knobs);
    NewProcess();
    (void)world.Run(*process, MakeToyVolume(session.get(), &world.random(), 2));
  }
  void NewProcess() {
    process = &world.Start(NodeId(1));
    if (session) world.Abandon(std::move(session));
    session = disk->Open(*process);
  }
  void Mount() {
    mount = std::make_unique<VfsRig>(session.get());
    mount->knobs = knobs;
    Must(world.Run(*process, mount->Start()));
  }
  void Unmount() {
    Must(world.Run(*process, mount->Stop()));
    HF_CHECK(mount->fatal.empty(), "%s", mount->fatal.c_str());
    mount.reset();
  }
  // kill -9 of the mount.
  void Kill() {
    process->Crash();
    world.Abandon(std::move(mount));
    NewProcess();
  }
  Vfs& vfs() { return *mount->vfs; }
  template <class T>
  T Run(Task<T> task) {
    return world.Run(*process, std::move(task));
  }
};

inline std::span<const std::byte> Text(const std::string& s) { return AsBytes(s); }

}  // namespace holdfast::fs::test
