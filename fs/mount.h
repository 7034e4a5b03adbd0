// Mount: one mount of a volume without FUSE: it assembles lease gate, cached locks, journal, allocator and vfs, in the
// order that recovery needs, and takes them down again, cleanly or by withdrawing. mount.holdfast and the simulator
// use the same class; the kernel is attached through the Kernel seam when there is one.
//
// Life: Start (superblock, locks, replay of what is owed, journal, vfs) -> running -> Stop (clean: journal clean, locks
// given up) | Withdraw (an error, fenced, evicted: nothing more is written; others replay our journal).
// What became of it in a cluster is the caller's to tell (ClusterLink::Leave, Withdrawn).
// Threading: one executor.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/block_device.h"
#include "base/kernel.h"
#include "base/status_tree.h"
#include "dlm/cluster_link.h"
#include "dlm/lockspace.h"
#include "fs/journal_header.h"
#include "fs/kernel_cache.h"
#include "fs/lease_gate.h"
#include "fs/lock_table.h"
#include "fs/open_locks.h"
#include "fs/range_locks.h"
#include "fs/superblock.h"
#include "fs/vfs.h"

namespace holdfast::fs {

class Allocator;
class AppMessages;
class DlmPort;
class Journal;
class MetaCache;
class RecoveryDriver;

struct MountOptions {
  BlockDevice* device = nullptr;
  Executor* executor = nullptr;
  dlm::LockSpace* space = nullptr;       // a view is in force
  dlm::ClusterLink* link = nullptr;      // nullptr: nolock; then every dirty journal is ours to replay
  OwnerStamp owner;                      // owner.mount = our journal
  const LeasePage* lease = nullptr;
  bool read_only = false;
  LockTableKnobs lock_knobs;
};

class Mount {
 public:
  explicit Mount(MountOptions options);
  ~Mount();

  // Errors are one line for a person: no volume, busy, owed journals, damage.
  Task<Status> Start();
  // Clean end. REQUIRES: no operation is running or will come. An error means that it has withdrawn instead.
  Task<Status> Stop();
  // Ends everything with errors; returns when nothing of ours is in flight at the device. Callable at any time, once
  // effective. on_withdraw was told first.
  Task<void> Withdraw(Error why);

  // Called once, from the executor's queue, with the first reason to withdraw; the owner then calls Withdraw.
  void SetOnFatal(std::function<void(Error)> on_fatal) { on_fatal_ = std::move(on_fatal); }
  // Something found out elsewhere (eviction, lost daemon).
  void Fatal(Error why);
  // The kernel's caches are dropped through this seam from now on. Before the first request.
  void AttachKernel(Kernel* kernel);

  // A newer view of the lockspace: the recovery driver looks at it (the caller has given it to the lockspace).
  void OnView(const dlm::View& view);

  Vfs& vfs() { return *vfs_; }
  LockTable& locks() { return *locks_; }
  KernelCache& kernel_cache() { return *kernel_cache_; }
  RangeLocks& ranges() { return *ranges_; }
  LeaseGate& gate() { return gate_; }
  const Superblock& superblock() const { return super_; }
  const LeasePage* lease() const { return options_.lease; }
  const OwnerStamp& owner() const { return options_.owner; }
  bool withdrawn() const { return withdrawn_; }
  const Error& reason() const { return reason_; }
  dlm::LinkStatus Describe() const;

 private:
  Task<Status> OpenJournal();
  Task<Status> ReplayAllOwn();
  // Others read what we wrote, file by file: bring all of it in place at once.
  Task<void> Relieve();
  // What a replayed journal leaves is ours now: its claims go back, its orphans are freed when nobody has them open.
  Task<Status> Adopt(MountNo journal, Interrupt* interrupt);

  MountOptions options_;
  LeaseGate gate_;
  Superblock super_;
  std::unique_ptr<DlmPort> port_;
  std::unique_ptr<LockTable> locks_;
  std::unique_ptr<OpenLocks> open_locks_;
  std::unique_ptr<RangeLocks> ranges_;
  std::unique_ptr<MetaCache> cache_;
  std::unique_ptr<Journal> journal_;
  std::unique_ptr<Allocator> allocator_;
  std::unique_ptr<Vfs> vfs_;
  std::unique_ptr<KernelCache> kernel_cache_;
  std::unique_ptr<RecoveryDriver> recovery_;
  std::unique_ptr<AppMessages> messages_;
  LockGuard journal_lock_;
  std::function<void(Error)> on_fatal_;
  bool fatal_ = false;
  bool relieving_ = false;
  bool stopping_ = false;
  WaitList relieved_;
  bool withdrawn_ = false;
  bool started_ = false;
  Error reason_ = Errc::kOk;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace holdfast::fs
