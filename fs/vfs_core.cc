#include "fs/vfs_core.h"

#include <algorithm>

#include "base/log.h"
#include "fs/orphans.h"

namespace holdfast::fs {

VfsCore::VfsCore(VfsParts p)
    : parts(std::move(p)), table(parts.knobs.inodes_max), orphans(std::make_unique<Orphans>(this)) {}

VfsCore::~VfsCore() = default;

Status CheckName(std::string_view name) {
  if (name.size() > kNameMax) return Errc::kNameTooLong;
  if (name.empty() || name.find('/') != name.npos || name.find('\0') != name.npos) return Errc::kInvalid;
  return Status();
}

uint32_t TreeCredits(Tree& tree) { return 4 * (tree.Height() + 1) + 4; }

Task<Result<LockedInode>> VfsCore::LockLoaded(InodeNo number, LockMode mode, LockOptions options, bool hostile) {
  if (!parts.cache->geometry().ValidTarget(BlockNo(number.v)))
    co_return hostile ? Error(Errc::kStale) : Error(Errc::kCorrupt, "an inode number outside the groups");
  auto guard = co_await parts.locks->Lock(ResourceOf(number), mode, options);
  if (!guard.ok()) co_return guard.error();
  uint64_t acquisition = guard->acquisition();
  Inode* inode = table.Find(number, acquisition);
  if (inode == nullptr) {
    auto block = co_await parts.cache->Read(BlockNo(number.v), BlockType::kInode, ResourceOf(number));
    if (!block.ok()) {
      // A number that the kernel kept may name a block that is something else by now.
      if (hostile && block.code() == Errc::kCorrupt && number != root()) co_return Errc::kStale;
      co_return block.error();
    }
    inode = table.Find(number, acquisition);  // a sharer of PR may have been first
    if (inode == nullptr) {
      auto good = CheckInode(block->bytes(), number);
      if (!good.ok()) co_return good.error();
      inode = table.Add(number, acquisition, std::move(*block));
    }
  }
  LockedInode locked(std::move(*guard), inode, &table);
  if (inode->users == 1 && inode->nodes.size() > parts.knobs.nodes_per_inode_max) inode->DropNodes();
  co_return locked;
}

Task<Result<LockedInode>> VfsCore::Lock(KernelInode node, LockMode mode, LockOptions options) {
  InodeNo number = node == kRootNode ? root() : InodeNo(node & kInodeMask);
  auto locked = co_await LockLoaded(number, mode, options, true);
  if (!locked.ok()) co_return locked.error();
  Inode& inode = **locked;
  if (inode.gone() || Node(inode) != node) co_return Errc::kStale;
  co_return std::move(*locked);
}

Task<Result<LockedInode>> VfsCore::LockNumber(InodeNo number, uint32_t generation, LockMode mode,
                                              LockOptions options) {
  auto locked = co_await LockLoaded(number, mode, options, false);
  if (!locked.ok()) co_return locked.error();
  Inode& inode = **locked;
  if (inode.gone() || inode.core.generation != generation)
    co_return Error(Errc::kCorrupt, "a directory entry names an inode that does not exist");
  co_return std::move(*locked);
}

Task<Result<LockedInode>> VfsCore::LockOrphan(InodeNo number, LockOptions options) {
  return LockLoaded(number, LockMode::kEx, options, false);
}

Task<Status> VfsCore::LoadMissing(Inode* inode) {
  BlockNo block(inode->missing);
  auto read = co_await parts.cache->Read(block, BlockType::kTree, inode->resource());
  if (!read.ok()) co_return read.error();
  // The tree checks it when it finds it; keep it in memory until then.
  inode->loading = std::move(*read);
  co_return Status();
}

Task<Result<Reservation>> VfsCore::Reserve(ReserveRequest request, Interrupt* interrupt) {
  auto at_once = parts.allocator->TryReserve(request);
  if (at_once) co_return std::move(*at_once);
  // Others may wait for the same refill, which may wait for a group's lock: it is not cut short.
  Task<Result<Reservation>> slowly = ReserveSlowly(request);
  auto reserved = co_await OrInterrupted<Result<Reservation>>(&scope, interrupt, std::move(slowly));
  co_return reserved;
}

Task<Result<Reservation>> VfsCore::ReserveSlowly(ReserveRequest request) {
  auto reserved = co_await parts.allocator->Reserve(request);
  // The reaper itself asks with `emergency`.
  if (reserved.code() == Errc::kNoSpace && !request.emergency && !orphans->empty()) {
    co_await orphans->ReapNow();
    reserved = co_await parts.allocator->Reserve(request);
  }
  co_return reserved;
}

Task<Status> VfsCore::Flush(Resource resource) {
  Inode* inode = table.Peek(InodeNo(resource.number));
  if (inode != nullptr && (inode->data.dirty() || inode->dirty_core)) {
    table.Use(inode);
    auto written = co_await WriteBack(inode);
    table.Unuse(inode);
    if (!written.ok()) co_return written;
  }
  auto in_place = co_await parts.journal->WriteInPlace(resource);
  co_return in_place;
}

void VfsCore::Drop(Resource resource, LockMode to) {
  if (to != LockMode::kNone) return;
  table.Drop(InodeNo(resource.number));
  parts.cache->DropResource(resource);
}

void VfsCore::DirtyChanged(Inode* inode, size_t before) {
  size_t now = inode->data.bytes();
  dirty_bytes_ += now;
  dirty_bytes_ -= before;
  if (before == 0 && now > 0) inode->data.since = parts.clock->Now();
}

void VfsCore::Fatal(const Error& error) {
  HF_LOG(LogLevel::kError, "vfs", "background_failed", {{"error", error.ToString()}});
  if (parts.fatal) parts.fatal(error);
}

Task<bool> Pause(VfsCore* core, Duration delay) {
  if (core->stopping) co_return false;
  Instant until = core->parts.clock->Now() + delay;
  Executor& executor = Executor::Current();
  TimerId timer = executor.PostAt(until, [core] { core->stop_changed.WakeAll(); });
  while (!core->stopping && core->parts.clock->Now() < until) co_await core->stop_changed.Wait();
  executor.Cancel(timer);
  co_return !core->stopping;
}

Task<void> VfsCore::FlusherLoop() {
  for (;;) {
    bool go_on = co_await Pause(this, parts.knobs.flush_interval);
    if (!go_on) co_return;
    Instant now = parts.clock->Now();
    std::vector<InodeNo> due;
    table.ForEach([&](Inode& inode) {
      bool old = inode.data.dirty() ? now - inode.data.since >= parts.knobs.flush_age : inode.dirty_core;
      if (old) due.push_back(inode.number);
    });
    std::sort(due.begin(), due.end());
    for (InodeNo number : due) {
      if (stopping) co_return;
      auto guard = co_await parts.locks->Lock(ResourceOf(number), LockMode::kEx);
      if (!guard.ok()) break;
      Inode* inode = table.Find(number, guard->acquisition());
      if (inode == nullptr) continue;
      LockedInode locked(std::move(*guard), inode, &table);
      auto written = co_await WriteBack(inode);
      if (!written.ok()) {
        inode->data.error = written.error();
        if (written.code() != Errc::kNoSpace) Fatal(written.error());
      }
    }
  }
}

}  // namespace holdfast::fs
