#include "fs/kernel_cache.h"

#include <algorithm>

#include "base/log.h"
#include "base/mutants.h"

namespace holdfast::fs {

Resource KernelCache::ResourceOfNode(KernelInode inode) const {
  return ResourceOf(inode == kKernelRoot ? root_ : InodeNo(inode & kKernelBlockMask));
}

KernelCache::KernelCache(Kernel& kernel, LockTable& locks, Clock& clock, KernelCacheKnobs knobs)
    : kernel_(kernel), locks_(locks), clock_(clock), knobs_(knobs) {}

KernelCache::~KernelCache() { scope_.Abandon(); }

KernelCache::Node* KernelCache::Find(KernelInode inode) {
  auto it = nodes_.find(inode);
  return it == nodes_.end() ? nullptr : &it->second;
}

void KernelCache::Tidy(KernelInode inode) {
  auto it = nodes_.find(inode);
  if (it == nodes_.end() || it->second.used()) return;
  auto block = by_block_.find(inode & kKernelBlockMask);
  if (block != by_block_.end() && block->second == inode && inode != kKernelRoot) by_block_.erase(block);
  nodes_.erase(it);
}

// ---- requests ---------------------------------------------------------------------------------------------------

KernelCache::DirRequest::DirRequest(KernelCache* cache, KernelInode dir, Interrupt* interrupt, Holds holds)
    : cache_(cache), dir_(dir), interrupt_(holds == Holds::kPatient ? nullptr : interrupt) {
  Node& node = cache_->Get(dir);
  ++node.dir_requests;
  if (interrupt_) cache_->held_[dir].push_back({interrupt_, cache_->clock_.Now(), holds == Holds::kAnother});
  // It may be what the notification waits for; look at once, do not spend the patience.
  if (auto notice = node.names_notice.lock()) cache_->Nudge(*notice);
}

KernelCache::DirRequest::~DirRequest() {
  if (!cache_) return;
  if (Node* node = cache_->Find(dir_)) --node->dir_requests;
  if (auto of = cache_->held_.find(dir_); interrupt_ && of != cache_->held_.end()) {
    auto mine = std::find_if(of->second.begin(), of->second.end(), [&](const Held& h) { return h.interrupt == interrupt_; });
    if (mine != of->second.end()) of->second.erase(mine);
    if (of->second.empty()) cache_->held_.erase(of);
  }
  cache_->Tidy(dir_);
}

KernelCache::PageRequest::PageRequest(KernelCache* cache, KernelInode inode, uint64_t offset, uint64_t length, bool write,
                                      bool dirty)
    : cache_(cache), inode_(inode), id_(cache->next_page_request_++) {
  Node& node = cache_->Get(inode);
  node.page_requests.emplace(id_, Pages{offset, length, write, dirty, nullptr});
  ++node.page_events;
  node.pages = true;
}

KernelCache::PageRequest::~PageRequest() {
  if (!cache_) return;
  if (Node* node = cache_->Find(inode_)) {
    node->page_requests.erase(id_);
    ++node->page_events;
    node->pages = true;
  }
  cache_->Tidy(inode_);
}

Task<void> KernelCache::ReadGate(KernelInode inode) {
  Node* node = Find(inode);
  while (node && node->gate_closed) {
    ++counters_.gated_reads;
    co_await node->gate.Wait();
    node = Find(inode);
  }
}

// ---- replies ----------------------------------------------------------------------------------------------------

bool KernelCache::GaveAttr(KernelInode inode, uint64_t acquisition, uint32_t mode) {
  Node& node = Get(inode);
  node.set_id = (mode & 06000) != 0;
  if (!locks_.Valid(ResourceOfNode(inode), acquisition)) return false;
  node.attr = true;
  return true;
}

bool KernelCache::SetIdGiven(KernelInode inode) const {
  auto it = nodes_.find(inode);
  return it != nodes_.end() && it->second.set_id;
}

bool KernelCache::Contended(const Node& dir) const {
  return clock_.Now() < dir.contended + dir.quiet;
}

bool KernelCache::KeepName(Node& dir, std::string_view name, bool is_dir) {
  if (!kernel_.has_epoch() && Contended(dir)) return false;
  if (kernel_.has_epoch() && dir.names.size() >= knobs_.names_max) {
    dir.names_overflow = true;
  } else {
    dir.names[std::string(name)] = is_dir;
  }
  return true;
}

bool KernelCache::GaveEntry(KernelInode parent, uint64_t parent_acquisition, std::string_view name, KernelInode child,
                            bool is_dir) {
  if (!locks_.Valid(ResourceOfNode(parent), parent_acquisition)) return false;
  Node& dir = Get(parent);
  Node* known = Find(child);
  if (known && known->lookups > 0) {
    // Rule 3: the timeout of a name that the kernel already had lands when its requester runs, maybe after a drop.
    // inval_entry (files) and the epoch survive that, an expired directory does not.
    if (!kernel_.has_epoch() && is_dir) return false;
    dir.revalidated = clock_.Now();
    dir.revalidated_ever = true;
  }
  return KeepName(dir, name, is_dir);
}

bool KernelCache::GavePlusEntry(KernelInode parent, uint64_t parent_acquisition, std::string_view name,
                                KernelInode child, bool is_dir) {
  if (!locks_.Valid(ResourceOfNode(parent), parent_acquisition)) return false;
  Node& dir = Get(parent);
  dir.plus = clock_.Now();
  dir.plus_ever = true;
  (void)child;
  return KeepName(dir, name, is_dir);
}

bool KernelCache::GaveNegative(KernelInode parent, uint64_t parent_acquisition, std::string_view name) {
  if (!locks_.Valid(ResourceOfNode(parent), parent_acquisition)) return false;
  if (HF_MUTANT(kNegativesUntracked)) return true;
  return KeepName(Get(parent), name, false);
}

void KernelCache::Renamed(KernelInode parent, uint64_t parent_acquisition, std::string_view name, KernelInode child,
                          bool is_dir) {
  if (HF_MUTANT(kRenamesUntracked)) return;
  if (GaveEntry(parent, parent_acquisition, name, child, is_dir)) return;
  if (kernel_.has_epoch()) {
    ++counters_.epochs;
    (void)kernel_.Epoch().ok();
    return;
  }
  // Waits for the rename to be over in the kernel.
  Start(kernel_.DropEntries(parent, {{std::string(name), is_dir}}));
}

void KernelCache::GavePages(KernelInode inode) { Get(inode).pages = true; }

void KernelCache::LookedUp(KernelInode inode) {
  Node& node = Get(inode);
  if (node.lookups++ == 0) {
    if (inode != kKernelRoot) by_block_[inode & kKernelBlockMask] = inode;
    if (known_) known_(inode, true);
  }
}

bool KernelCache::Forget(KernelInode inode, uint64_t count) {
  Node* node = Find(inode);
  if (inode == kKernelRoot) return false;
  if (!node) return true;
  node->lookups -= std::min(count, node->lookups);
  if (node->lookups > 0) return false;
  // Its dentries are gone with it, its own children's too.
  node->attr = node->pages = node->names_overflow = false;
  node->size.reset();
  node->names.clear();
  if (known_) known_(inode, false);
  Tidy(inode);
  return true;
}

void KernelCache::ClosedForWriting(KernelInode inode) {
  Node* node = Find(inode);
  if (node && node->writable > 0) --node->writable;
  Tidy(inode);
}

bool KernelCache::OpenForWriting(KernelInode inode) const {
  auto it = nodes_.find(inode);
  return it != nodes_.end() && it->second.writable > 0;
}

// ---- notifications ----------------------------------------------------------------------------------------------

void KernelCache::Nudge(Notice& notice) {
  if (notice.waker && !notice.waker->done()) notice.waker->Set(true);
}

Task<void> KernelCache::RunNotice(std::shared_ptr<Notice> notice, Task<Status> call) {
  notice->status = co_await call;
  notice->done = true;
  Nudge(*notice);
}

std::shared_ptr<KernelCache::Notice> KernelCache::Start(Task<Status> call) {
  auto notice = std::make_shared<Notice>();
  scope_.Spawn(RunNotice(notice, std::move(call)));
  return notice;
}

// Waits until it is done, somebody nudges, or the patience ends. True: done.
Task<bool> KernelCache::Await(std::shared_ptr<Notice> notice, Duration patience) {
  if (notice->done) co_return true;
  auto waker = std::make_shared<Completion<bool>>();
  notice->waker = waker;
  TimerId timer = Executor::Current().PostAt(clock_.Now() + patience, [waker] {
    if (!waker->done()) waker->Set(false);
  });
  Completion<bool>& woken = *waker;
  co_await woken;
  Executor::Current().Cancel(timer);
  co_return notice->done;
}

std::shared_ptr<KernelCache::Notice> KernelCache::NotifyInode(KernelInode inode, int64_t offset, int64_t length) {
  ++counters_.inode_drops;
  return Start(kernel_.InvalidateInode(inode, offset, length));
}

Task<void> KernelCache::DropRange(KernelInode inode, int64_t offset, int64_t length) {
  auto notice = NotifyInode(inode, offset, length);
  co_await Await(notice, knobs_.notify_patience);
}

void KernelCache::DropAll() {
  if (kernel_.has_epoch() && kernel_.Epoch().ok()) ++counters_.epochs;
  std::vector<KernelInode> all;
  for (auto& [inode, node] : nodes_) all.push_back(inode);
  std::sort(all.begin(), all.end());
  for (KernelInode inode : all) {
    Node& node = nodes_[inode];
    node.attr = node.names_overflow = false;
    if (node.lookups > 0) NotifyInode(inode, node.pages ? 0 : -1, 0);
    if (!kernel_.has_epoch() && !node.names.empty()) {
      std::vector<KernelEntryDrop> drops;
      for (auto& [name, is_dir] : node.names) drops.push_back({name, is_dir});
      Start(kernel_.DropEntries(inode, std::move(drops)));
    }
    node.names.clear();
    node.pages = false;
  }
}

}  // namespace holdfast::fs
