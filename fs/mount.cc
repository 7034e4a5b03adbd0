#include "fs/mount.h"

#include <algorithm>

#include "base/log.h"
#include "fs/alloc.h"
#include "fs/app_messages.h"
#include "fs/dlm_port.h"
#include "fs/journal.h"
#include "fs/meta_cache.h"
#include "fs/recovery_driver.h"
#include "fs/replay.h"
#include "fs/vfs_core.h"

namespace holdfast::fs {

Mount::Mount(MountOptions options) : options_(options), gate_(*options.device, options.executor->clock()) {
  if (options_.lease) gate_.SetLease(options_.lease, options_.owner.incarnation);
  gate_.SetEvicted([this] { Fatal(Error(Errc::kFenced, "the lease of this node is over for good")); });
  gate_.SetFailed([this](const Error& error) {
    // A single failed request is for its caller to judge; these say that the volume is no longer ours.
    if (error.code == Errc::kConflict || error.code == Errc::kDisconnected || error.code == Errc::kFenced) Fatal(error);
  });
}

Mount::~Mount() { *alive_ = false; }

void Mount::Fatal(Error why) {
  if (fatal_) return;
  fatal_ = true;
  reason_ = why;
  HF_LOG(LogLevel::kError, "mount", "fatal", {{"reason", why.ToString()}});
  if (on_fatal_) options_.executor->Post([this, why] { on_fatal_(why); });
}

Task<Status> Mount::Start() {
  auto super = co_await ReadSuperblock(gate_);
  if (!super.ok()) co_return super.error();
  super_ = std::move(*super);
  options_.space->SetWithdrawnCallback([this, alive = alive_](std::string why) {
    if (*alive) Fatal(Error(Errc::kFenced, std::move(why)));
  });
  port_ = std::make_unique<DlmPort>(*options_.space);
  locks_ = std::make_unique<LockTable>(*port_, options_.executor->clock(), options_.lock_knobs);
  locks_->SetFatal([this](Error error) { Fatal(std::move(error)); });
  open_locks_ = std::make_unique<OpenLocks>(*locks_);
  ranges_ = std::make_unique<RangeLocks>(*options_.space);

  if (options_.link) {
    RecoveryDriver::Parts parts;
    parts.device = &gate_;
    parts.space = options_.space;
    parts.link = options_.link;
    parts.executor = options_.executor;
    parts.geometry = super_.geometry;
    parts.self = options_.owner;
    parts.fatal = [this](Error error) { Fatal(std::move(error)); };
    recovery_ = std::make_unique<RecoveryDriver>(std::move(parts));
    recovery_->OnView(options_.space->view());
    // A cold start replays everything before the first mount goes on.
    Status clear = co_await recovery_->NothingOwed();
    if (!clear.ok()) co_return clear;
  } else {
    Status replayed = co_await ReplayAllOwn();
    if (!replayed.ok()) co_return replayed;
  }

  auto guard = co_await locks_->Lock(JournalResource(options_.owner.mount), LockMode::kEx);
  if (!guard.ok()) co_return guard.error();
  journal_lock_ = std::move(*guard);
  Status opened = co_await OpenJournal();
  if (!opened.ok()) co_return opened;

  VfsParts parts;
  parts.device = &journal_->data_device();
  parts.super = &super_;
  parts.cache = cache_.get();
  parts.journal = journal_.get();
  parts.allocator = allocator_.get();
  parts.locks = locks_.get();
  parts.open_locks = open_locks_.get();
  parts.clock = &options_.executor->clock();
  parts.fatal = [this](Error error) { Fatal(std::move(error)); };
  vfs_ = std::make_unique<Vfs>(std::move(parts));
  locks_->SetHooks(LockType::kInode, vfs_->inode_hooks());

  AppMessages::Handlers handlers;
  handlers.reap_again = [this](InodeNo inode) { vfs_->ReapAgain(inode); };
  handlers.checkpoint = [this] { return journal_->Checkpoint(); };
  handlers.shrink = [this] { return allocator_->ShrinkPool(); };
  handlers.free_delta = [this](int64_t blocks) { allocator_->ApplyDelta(blocks); };
  handlers.take_delta = [this] { return allocator_->TakeDelta(); };
  messages_ = std::make_unique<AppMessages>(*options_.space, std::move(handlers));
  open_locks_->SetLastClose([this](InodeNo inode) { messages_->ReapAgain(inode); });
  if (options_.link) {
    allocator_->SetCheckpointOthers([this] { return messages_->CheckpointOthers(); });
    allocator_->SetShrinkOthers([this] { return messages_->ShrinkOthers(); });
  }

  Status started = co_await vfs_->Start();
  if (!started.ok()) co_return started;
  messages_->Start();
  if (recovery_) recovery_->SetAdopt([this](MountNo journal, Interrupt* interrupt) { return Adopt(journal, interrupt); });
  locks_->SetRelieve([this] {
    if (!relieving_) Detach(Relieve());
  });
  started_ = true;
  co_return Status();
}

Task<Status> Mount::OpenJournal() {
  cache_ = std::make_unique<MetaCache>(gate_, super_.geometry);
  journal_ = std::make_unique<Journal>(gate_, super_.geometry, *cache_);
  journal_->SetFatal([this](Error error) { Fatal(std::move(error)); });
  Status opened = co_await journal_->Open(options_.owner.mount, options_.owner);
  if (!opened.ok()) {
    co_return Error(opened.code(), "journal " + std::to_string(options_.owner.mount.v) + ": " + opened.error().ToString());
  }
  allocator_ = std::make_unique<Allocator>(*locks_, *journal_, *cache_, super_.geometry);
  locks_->SetHooks(LockType::kGroup, allocator_->hooks());
  locks_->SetHooks(LockType::kJournal, allocator_->hooks());
  Status returned = co_await allocator_->ReturnClaims(options_.owner.mount);
  if (!returned.ok()) co_return returned;
  Status allocating = co_await allocator_->Open();
  if (!allocating.ok()) co_return allocating;
  Status totals = co_await allocator_->LoadTotals();
  co_return totals;
}

// Nobody else lives (the caller has seen to that): every dirty journal is ours to replay, and all is frozen.
Task<Status> Mount::ReplayAllOwn() {
  for (uint32_t i = 0; i < super_.geometry.journal_count; ++i) {
    auto header = co_await ReadJournalHeader(gate_, super_.geometry, MountNo(i));
    if (!header.ok()) co_return Error(header.code(), "journal " + std::to_string(i) + ": " + header.error().ToString());
    if (header->state == JournalState::kClean) continue;
    FrozenPredicate all;
    auto report = co_await ReplayJournal(gate_, super_.geometry, MountNo(i), all);
    if (!report.ok()) co_return Error(report.code(), "replay of journal " + std::to_string(i) + ": " + report.error().ToString());
    HF_LOG(LogLevel::kInfo, "recovery", "replayed", {{"journal", i}});
  }
  co_return Status();
}

Task<void> Mount::Relieve() {
  if (relieving_ || fatal_ || !started_) co_return;
  relieving_ = true;
  VfsCore& core = vfs_->core();
  std::vector<InodeNo> dirty;
  core.table.ForEach([&](Inode& inode) {
    if (inode.data.dirty() || inode.dirty_core) dirty.push_back(inode.number);
  });
  std::sort(dirty.begin(), dirty.end());
  for (InodeNo number : dirty) {
    if (fatal_ || stopping_) break;
    // Only what is cached and free right now: never wait for a lock, never take one back.
    LockGuard guard = locks_->TryLock(ResourceOf(number), LockMode::kEx);
    if (!guard) continue;
    Inode* inode = core.table.Find(number, guard.acquisition());
    if (inode == nullptr) continue;
    LockedInode locked(std::move(guard), inode, &core.table);
    Status written = co_await core.WriteBack(inode);
    if (!written.ok()) break;  // its owner meets the same error
  }
  if (!fatal_ && !stopping_) {
    Status done = co_await journal_->Checkpoint();
    if (!done.ok()) HF_LOG(LogLevel::kDebug, "mount", "relief", {{"error", done.error().ToString()}});
  }
  relieving_ = false;
  relieved_.WakeAll();
}

Task<Status> Mount::Adopt(MountNo journal, Interrupt* interrupt) {
  auto guard = co_await locks_->Lock(JournalResource(journal), LockMode::kEx, Interruptible(interrupt));
  if (!guard.ok()) co_return guard.error();
  Status adopted = co_await allocator_->ReturnClaims(journal, interrupt);
  if (adopted.ok()) adopted = co_await vfs_->AdoptOrphans(journal, interrupt);
  guard->Release();
  co_await locks_->Demote(JournalResource(journal), LockMode::kNone);
  HF_LOG(LogLevel::kInfo, "recovery", "adopted", {{"journal", journal}, {"ok", adopted.ok()}});
  co_return adopted;
}

void Mount::AttachKernel(Kernel* kernel) {
  kernel_cache_ = std::make_unique<KernelCache>(*kernel, *locks_, options_.executor->clock());
  kernel_cache_->SetRoot(super_.root_inode);
  locks_->SetKernelHooks(kernel_cache_.get());
}

void Mount::OnView(const dlm::View& view) {
  if (recovery_) recovery_->OnView(view);
}

Task<Status> Mount::Stop() {
  if (fatal_) co_return reason_;
  if (recovery_) co_await recovery_->StopAdopting();
  messages_->Stop();
  co_await messages_->Idle();
  stopping_ = true;
  while (relieving_) co_await relieved_.Wait();
  Status stopped = co_await vfs_->Stop();
  if (!stopped.ok()) co_return stopped;
  Status given = co_await allocator_->Close();
  if (!given.ok()) co_return given;
  co_await locks_->DemoteAll(LockType::kJournal);
  if (fatal_) co_return reason_;
  Status closed = co_await journal_->Close();
  if (!closed.ok()) co_return closed;
  locks_->SetHooks(LockType::kJournal, nullptr);
  journal_lock_.Release();
  co_await locks_->DemoteAll();
  Status left = co_await options_.space->Leave();
  if (!left.ok()) co_return left;
  if (recovery_) {
    recovery_->Stop();
    co_await recovery_->Join();
  }
  gate_.Shut();
  co_await gate_.Drained();
  co_return Status();
}

Task<void> Mount::Withdraw(Error why) {
  fatal_ = true;
  if (reason_.code == Errc::kOk) reason_ = why;
  if (!withdrawn_) {
    withdrawn_ = true;
    gate_.Shut();
    options_.space->Withdraw(why.ToString());
    if (locks_) locks_->Fail(Error(Errc::kFenced, "withdrawn: " + why.ToString()));
    if (journal_) journal_->Fail(Error(Errc::kFenced, "withdrawn: " + why.ToString()));
    if (messages_) messages_->Stop();
    if (recovery_) recovery_->Stop();
    if (vfs_) co_await vfs_->Abandon();
  }
  co_await gate_.Drained();
}

}  // namespace holdfast::fs
