// Vfs: life of a mount's operations (start, stop), opening and closing.
#include "base/log.h"
#include "fs/orphans.h"
#include "fs/vfs.h"
#include "fs/vfs_data.h"

namespace holdfast::fs {

Vfs::Vfs(VfsParts parts) : core_(std::make_unique<VfsCore>(std::move(parts))) {}
Vfs::~Vfs() = default;

LockHooks* Vfs::inode_hooks() { return core_.get(); }

Task<Status> Vfs::Start() {
  VfsCore* core = core_.get();
  auto root = co_await core->Lock(kRootNode, LockMode::kPr);
  if (!root.ok()) co_return root.error();
  if (!(*root)->directory()) co_return Error(Errc::kCorrupt, "the root is not a directory");
  root->Release();
  auto loaded = co_await core->orphans->Load();
  if (!loaded.ok()) co_return loaded;
  core->scope.Spawn(core->FlusherLoop());
  core->scope.Spawn(core->orphans->ReaperLoop());
  co_return Status();
}

Task<Status> Vfs::Stop() {
  VfsCore* core = core_.get();
  core->stopping = true;
  core->stop_changed.WakeAll();
  co_await core->scope.Join();
  // Files that the kernel closed without telling (a lazy unmount) do not keep their unlinked inodes.
  core->orphans->ForgetBusy();
  co_await core->orphans->ReapNow();
  auto synced = co_await SyncFs();
  co_return synced;
}

Task<void> Vfs::Abandon() {
  VfsCore* core = core_.get();
  core->stopping = true;
  core->abandoned = true;
  core->stop_changed.WakeAll();
  co_await core->scope.Join();
  core->table.ForEach([](Inode& inode) { inode.data.Clear(); });
}

Task<Result<OpenResult>> Vfs::Open(KernelInode node, OpenOptions options) {
  VfsCore* core = core_.get();
  LockMode mode = options.write ? LockMode::kEx : LockMode::kPr;
  LockOptions lock_options;
  lock_options.interrupt = options.interrupt;
  lock_options.noqueue = options.write && !options.truncate;
  auto locked = co_await core->Lock(node, mode, lock_options);
  if (locked.code() == Errc::kWouldBlock) {
    lock_options.noqueue = false;
    auto shared = co_await core->Lock(node, LockMode::kPr, lock_options);
    locked = std::move(shared);
  }
  if (!locked.ok()) co_return locked.error();
  Inode* inode = &**locked;
  if (options.truncate && inode->regular()) {
    if (inode->size() > 0 || (inode->core.state & kInodeTruncating) != 0) {
      auto sized = co_await SetSize(core, inode, 0);
      if (!sized.ok()) co_return sized.error();
    }
    auto tx = co_await core->parts.journal->Begin(1);
    if (!tx.ok()) co_return tx.error();
    if (options.kill_privileges) KillPrivileges(inode);
    inode->Touch(core->Now(), true);
    inode->Log(*tx, !inode->data.dirty());
    tx->Finish();
  }
  auto opened = co_await core->parts.open_locks->Opened(inode->number, options.interrupt);
  if (!opened.ok()) co_return opened.error();
  co_return OpenResult{core->AttrOf(*inode), locked->guard().mode()};
}

Task<Status> Vfs::Release(KernelInode node) {
  VfsCore* core = core_.get();
  InodeNo number = node == kRootNode ? core->root() : InodeNo(node & kInodeMask);
  if (core->parts.open_locks->Released(number)) core->orphans->MayReap(number);
  co_return Status();
}

void Vfs::Forget(KernelInode) {}

void Vfs::ReapAgain(InodeNo inode) { core_->orphans->MayReap(inode); }

Task<Status> Vfs::AdoptOrphans(MountNo journal, Interrupt* interrupt) { return core_->orphans->Adopt(journal, interrupt); }

}  // namespace holdfast::fs
