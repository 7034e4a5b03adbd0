#include "fs/transaction.h"

#include <algorithm>
#include <cstring>

#include "fs/journal_internal.h"

namespace holdfast::fs {

Transaction::Transaction(Transaction&& o) noexcept { *this = std::move(o); }

Transaction& Transaction::operator=(Transaction&& o) noexcept {
  if (this == &o) return *this;
  Abort();
  journal_ = std::exchange(o.journal_, nullptr);
  id_ = o.id_;
  sequence_ = o.sequence_;
  credits_ = o.credits_;
  used_ = o.used_;
  undo_ = std::move(o.undo_);
  forgotten_ = std::move(o.forgotten_);
  on_finish_ = std::move(o.on_finish_);
  on_abort_ = std::move(o.on_abort_);
  return *this;
}

std::span<std::byte> Transaction::Change(const BlockRef& ref) {
  MetaBlock* block = ref.block_;
  HF_CHECK(journal_ && block, "change outside a transaction");
  if (block->undo_by != id_) {
    HF_CHECK(block->attached, "change of block %llu after its lock was let go", static_cast<unsigned long long>(block->name.block.v));
    HF_CHECK(block->undo_by == 0, "two open transactions change block %llu", static_cast<unsigned long long>(block->name.block.v));
    HF_CHECK(used_ < credits_, "transaction of %u blocks changes one more: %llu", credits_, static_cast<unsigned long long>(block->name.block.v));
    ++used_;
    auto bytes = ref.bytes();
    undo_.push_back({ref, std::vector<std::byte>(bytes.begin(), bytes.end()), block->dirty, Undo::Kind::kChange});
    block->undo_by = id_;
    journal_->TxChange(*this, block);
  }
  return block->bytes.span();
}

BlockRef Transaction::New(const BlockName& name, uint64_t version_floor) {
  HF_CHECK(journal_, "new block outside a transaction");
  HF_CHECK(used_ < credits_, "transaction of %u blocks makes one more: %llu", credits_, static_cast<unsigned long long>(name.block.v));
  ++used_;
  BlockRef ref = journal_->cache().New(name, version_floor);
  undo_.push_back({ref, {}, false, Undo::Kind::kNew});
  ref.block_->undo_by = id_;
  journal_->TxChange(*this, ref.block_);
  return ref;
}

void Transaction::Forget(const BlockRef& ref) {
  MetaBlock* block = ref.block_;
  HF_CHECK(journal_ && block && block->attached, "forgetting a block that is not there");
  HF_CHECK(block->undo_by == 0 || block->undo_by == id_, "block %llu is freed under another transaction",
           static_cast<unsigned long long>(block->name.block.v));
  undo_.push_back({ref, {}, block->dirty, Undo::Kind::kForget});
  if (block->dirty) std::erase(journal_->running_->blocks, ref);
  block->dirty = false;
  forgotten_.emplace_back(block->name.block, block->name.resource);
  journal_->cache().Detach(block);
}

void Transaction::Forget(BlockNo block, Resource resource) {
  forgotten_.emplace_back(block, resource);
}

void Transaction::OrderAfterData() { journal_->running_->ordered = true; }

void Transaction::Finish() {
  if (!journal_) return;
  journal_->TxFinish(*this);
  journal_ = nullptr;
  undo_.clear();
  auto callbacks = std::move(on_finish_);
  on_abort_.clear();
  for (auto& fn : callbacks) fn();
}

void Transaction::Abort() {
  if (!journal_) return;
  journal_->TxAbort(*this);
  journal_ = nullptr;
  undo_.clear();
  auto callbacks = std::move(on_abort_);
  on_finish_.clear();
  for (auto it = callbacks.rbegin(); it != callbacks.rend(); ++it) (*it)();
}

// --- the journal's side ---

void Journal::TxChange(Transaction&, MetaBlock* block) {
  if (block->dirty) return;
  block->dirty = true;
  running_->blocks.push_back(BlockRef(block));
}

void Journal::TxFinish(Transaction& tx) {
  for (auto& undo : tx.undo_) {
    MetaBlock* block = undo.block.block_;
    block->undo_by = 0;
    touched_[block->name.resource] = tx.sequence_;
  }
  for (auto& forgotten : tx.forgotten_) running_->forgets.push_back(forgotten);
  ++running_->finished;
  ++counters_.transactions;
  Leave(tx);
  if (!running_->empty()) ArmAgeTimer();
  if (running_->blocks.size() > record_max_ * 3 / 4) KickCommit();
}

void Journal::TxAbort(Transaction& tx) {
  for (auto it = tx.undo_.rbegin(); it != tx.undo_.rend(); ++it) {
    MetaBlock* block = it->block.block_;
    switch (it->kind) {
      case Transaction::Undo::Kind::kChange:
        std::memcpy(block->bytes.data(), it->before.data(), kBlockSize);
        block->undo_by = 0;
        if (!it->was_dirty) {
          block->dirty = false;
          std::erase(running_->blocks, it->block);
        }
        break;
      case Transaction::Undo::Kind::kNew:
        block->undo_by = 0;
        block->dirty = false;
        std::erase(running_->blocks, it->block);
        if (block->attached) cache_.Detach(block);
        break;
      case Transaction::Undo::Kind::kForget:
        cache_.Reattach(block);
        block->dirty = it->was_dirty;
        if (it->was_dirty) running_->blocks.push_back(it->block);
        break;
    }
  }
  Leave(tx);
}

void Journal::Leave(Transaction& tx) {
  --joined_;
  credits_open_ -= tx.credits_;
  if (joined_ == 0) joined_changed_.WakeAll();
  if (tx.credits_ > tx.used_) space_changed_.WakeAll();
}

}  // namespace holdfast::fs
