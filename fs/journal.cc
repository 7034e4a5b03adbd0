// Journal: opening, joining, failing, closing. journal_commit.cc writes records, journal_checkpoint.cc moves the tail.
#include "fs/journal.h"

#include <algorithm>

#include "base/log.h"
#include "base/mutants.h"
#include "base/probe.h"
#include "fs/journal_internal.h"

namespace holdfast::fs {

Journal::Journal(BlockDevice& device, const Geometry& geometry, MetaCache& cache, JournalKnobs knobs)
    : device_(device), geometry_(geometry), cache_(cache), knobs_(knobs), data_device_(device), running_(std::make_unique<Running>()) {}

Journal::~Journal() = default;

Task<Status> Journal::Open(MountNo journal, OwnerStamp owner) {
  HF_CHECK(!open_, "journal %u is opened twice", journal.v);
  auto header = co_await ReadJournalHeader(device_, geometry_, journal);
  if (!header.ok()) co_return header.error();
  if (header->state != JournalState::kClean)
    co_return Error(Errc::kBusy, "journal " + std::to_string(journal.v) + " is dirty: it must be replayed first");
  BlockNo owner_at(geometry_.JournalStart(journal).v + kJournalOwnerIndex);
  auto owner_block = co_await cache_.Read(owner_at, BlockType::kJournalOwner, JournalResource(journal));
  if (!owner_block.ok()) co_return owner_block.error();
  journal_ = journal;
  header_ = *header;
  header_.state = JournalState::kDirty;
  ++header_.life;
  header_.owner = owner;
  header_.stamped = Executor::Current().clock().Wall();
  HF_CO_TRY(co_await WriteJournalHeader(device_, geometry_, &header_));
  owner_block_ = *owner_block;
  log_blocks_ = geometry_.LogBlocks();
  record_max_ = std::min(knobs_.record_blocks_max, log_blocks_ / 3);
  transaction_max_ = record_max_ - hook_blocks_;
  head_ = header_.tail_position;
  used_ = 0;
  running_sequence_ = header_.tail_sequence;
  committed_sequence_ = running_sequence_ - 1;
  open_ = true;
  co_return Status();
}

Task<Status> Journal::Close() {
  HF_CO_TRY(co_await Checkpoint());
  HF_CHECK(joined_ == 0 && running_->empty() && records_.empty(), "journal %u closes with work left", journal_.v);
  if (age_timer_) Executor::Current().Cancel(std::exchange(age_timer_, 0));
  if (Unflushed(data_device_.writes())) HF_CO_TRY(co_await FlushShared());
  header_.state = JournalState::kClean;
  HF_CO_TRY(co_await WriteHeader());
  open_ = false;
  owner_block_.Reset();
  co_await scope_.Join();
  co_return Status();
}

void Journal::SetFailed(const Error& error) {
  if (failed_) return;
  failed_ = true;
  failure_ = error;
  if (age_timer_) Executor::Current().Cancel(std::exchange(age_timer_, 0));
  HF_LOG(LogLevel::kError, "journal", "failed", {{"journal", journal_}, {"error", error.ToString()}});
  for (WaitList* list : {&joined_changed_, &space_changed_, &committed_changed_, &pending_changed_, &flush_changed_}) list->WakeAll();
  if (fatal_) fatal_(error);
}

void Journal::Fail(Error error) {
  auto fatal = std::exchange(fatal_, nullptr);  // the caller knows already
  SetFailed(error);
}

Task<void> Journal::Join() {
  co_await scope_.Join();
  records_.clear();
  pending_.clear();
  pending_of_.clear();
  for (BlockRef& block : running_->blocks) block.block_->dirty = false;
  running_->blocks.clear();
  owner_block_.Reset();
}

// Descriptors, images and the commit block of a record with so many images.
static uint32_t RecordBlocks(uint64_t images, uint64_t forgets) {
  uint64_t entries = images + forgets;
  uint64_t descriptors = std::max<uint64_t>(1, (entries + kLogEntriesPerBlock - 1) / kLogEntriesPerBlock);
  return static_cast<uint32_t>(descriptors + images + 1);
}

bool Journal::HasRoom(uint32_t max_blocks) const {
  uint64_t images = running_->blocks.size() + credits_open_ + hook_blocks_ + max_blocks;
  if (images > record_max_ && !(running_->empty() && joined_ == 0)) return false;
  // A forgotten block costs an entry only; a whole descriptor of them is kept in hand.
  return RecordBlocks(images, running_->forgets.size() + kLogEntriesPerBlock) < log_blocks_ - used_;
}

Task<Result<Transaction>> Journal::Begin(uint32_t max_blocks) {
  if (max_blocks > transaction_max_)
    co_return Error(Errc::kInvalid, "a transaction of " + std::to_string(max_blocks) + " blocks does not fit the log");
  while (!failed_ && (closing_ || !HasRoom(max_blocks))) {
    if (!closing_) {
      ++counters_.space_waits;
      if (!running_->empty()) KickCommit();
      KickCheckpoint();
    }
    HF_PROBE("journal: waits for log space");
    ++space_waiters_;
    co_await space_changed_.Wait();
    --space_waiters_;
  }
  if (failed_) co_return failure_;
  HF_CHECK(open_, "a transaction begins without a journal");
  ++joined_;
  credits_open_ += max_blocks;
  co_return Transaction(this, next_id_++, running_sequence_, max_blocks);
}

void Journal::SetCommitHook(uint32_t max_blocks, std::function<void(Transaction&)> hook) {
  hook_ = std::move(hook);
  hook_blocks_ = max_blocks;
  transaction_max_ = record_max_ - std::min(record_max_, hook_blocks_);
}

Task<Status> Journal::Commit() {
  if (failed_) co_return failure_;
  uint64_t target = running_->empty() && joined_ == 0 ? running_sequence_ - 1 : running_sequence_;
  auto done = co_await WaitCommitted(target);
  co_return done;
}

Task<Status> Journal::Sync() {
  if (failed_) co_return failure_;
  if (HF_MUTANT(kSyncUnflushed)) co_return Status();
  uint64_t data = data_device_.writes();
  uint64_t before = committed_sequence_;
  bool in_progress = before + 1 < running_sequence_;
  HF_CO_TRY(co_await Commit());
  if (tracked_) {
    if (!Unflushed(data)) co_return Status();
    auto flushed = co_await FlushShared();
    co_return flushed;
  }
  // A commit that began after this call has flushed the device; one under way may have flushed too early.
  bool flushed = committed_sequence_ > before + (in_progress ? 1 : 0);
  if (flushed || !device_.info().volatile_cache) co_return Status();
  auto done = co_await FlushShared();
  co_return done;
}

void Journal::ArmAgeTimer() {
  if (age_timer_ || failed_) return;
  Executor& executor = Executor::Current();
  age_timer_ = executor.PostAt(executor.clock().Now() + knobs_.commit_age, [this] {
    age_timer_ = 0;
    if (!running_->empty()) KickCommit();
  });
}

// One device flush serves all who ask while another is under way.
Task<Status> Journal::FlushShared() {
  if (!device_.info().volatile_cache) co_return Status();
  uint64_t wanted = flush_started_ + 1;
  while (flush_done_ < wanted) {
    if (failed_) co_return failure_;
    if (flush_running_) {
      co_await flush_changed_.Wait();
      continue;
    }
    flush_running_ = true;
    uint64_t number = ++flush_started_;
    uint64_t covered = data_device_.writes();
    ++counters_.flushes;
    auto flushed = co_await device_.Flush();
    flush_running_ = false;
    if (flushed.ok()) flush_done_ = number;
    if (flushed.ok()) data_flushed_ = covered;
    flush_changed_.WakeAll();
    if (!flushed.ok()) {
      SetFailed(flushed.error());
      co_return flushed.error();
    }
  }
  co_return Status();
}

}  // namespace holdfast::fs
