#include "fs/orphans.h"

#include <algorithm>

#include "base/log.h"
#include "fs/vfs_core.h"

namespace holdfast::fs {

// One orphan in a pass: everything that keeps others away from it.
struct Orphans::Victim {
  LockedInode inode;
  LockGuard open;       // EX of its open-lock
  bool linked = false;  // got a name again: only off the list
};

namespace {

Task<void> PutInPlace(Journal* journal, Resource resource, Status* result) {
  auto written = co_await journal->WriteInPlace(resource);
  if (!written.ok()) *result = written;
}

}  // namespace

void Orphans::Push(Transaction& tx, Inode& inode) {
  auto& owner = As<DiskJournalOwner>(tx.Change(core_->parts.journal->owner_block()));
  inode.core.orphan_next = owner.orphan_head;
  inode.core.state = inode.core.state | kInodeOrphan;
  owner.orphan_head = inode.number.v;
  list_.push_front(inode.number);
  where_[inode.number.v] = list_.begin();
  pending_ = true;
  InodeNo number = inode.number;
  tx.OnAbort([this, number] { Forget(number); });
}

void Orphans::Forget(InodeNo number) {
  auto it = where_.find(number.v);
  if (it == where_.end()) return;
  list_.erase(it->second);
  where_.erase(it);
  busy_.erase(number.v);
}

InodeNo Orphans::Before(InodeNo number) const {
  auto it = where_.at(number.v);
  return it == list_.begin() ? InodeNo() : *std::prev(it);
}

void Orphans::MayReap(InodeNo number) {
  if (!where_.contains(number.v)) return;
  busy_.erase(number.v);
  pending_ = true;
}

// Follows the list from `head`; each inode is read under its lock, one at a time.
Task<Result<std::vector<InodeNo>>> Orphans::Walk(InodeNo head, InodeNo* tail, Interrupt* interrupt) {
  std::vector<InodeNo> found;
  std::unordered_map<uint64_t, bool> seen;
  for (InodeNo at = head; at.v != 0;) {
    if (seen.contains(at.v) || where_.contains(at.v)) co_return Error(Errc::kCorrupt, "the orphan list has a loop");
    seen[at.v] = true;
    auto locked = co_await core_->LockOrphan(at, Interruptible(interrupt));
    if (!locked.ok()) co_return locked.error();
    if (((*locked)->core.state & kInodeOrphan) == 0)
      co_return Error(Errc::kCorrupt, "the orphan list names an inode that is no orphan");
    found.push_back(at);
    *tail = at;
    at = InodeNo((*locked)->core.orphan_next);
  }
  co_return found;
}

Task<Status> Orphans::Load() {
  InodeNo head(core_->parts.journal->owner_block().as<DiskJournalOwner>().orphan_head);
  InodeNo tail;
  auto found = co_await Walk(head, &tail, nullptr);
  if (!found.ok()) co_return found.error();
  for (InodeNo number : *found) where_[number.v] = list_.insert(list_.end(), number);
  pending_ = !list_.empty();
  if (pending_) HF_LOG(LogLevel::kInfo, "orphans", "adopted", {{"count", list_.size()}});
  co_return Status();
}

Task<Status> Orphans::Adopt(MountNo journal, Interrupt* interrupt) {
  VfsCore& core = *core_;
  BlockNo at(core.parts.super->geometry.JournalStart(journal).v + kJournalOwnerIndex);
  auto owner = co_await core.parts.cache->Read(at, BlockType::kJournalOwner, JournalResource(journal));
  if (!owner.ok()) co_return owner.error();
  InodeNo head(owner->as<DiskJournalOwner>().orphan_head), tail;
  if (head.v == 0) co_return Status();
  auto found = co_await Walk(head, &tail, interrupt);
  if (!found.ok()) co_return found.error();
  auto last = co_await core.LockOrphan(tail, Interruptible(interrupt));
  if (!last.ok()) co_return last.error();
  auto tx = co_await core.parts.journal->Begin(3);
  if (!tx.ok()) co_return tx.error();
  // Their whole list goes in front of ours.
  auto& ours = As<DiskJournalOwner>(tx->Change(core.parts.journal->owner_block()));
  (*last)->core.orphan_next = ours.orphan_head;
  (*last)->Log(*tx, false);
  ours.orphan_head = head.v;
  As<DiskJournalOwner>(tx->Change(*owner)).orphan_head = 0;
  tx->Finish();
  auto front = list_.begin();
  for (InodeNo number : *found) where_[number.v] = list_.insert(front, number);
  pending_ = true;
  HF_LOG(LogLevel::kInfo, "orphans", "adopted", {{"count", found->size()}, {"journal", journal}});
  co_return Status();
}

// Locks what can be locked at once and is closed everywhere.
Task<Result<std::vector<Orphans::Victim>>> Orphans::Gather() {
  std::vector<Victim> victims;
  std::vector<InodeNo> candidates;
  for (InodeNo number : list_) {
    if (busy_.contains(number.v)) continue;
    candidates.push_back(number);
    if (candidates.size() == core_->parts.knobs.reap_batch) break;
  }
  for (InodeNo number : candidates) {
    if (!where_.contains(number.v)) continue;
    LockOptions noqueue;
    noqueue.noqueue = true;
    auto locked = co_await core_->LockOrphan(number, noqueue);
    if (locked.code() == Errc::kWouldBlock) {
      busy_[number.v] = true;
      continue;
    }
    if (!locked.ok()) co_return locked.error();
    Victim victim;
    victim.linked = (*locked)->core.nlink > 0;
    if (!victim.linked) {
      if (core_->parts.open_locks->OpenHere(number)) {
        busy_[number.v] = true;
        continue;
      }
      auto open = co_await core_->parts.open_locks->TryReap(number);
      if (!open.ok()) co_return open.error();
      if (!*open) {
        busy_[number.v] = true;
        continue;
      }
      victim.open = std::move(*open);
    }
    victim.inode = std::move(*locked);
    victims.push_back(std::move(victim));
  }
  co_return std::move(victims);
}

Task<Status> Orphans::MarkDead(std::vector<Victim>* victims) {
  Journal& journal = *core_->parts.journal;
  uint32_t most = std::max<uint32_t>(1, std::min<uint32_t>(64, journal.max_transaction_blocks() / 2));
  for (size_t done = 0; done < victims->size();) {
    size_t end = std::min<size_t>(victims->size(), done + most);
    auto tx = co_await journal.Begin(static_cast<uint32_t>(end - done));
    if (!tx.ok()) co_return tx.error();
    for (; done < end; ++done) {
      Victim& v = (*victims)[done];
      if (v.linked) continue;
      size_t before = v.inode->data.bytes();
      v.inode->data.Clear();
      core_->DirtyChanged(&*v.inode, before);
      v.inode->core.state = v.inode->core.state | kInodeDead;
      v.inode->Log(*tx, false);
    }
    tx->Finish();
  }
  Status result;
  Scope writing;
  for (Victim& v : *victims)
    if (!v.linked) writing.Spawn(PutInPlace(&journal, v.inode->resource(), &result));
  co_await writing.Join();
  co_return result;
}

// Frees data and tree blocks; the roots are empty afterwards.
Task<Status> Orphans::FreeTree(Victim* victim) {
  Inode* inode = &*victim->inode;
  if (inode->regular() && !inode->inline_data()) {
    auto freed = co_await core_->FreeBlocks(inode, 0, UINT64_MAX, true);
    if (!freed.ok()) co_return freed;
  }
  co_return Status();
}

Task<Status> Orphans::TakeOff(Victim* victim, bool free_block) {
  VfsCore& core = *core_;
  Inode* inode = &*victim->inode;
  // The one in front of it on the list changes too; try again when that is another one by now.
  LockedInode front;
  InodeNo before = Before(inode->number);
  if (before.v != 0) {
    LockOptions noqueue;
    noqueue.noqueue = true;
    auto locked = co_await core.LockOrphan(before, noqueue);
    if (!locked.ok()) co_return locked.error();
    front = std::move(*locked);
  }
  std::vector<BlockRef> blocks;
  std::vector<Extent> places;
  if (free_block) {
    std::vector<BlockNo> nodes;
    auto collect = [&nodes](BlockNo block) {
      nodes.push_back(block);
      return Status();
    };
    NodeKind data_kind = inode->directory()                            ? NodeKind::kNames
                         : inode->type() == FileType::kSymlink         ? NodeKind::kPieces
                                                                       : NodeKind::kExtents;
    bool has_data_tree = inode->directory() || (!inode->inline_data() && (inode->regular() || data_kind == NodeKind::kPieces));
    if (has_data_tree) {
      InodeTree t(*core.parts.cache, *inode, data_kind);
      HF_CO_LOAD(visited, (nodes.clear(), t.tree.VisitBlocks(collect)), &core, inode);
    }
    std::vector<BlockNo> data_nodes = nodes;
    InodeTree x(*core.parts.cache, *inode, NodeKind::kXattrs);
    HF_CO_LOAD(visited_x, (nodes.clear(), x.tree.VisitBlocks(collect)), &core, inode);
    nodes.insert(nodes.end(), data_nodes.begin(), data_nodes.end());
    places.push_back({BlockNo(inode->number.v), 1});
    for (BlockNo node : nodes) {
      blocks.push_back(inode->nodes.at(node.v));
      core.AddGroup(&places, node);
    }
    if (places.size() != nodes.size() + 1) co_return Error(Errc::kInvalid, "its nodes lie in too many groups");
    blocks.push_back(inode->block);
  }
  auto groups = co_await core.parts.allocator->LockGroupsFor(places);
  if (!groups.ok()) co_return groups.error();
  auto tx = co_await core.parts.journal->Begin(4 + groups->credits());
  if (!tx.ok()) co_return tx.error();
  if (Before(inode->number) != before) co_return Errc::kWouldBlock;
  uint64_t next = inode->core.orphan_next;
  if (before.v == 0) {
    As<DiskJournalOwner>(tx->Change(core.parts.journal->owner_block())).orphan_head = next;
  } else {
    front->core.orphan_next = next;
    front->Log(*tx, false);
  }
  inode->core.orphan_next = 0;
  if (!free_block) {
    inode->core.state = inode->core.state & ~kInodeOrphan;
    inode->Log(*tx, false);
  }
  Status status;
  for (BlockRef& block : blocks)
    if (status.ok()) status = core.parts.allocator->FreeMeta(*tx, *groups, std::move(block));
  if (!status.ok()) co_return status;
  tx->Finish();
  Forget(inode->number);
  if (free_block) {
    inode->DropNodes();
    core.table.Drop(inode->number);
  }
  co_return Status();
}

Task<Status> Orphans::FreeOne(Victim* victim) {
  if (!victim->linked) {
    auto freed = co_await FreeTree(victim);
    if (!freed.ok()) co_return freed;
  }
  auto off = co_await TakeOff(victim, !victim->linked);
  co_return off;
}

// One batch. Returns how many were freed.
Task<Result<size_t>> Orphans::Pass() {
  auto victims = co_await Gather();
  if (!victims.ok()) co_return victims.error();
  if (victims->empty()) co_return size_t{0};
  auto marked = co_await MarkDead(&*victims);
  if (!marked.ok()) co_return marked.error();
  size_t freed = 0;
  Status failure;
  // The list's head first: then nobody is in front of it.
  for (Victim& victim : *victims) {
    auto one = co_await FreeOne(&victim);
    InodeNo number = victim.inode->number;
    if (one.ok()) {
      ++freed;
    } else if (one.code() == Errc::kWouldBlock || one.code() == Errc::kNoSpace || one.code() == Errc::kInvalid) {
      // kInvalid: its leftover nodes lie in more groups than one transaction takes; it stays listed.
      busy_[number.v] = true;
    } else {
      failure = one;
    }
    victim.inode.Release();
    victim.open.Release();
    if (!failure.ok()) co_return failure.error();
  }
  co_return freed;
}

Task<void> Orphans::ReapNow() {
  auto alone = co_await pass_.Lock();
  while (!core_->abandoned) {
    auto freed = co_await Pass();
    if (!freed.ok()) {
      core_->Fatal(freed.error());
      co_return;
    }
    if (*freed == 0) co_return;
  }
}

Task<void> Orphans::ReaperLoop() {
  while (!core_->stopping) {
    bool go_on = co_await Pause(core_, pending_ ? core_->parts.knobs.reap_delay : core_->parts.knobs.reap_retry / 5);
    if (!go_on) co_return;
    Instant now = core_->parts.clock->Now();
    if (!pending_ && now - last_retry_ >= core_->parts.knobs.reap_retry) {
      busy_.clear();
      pending_ = !list_.empty();
      last_retry_ = now;
    }
    if (!pending_) continue;
    pending_ = false;
    co_await ReapNow();
  }
}

}  // namespace holdfast::fs
