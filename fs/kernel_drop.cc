// KernelCache: taking back what the kernel caches below one inode lock (rules 1 to 3 and 5 of filesystem.md).
#include <algorithm>

#include "base/log.h"
#include "base/mutants.h"
#include "fs/kernel_cache.h"

namespace holdfast::fs {
namespace {

constexpr uint64_t kPage = 4096;
constexpr int kOpenRounds = 2;   // then new page READs are held back
constexpr int kLateRounds = 30;  // 4.6 s and more: no notification is that late
constexpr int kLongPatience = 100;  // times the patience with a notification

// The parts of the file that no page request covers. A request's pages are locked and not up to date: nothing to drop,
// and the kernel would wait for them. Ends are rounded outwards to pages.
std::vector<std::pair<int64_t, int64_t>> Complement(std::vector<std::pair<uint64_t, uint64_t>> taken) {
  std::sort(taken.begin(), taken.end());
  std::vector<std::pair<int64_t, int64_t>> out;  // offset, length; 0 = to the end
  uint64_t at = 0;
  for (auto [offset, length] : taken) {
    uint64_t begin = offset / kPage * kPage;
    uint64_t end = (offset + std::max<uint64_t>(length, 1) + kPage - 1) / kPage * kPage;
    if (begin > at) out.emplace_back(at, begin - at);
    at = std::max(at, end);
  }
  out.emplace_back(at, 0);
  return out;
}

}  // namespace

bool KernelCache::NeedsDrop(Resource resource, LockMode from, LockMode to) {
  if (resource.type != LockType::kInode || from == LockMode::kNone) return false;
  auto it = by_block_.find(resource.number);
  if (it == by_block_.end()) return false;
  Node* node = Find(it->second);
  if (!node) return false;
  // Pages of a file that is open for writing here may exist under EX alone: a store into them sends no request.
  if (to == LockMode::kPr) return node->pages && node->writable > 0;
  return node->attr || node->pages || node->names_overflow || !node->names.empty();
}

Task<Status> KernelCache::DropKernel(Resource resource, LockMode from, LockMode to) {
  KernelInode inode = by_block_[resource.number];
  ++Get(inode).drops;
  Status result;
  if (to == LockMode::kNone && (!Get(inode).names.empty() || Get(inode).names_overflow)) {
    result = co_await DropNames(inode, resource);
  }
  if (!Get(inode).pages && Get(inode).attr) {
    Status attr = co_await DropAttr(inode);
    if (result.ok()) result = attr;
  }
  // Asked only now: page READs are still served meanwhile.
  if (Get(inode).pages) {
    Status pages = co_await DropPages(inode, resource, from);
    if (result.ok()) result = pages;
  } else {
    locks_.ClosePageWindow(resource);
  }
  --Get(inode).drops;
  Tidy(inode);
  co_return result;
}

// Rule 3: kNotFound while the kernel counts lookups means that a reply is on its way: again, until it has landed or
// its FORGET has come.
Task<Status> KernelCache::DropAttr(KernelInode inode) {
  while (Get(inode).lookups > 0) {
    auto notice = NotifyInode(inode, -1, 0);
    bool done = false;
    while (!done) done = co_await Await(notice, knobs_.notify_patience);
    if (notice->status.ok() || HF_MUTANT(kUnknownIsDone)) break;
    if (notice->status.code() != Errc::kNotFound) co_return notice->status;
    ++counters_.retries;
    co_await SleepFor(Milliseconds(1));
  }
  Get(inode).attr = false;
  co_return Status();
}

// What an invalidation cannot wait for: pages of requests that are held back. READs lock theirs until they are answered. Of a
// partial WRITE the kernel keeps the last page locked if it was not up to date; whether it was nobody tells us, so that page
// gets a notification of its own, which may return late. A dirty page of a mapping is no such case: its WRITE is served
// under the EX that is still held, and its bytes must be in our hands before EX goes.
std::vector<std::pair<uint64_t, uint64_t>> KernelCache::LeftOut(Node& node, KernelInode inode, LockMode from,
                                                                std::vector<std::shared_ptr<Notice>>* own) {
  std::vector<std::pair<uint64_t, uint64_t>> taken;
  for (auto& [id, pages] : node.page_requests) {
    if (pages.dirty && from == LockMode::kEx && !HF_MUTANT(kPageWritesLeftOut)) continue;
    if (!pages.write) {
      taken.emplace_back(pages.offset, pages.length);
      continue;
    }
    uint64_t last = (pages.offset + pages.length - (pages.length > 0 ? 1 : 0)) / kPage * kPage;
    taken.emplace_back(last, 1);
    if (!pages.notice || pages.notice->done) pages.notice = NotifyInode(inode, static_cast<int64_t>(last), kPage);
    own->push_back(pages.notice);
  }
  counters_.left_out += taken.size();
  return taken;
}

// Rule 2. Rounds end when no page request came or went during one.
Task<Status> KernelCache::DropPages(KernelInode inode, Resource resource, LockMode from) {
  for (int round = 0;; ++round) {
    Node& node = Get(inode);
    if (node.lookups == 0) break;
    if (round >= kOpenRounds) node.gate_closed = true;
    uint64_t events = node.page_events;
    std::vector<std::pair<uint64_t, uint64_t>> taken;
    std::vector<std::shared_ptr<Notice>> notices, own;
    if (round > 0) taken = LeftOut(node, inode, from, &own);
    for (auto [offset, length] : Complement(taken)) notices.push_back(NotifyInode(inode, offset, length));
    bool all_done = true;
    bool under_way = false;
    if (HF_MUTANT(kPagesNotAwaited)) break;
    Instant patience_ends = clock_.Now() + knobs_.notify_patience * (round + 1);
    for (auto& notice : notices) {
      bool done = co_await Await(notice, std::max(patience_ends - clock_.Now(), Duration{1}));
      all_done = all_done && done;
      if (!done || notice->status.ok()) continue;
      if (notice->status.code() != Errc::kNotFound) co_return notice->status;
      under_way = !HF_MUTANT(kUnknownIsDone);
    }
    for (auto& notice : own) co_await Await(notice, std::max(patience_ends - clock_.Now(), Duration{1}));
    Node& after = Get(inode);
    if (all_done && !under_way && after.page_events == events) break;
    // Large folios: a neighbour of a page that a held READ locks blocks too. Serve those READs under the old lock. If that is
    // PR, a store into such a page, before it is dropped, comes as a WRITE of the whole page when the lock has gone, over
    // what others have written by then: only when it is certain that it is not just threads that are late.
    bool safe = from == LockMode::kEx || PageReadMode(inode) == LockMode::kPr || HF_MUTANT(kAdmitsUnderPr);
    if (!all_done && round > (safe ? kOpenRounds : kLateRounds)) locks_.AdmitPageReads(resource);
    if (under_way) {
      ++counters_.retries;
      co_await SleepFor(Milliseconds(1));
    }
  }
  // In the same turn as the decision: a READ that is still being served must not bring a page back (PageReplyValid).
  locks_.ClosePageWindow(resource);
  Node& node = Get(inode);
  node.pages = !node.page_requests.empty();
  node.attr = false;
  node.gate_closed = false;
  node.gate.WakeAll();
  co_return Status();
}

// Rule 1. Dropping a name waits for the directory's i_rwsem, which a request that we hold back may have.
Task<Status> KernelCache::DropNames(KernelInode inode, Resource resource) {
  Node& node = Get(inode);
  std::vector<KernelEntryDrop> drops;
  for (auto& [name, is_dir] : node.names) drops.push_back({name, is_dir});
  std::sort(drops.begin(), drops.end(), [](auto& a, auto& b) { return a.name < b.name; });
  bool too_many = std::exchange(node.names_overflow, false);
  node.names.clear();
  Duration flight = HF_MUTANT(kForgetReplies) ? Duration{} : knobs_.reply_flight;
  bool in_flight = node.revalidated_ever && clock_.Now() < node.revalidated + flight;
  bool plus_in_flight = node.plus_ever && clock_.Now() < node.plus + flight;
  if (kernel_.has_epoch() && (node.dir_requests > 0 || too_many || in_flight)) {
    ++counters_.epochs;
    Status done = kernel_.Epoch();
    // A READDIRPLUS reply that is used after the epoch stamps its names with the new one; it holds i_rwsem, so that
    // this call comes after it. (No directory reader runs while a request that changes it has i_rwsem.)
    if (plus_in_flight) {
      auto late = Start(kernel_.DropEntries(inode, std::move(drops)));
      co_await AwaitListing(inode, late);
    }
    co_return done;
  }
  counters_.entry_drops += drops.size();
  auto notice = Start(kernel_.DropEntries(inode, std::move(drops)));
  node.names_notice = notice;
  Instant begun = clock_.Now();
  while (!notice->done) {
    bool done = co_await Await(notice, knobs_.notify_patience);
    if (done) break;
    if (HF_MUTANT(kAwaitNamesForEver)) continue;
    if (kernel_.has_epoch()) {
      // The call goes on by itself when the request that blocks it is answered; what it drops then is harmless.
      ++counters_.epochs;
      Status done_by_epoch = kernel_.Epoch();
      if (plus_in_flight) co_await AwaitListing(inode, notice);
      co_return done_by_epoch;
    }
    // The VFS repeats a request that fails with ESTALE once, from the path; meanwhile i_rwsem is free. Until the
    // directory has been quiet its entries go out with timeout 0, so that there is no second time.
    Contend(Get(inode));
    Get(inode).stale_drop = true;
    AnswerStale(inode, resource, begun);
  }
  Get(inode).stale_drop = false;
  co_return notice->status;
}

// Until the names that a READDIRPLUS reply on its way brings are dropped again: nothing of ours keeps that reply, unless
// another request that we hold back shares i_rwsem with it; then what it brings is visible for an instant.
Task<void> KernelCache::AwaitListing(KernelInode inode, std::shared_ptr<Notice> notice) {
  Get(inode).names_notice = notice;
  while (!notice->done && !HF_MUTANT(kForgetReplies)) {
    Node& node = Get(inode);
    if (node.dir_requests > 0 || clock_.Now() >= node.plus + knobs_.reply_flight) break;
    co_await Await(notice, knobs_.notify_patience);
  }
}

// From the first contention on names of the directory go out with timeout 0 for a while, twice as long each time.
void KernelCache::Contend(Node& dir) {
  if (Contended(dir)) return;
  dir.contended = clock_.Now();
  dir.quiet = std::min(std::max(dir.quiet * 2, knobs_.contended_quiet), knobs_.contended_quiet_max);
}

// Requests that may hold the directory's i_rwsem, whatever they wait for: a rename may have it and wait for the rename
// lock, which another mount's rename has that waits for this directory. Those that name it; when the notification has been
// blocked for long (not merely late on a busy machine) also those that may hold it without naming it, if they came before it or
// hardly later: whoever is answered without need has spent the one repetition that it has. READDIR and FSYNC are never
// answered so, their callers have no path: they pass while the names are dropped (LockDirectory, Fsync).
void KernelCache::AnswerStale(KernelInode inode, Resource resource, Instant begun) {
  if (HF_MUTANT(kStaleByLockOnly)) {
    counters_.estale += locks_.AbortWaiters(resource, Errc::kStale);
    return;
  }
  std::vector<Interrupt*> all;
  bool long_blocked = clock_.Now() >= begun + knobs_.notify_patience * kLongPatience;
  Instant before = begun + knobs_.notify_patience * 10;
  for (auto& [named, held] : held_) {
    for (const Held& h : held) {
      bool may_hold = named == inode || (long_blocked && h.another && h.since <= before);
      if (may_hold && !h.interrupt->raised()) all.push_back(h.interrupt);
    }
  }
  // Its repetition must not meet the same with the other directory of a rename.
  std::vector<KernelInode> others;
  for (auto& [named, held] : held_) {
    bool ours = std::any_of(held.begin(), held.end(),
                            [&](const Held& h) { return std::find(all.begin(), all.end(), h.interrupt) != all.end(); });
    if (ours && named != inode) others.push_back(named);
  }
  for (KernelInode other : others) scope_.Spawn(DropEarly(other));
  for (Interrupt* interrupt : all) {
    if (interrupt->raised()) continue;  // a rename stands there twice
    ++counters_.estale;
    interrupt->RaiseStale();
  }
  auto of = held_.find(inode);
  if ((of == held_.end() ? 0 : of->second.size()) < Get(inode).dir_requests) {
    counters_.estale += locks_.AbortWaiters(resource, Errc::kStale);
  }
}

// The names of a directory that will be contended are dropped before somebody asks for its lock. They stay in the books
// until they are: a letting go meanwhile drops them too.
Task<void> KernelCache::DropEarly(KernelInode inode) {
  Contend(Get(inode));
  std::vector<KernelEntryDrop> drops;
  for (auto& [name, is_dir] : Get(inode).names) drops.push_back({name, is_dir});
  if (drops.empty()) co_return;
  std::sort(drops.begin(), drops.end(), [](auto& a, auto& b) { return a.name < b.name; });
  counters_.entry_drops += drops.size();
  ++Get(inode).drops;
  auto notice = Start(kernel_.DropEntries(inode, drops));
  while (!notice->done) co_await Await(notice, knobs_.notify_patience);
  Node& node = Get(inode);
  if (notice->status.ok() && Contended(node)) {
    for (const KernelEntryDrop& drop : drops) node.names.erase(drop.name);
  }
  --node.drops;
  Tidy(inode);
}

}  // namespace holdfast::fs
