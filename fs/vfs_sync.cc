// Vfs: durability: fsync, flush, syncfs.
#include <algorithm>

#include "base/mutants.h"
#include "fs/vfs.h"
#include "fs/vfs_core.h"

namespace holdfast::fs {

// PR first: what another mount had written becomes durable by its letting go. Our own data needs EX to be written.
Task<Status> Vfs::Fsync(KernelInode node, bool data_only, Interrupt* interrupt) {
  (void)data_only;  // sizes and extents are metadata of every record; times cost nothing more
  VfsCore* core = core_.get();
  if (HF_MUTANT(kFsyncOwnOnly)) {
    Inode* here = core->table.Peek(node == kRootNode ? core->root() : InodeNo(node & kInodeMask));
    if (here == nullptr || (!here->data.dirty() && !here->dirty_core)) {
      auto own = co_await core->parts.journal->Sync();
      co_return own;
    }
  }
  // FSYNC of a directory holds its i_rwsem, which dropping its names waits for (rule 1): let in meanwhile.
  LockOptions options = Interruptible(interrupt);
  options.page_io = true;
  auto locked = co_await core->Lock(node, LockMode::kPr, options);
  if (!locked.ok()) co_return locked.error();
  if ((*locked)->data.dirty() || (*locked)->dirty_core) {
    locked->Release();
    auto alone = co_await core->Lock(node, LockMode::kEx, options);
    if (!alone.ok()) co_return alone.error();
    auto written = co_await core->WriteBack(&**alone);
    if (!written.ok()) co_return written;
    *locked = std::move(*alone);
  }
  auto error = std::exchange((*locked)->data.error, std::nullopt);
  locked->Release();
  auto synced = co_await core->parts.journal->Sync();
  if (synced.ok() && error) co_return *error;
  co_return synced;
}

Task<Status> Vfs::Flush(KernelInode node) {
  VfsCore* core = core_.get();
  Inode* inode = core->table.Peek(node == kRootNode ? core->root() : InodeNo(node & kInodeMask));
  if (inode != nullptr && inode->data.error) co_return *std::exchange(inode->data.error, std::nullopt);
  co_return Status();
}

Task<Status> Vfs::SyncFs() {
  VfsCore* core = core_.get();
  std::vector<InodeNo> dirty;
  core->table.ForEach([&](Inode& inode) {
    if (inode.data.dirty() || inode.dirty_core) dirty.push_back(inode.number);
  });
  std::sort(dirty.begin(), dirty.end());
  Status result;
  for (InodeNo number : dirty) {
    auto guard = co_await core->parts.locks->Lock(ResourceOf(number), LockMode::kEx);
    if (!guard.ok()) co_return guard.error();
    Inode* inode = core->table.Find(number, guard->acquisition());
    if (inode == nullptr) continue;
    LockedInode locked(std::move(*guard), inode, &core->table);
    auto written = co_await core->WriteBack(inode);
    if (!written.ok()) result = written;
  }
  auto synced = co_await core->parts.journal->Sync();
  if (!result.ok()) co_return result;
  co_return synced;
}

}  // namespace holdfast::fs
