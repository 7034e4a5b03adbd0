// Transaction: one operation's changes of metadata, all or nothing, joined to the journal's running record.
//
//   auto tx = co_await journal.Begin(8);            // all locks held, all blocks read; may wait for log space
//   if (!tx.ok()) co_return tx.error();
//   As<DiskInode>(tx->Change(inode)).nlink = 2;     // the bytes of the cached block, header included (header: not yours)
//   tx->Finish();                                    // without it the destructor puts every block back as it was
//
// No await on locks, kernel or log while one is open. Reading a block from disk is allowed but avoid it: a commit
// waits for every open transaction. Blocks that several operations share (orphan head) must not be changed before a
// suspension inside the transaction: undo restores whole blocks (checked: two open transactions on one block abort).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "fs/meta_cache.h"

namespace holdfast::fs {

class Journal;

class [[nodiscard]] Transaction {
 public:
  Transaction() = default;
  Transaction(Transaction&& o) noexcept;
  Transaction& operator=(Transaction&& o) noexcept;
  ~Transaction() { Abort(); }

  explicit operator bool() const { return journal_ != nullptr; }
  // Writable bytes of the block (all 4096); an undo copy is kept. REQUIRES: attached(), its lock held EX, and not more
  // different blocks than Begin(max_blocks) promised. The span is good until Finish() or the next suspension.
  std::span<std::byte> Change(const BlockRef& block);
  // A zeroed new block; its version continues above `version_floor`. Usually called through Reservation::New().
  BlockRef New(const BlockName& name, uint64_t version_floor);
  // The block is no metadata any more: never logged or written in place again, older images are void in replay.
  // Usually called through Allocator::FreeMeta(). The cache forgets it at once (Abort brings it back).
  void Forget(const BlockRef& block);
  // The same for a block that is not in memory.
  void Forget(BlockNo block, Resource resource);

  // What it changes makes file data reachable that was written before (a new extent, a larger size): the data must be
  // durable before the record is. Allocator::Commit() does it for new extents.
  void OrderAfterData();

  // Keeps the changes; they are durable when the journal's commit of sequence() is.
  void Finish();
  // Undoes everything; also what the destructor does.
  void Abort();
  // Called (newest first for abort) when the outcome is known.
  void OnFinish(std::function<void()> fn) { on_finish_.push_back(std::move(fn)); }
  void OnAbort(std::function<void()> fn) { on_abort_.push_back(std::move(fn)); }
  // The log record that will carry it.
  uint64_t sequence() const { return sequence_; }

 private:
  friend class Journal;
  struct Undo {
    BlockRef block;
    std::vector<std::byte> before;  // empty: it was new or was forgotten
    bool was_dirty = false;
    enum class Kind : uint8_t { kChange, kNew, kForget } kind = Kind::kChange;
  };
  Transaction(Journal* journal, uint64_t id, uint64_t sequence, uint32_t credits)
      : journal_(journal), id_(id), sequence_(sequence), credits_(credits) {}

  Journal* journal_ = nullptr;
  uint64_t id_ = 0;
  uint64_t sequence_ = 0;
  uint32_t credits_ = 0;
  uint32_t used_ = 0;
  std::vector<Undo> undo_;
  std::vector<std::pair<BlockNo, Resource>> forgotten_;
  std::vector<std::function<void()>> on_finish_;
  std::vector<std::function<void()>> on_abort_;
};

}  // namespace holdfast::fs
