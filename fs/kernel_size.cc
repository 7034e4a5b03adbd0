// KernelCache: the size of a file that others change. A cached read ends at the kernel's i_size. The kernel asks for the
// attributes first when a read goes beyond it, but drops the answer when an invalidation, or the end of a write of its own,
// came while the question was under way (fuse_change_attributes: attr_version), and then goes by the size that it had: the
// read ends early although another node's write was acknowledged long before. No reply and no notification sets a size
// whatever happens. So, where cached reads depend on it, a GETATTR is answered only after the kernel is known to have the
// size: one of our own threads asks for it (Kernel::AskSize) and looks whether the answer was taken, again until it was.
#include <algorithm>

#include "base/mutants.h"
#include "fs/kernel_cache.h"

namespace holdfast::fs {
namespace {

constexpr int kTriesMax = 200;                       // then the read may end early: better than one that never ends
constexpr Duration kAnswersHeld = Milliseconds(5);   // a lock that is being let go may wait for this WRITE
constexpr Duration kLook = Microseconds(100);

}  // namespace

void KernelCache::ClosedCached(KernelInode inode) {
  Node* node = Find(inode);
  if (node && node->cached_handles > 0) --node->cached_handles;
  Tidy(inode);
}

void KernelCache::GaveSize(KernelInode inode, uint64_t size) {
  Node& node = Get(inode);
  ++node.size_events;
  if (node.lookups == 0) {
    node.size = size;  // a new inode begins with it
  } else if (node.size != size) {
    node.size.reset();
  }
}

void KernelCache::TruncatedTo(KernelInode inode, uint64_t size) {
  Node* node = Find(inode);
  if (!node) return;
  ++node->size_events;
  node->size = size;
}

void KernelCache::WroteTo(KernelInode inode, uint64_t end) {
  Node* node = Find(inode);
  if (!node) return;
  ++node->size_events;
  if (node->size) node->size = std::max(*node->size, end);
}

Task<Status> KernelCache::TellSize(KernelInode inode, uint32_t generation, uint64_t size) {
  for (;;) {
    Node* node = Find(inode);
    if (!node || node->cached_handles == 0 || node->size == size || HF_MUTANT(kSizeNotTold)) co_return Status();
    if (!node->telling) break;
    co_await node->told.Wait();
  }
  Get(inode).telling = true;
  bool sure = false;
  for (int i = 0; i < kTriesMax && !sure; ++i) {
    uint64_t events = Get(inode).size_events;
    auto seen = co_await kernel_.AskSize(inode, generation);
    if (!seen.ok()) break;
    sure = seen->believed == seen->asked;
    Node& node = Get(inode);
    // The GETATTR of this question is one event.
    if (sure && node.size_events <= events + 1) node.size = seen->believed;
    if (!sure) ++counters_.sizes_overtaken;
  }
  ++(sure ? counters_.sizes_told : counters_.sizes_unsure);
  Node& node = Get(inode);
  node.telling = false;
  node.told.WakeAll();
  Tidy(inode);
  co_return Status();
}

Task<void> KernelCache::LetSizeArrive(KernelInode inode) {
  Instant limit = clock_.Now() + kAnswersHeld;
  for (Node* node = Find(inode); node && node->telling && clock_.Now() < limit; node = Find(inode)) co_await SleepFor(kLook);
}

}  // namespace holdfast::fs
