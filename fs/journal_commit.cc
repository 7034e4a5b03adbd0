// Journal: closing the running record and making it durable.
#include <algorithm>
#include <cstring>

#include "base/crc32c.h"
#include "base/log.h"
#include "base/mutants.h"
#include "base/probe.h"
#include "fs/journal_internal.h"

namespace holdfast::fs {

Task<Status> Journal::WaitCommitted(uint64_t sequence) {
  uint64_t empty = empty_commits_;
  while (committed_sequence_ < sequence) {
    if (failed_) co_return failure_;
    // All that was joined to that record when we asked has been undone: nothing of it is left to wait for.
    if (running_sequence_ <= sequence && empty_commits_ != empty) co_return Status();
    if (running_sequence_ <= sequence) KickCommit();
    co_await committed_changed_.Wait();
  }
  co_return Status();
}

void Journal::KickCommit() {
  commit_wanted_ = true;
  if (commit_running_ || failed_) return;
  commit_running_ = true;
  scope_.Spawn(CommitLoop());
}

Task<void> Journal::CommitLoop() {
  while (commit_wanted_ && !failed_) {
    commit_wanted_ = false;
    auto done = co_await CommitOne();
    if (!done.ok()) SetFailed(done.error());
  }
  commit_running_ = false;
}

Task<Status> Journal::CommitOne() {
  closing_ = true;
  while (joined_ > 0 && !failed_) co_await joined_changed_.Wait();
  if (failed_) co_return failure_;
  if (running_->empty()) {
    HF_PROBE("journal: empty transaction");
    // All that was joined has been undone: nobody's change is in it. Its number goes to the next record: replay ends at
    // the first number that is missing, and with it would go everything that is committed later.
    closing_ = false;
    ++empty_commits_;
    space_changed_.WakeAll();
    committed_changed_.WakeAll();
    co_return Status();
  }
  if (hook_) {
    ++joined_;
    credits_open_ += hook_blocks_;
    Transaction tx(this, next_id_++, running_sequence_, hook_blocks_);
    hook_(tx);
    tx.Finish();
  }
  std::shared_ptr<Record> record = BuildRecord();
  ++running_sequence_;
  closing_ = false;
  space_changed_.WakeAll();
  HF_CO_TRY(co_await WriteRecord(record));
  if (failed_) co_return failure_;
  committed_sequence_ = record->sequence;
  MakePending(record);
  records_.push_back(record);
  ++counters_.commits;
  counters_.images += record->numbers.size();
  counters_.log_blocks += record->blocks;
  committed_changed_.WakeAll();
  if (used_ > uint64_t{log_blocks_} * knobs_.checkpoint_percent / 100 || space_waiters_ > 0) KickCheckpoint();
  co_return Status();
}

// INVARIANT: nothing is joined. The images get their new version and checksum here, in the cache and in the record.
std::shared_ptr<Journal::Record> Journal::BuildRecord() {
  auto record = std::make_shared<Record>();
  std::unique_ptr<Running> running = std::exchange(running_, std::make_unique<Running>());
  auto images = static_cast<uint32_t>(running->blocks.size());
  record->ordered = running->ordered;
  auto entries = static_cast<uint32_t>(images + running->forgets.size());
  record->descriptors = std::max<uint32_t>(1, (entries + kLogEntriesPerBlock - 1) / kLogEntriesPerBlock);
  record->sequence = running_sequence_;
  record->blocks = record->descriptors + images + 1;
  HF_CHECK(record->blocks < log_blocks_ - used_, "record of %u blocks, %u of %u in use", record->blocks, used_, log_blocks_);
  record->position = head_;
  head_ = (head_ + record->blocks) % log_blocks_;
  used_ += record->blocks;
  record->bytes = AlignedBuffer(size_t{record->blocks} * kBlockSize);

  DiskLogName name{};
  name.journal = journal_.v;
  name.life = header_.life;
  name.owner_incarnation = header_.owner.incarnation.v;
  name.owner_nonce = header_.owner.nonce;
  name.sequence = record->sequence;
  auto block_at = [&](uint32_t i) { return record->bytes.span().subspan(size_t{i} * kBlockSize, kBlockSize); };
  BlockNo log_start(geometry_.JournalStart(journal_).v + kJournalLogIndex);
  auto number_of = [&](uint32_t i) { return BlockNo(log_start.v + (record->position + i) % log_blocks_); };

  for (uint32_t d = 0; d < record->descriptors; ++d) {
    InitBlock(block_at(d), {number_of(d), BlockType::kLogDescriptor, JournalResource(journal_)}, geometry_.uuid);
    auto& descriptor = As<DiskLogDescriptor>(block_at(d));
    descriptor.name = name;
    descriptor.index = d;
    descriptor.descriptors = record->descriptors;
    descriptor.entries = entries;
    descriptor.images = images;
  }
  auto entry_at = [&](uint32_t i) -> DiskLogEntry& {
    return As<DiskLogDescriptor>(block_at(i / kLogEntriesPerBlock)).entry[i % kLogEntriesPerBlock];
  };
  for (uint32_t i = 0; i < images; ++i) {
    MetaBlock* block = running->blocks[i].block_;
    block->dirty = false;
    SealBlock(block->bytes.span(), HeaderOf(block->bytes.span()).version + 1);
    std::memcpy(block_at(record->descriptors + i).data(), block->bytes.data(), kBlockSize);
    const DiskBlockHeader& header = HeaderOf(block->bytes.span());
    DiskLogEntry& entry = entry_at(i);
    entry.block = header.block;
    entry.resource_number = header.resource_number;
    entry.resource_type = header.resource_type;
    entry.version = header.version;
    entry.crc32c = header.crc32c;
    entry.flags = kLogImage;
    record->numbers.push_back(header.block);
  }
  for (uint32_t i = 0; i < running->forgets.size(); ++i) {
    auto [block, resource] = running->forgets[i];
    DiskLogEntry& entry = entry_at(images + i);
    entry.block = block.v;
    entry.resource_number = resource.number;
    entry.resource_type = static_cast<uint8_t>(resource.type);
    entry.flags = kLogForget;
    record->forgets.push_back(block);
  }
  for (uint32_t d = 0; d < record->descriptors; ++d) SealBlock(block_at(d), record->sequence);

  InitBlock(block_at(record->blocks - 1), {number_of(record->blocks - 1), BlockType::kLogCommit, JournalResource(journal_)}, geometry_.uuid);
  auto& commit = As<DiskLogCommit>(block_at(record->blocks - 1));
  commit.name = name;
  commit.descriptors = record->descriptors;
  commit.images = images;
  commit.record_crc32c = Crc32c(std::as_const(record->bytes).span().first(size_t{record->blocks - 1} * kBlockSize));
  commit.wall_seconds = static_cast<uint64_t>(Executor::Current().clock().Wall().seconds);
  SealBlock(block_at(record->blocks - 1), record->sequence);
  record->images = std::move(running->blocks);
  return record;
}

Task<Status> Journal::WriteRecord(std::shared_ptr<Record> record) {
  std::span<const std::byte> all = std::as_const(record->bytes).span();
  size_t body = all.size() - kBlockSize;
  auto commit_at = static_cast<uint32_t>((record->position + record->blocks - 1) % log_blocks_);
  if (!device_.info().volatile_cache) {
    // What completes is durable: one step, the checksum in the commit block covers a torn write.
    auto done = co_await WriteLog(record->position, all, WriteFlags::kNone);
    co_return done;
  }
  bool unflushed = !tracked_ || Unflushed(data_device_.writes());
  bool ordered = !tracked_ || (record->ordered && mutant_ != JournalMutant::kUnordered);
  if (!unflushed || !ordered) {
    // Nothing fresh becomes reachable. One flush makes the record durable, and overwritten data with it.
    auto written = co_await WriteLog(record->position, all, unflushed ? WriteFlags::kNone : WriteFlags::kFua);
    if (!written.ok() || !unflushed) co_return written;
    auto flushed = co_await FlushShared();
    co_return flushed;
  }
  HF_CO_TRY(co_await WriteLog(record->position, all.first(body), WriteFlags::kNone));
  if (mutant_ != JournalMutant::kCommitBeforeImages) HF_CO_TRY(co_await FlushShared());
  auto done = co_await WriteLog(commit_at, all.subspan(body), WriteFlags::kFua);
  co_return done;
}

// One device write, two where the log wraps.
Task<Status> Journal::WriteLog(uint32_t position, std::span<const std::byte> bytes, WriteFlags flags) {
  uint64_t start = (geometry_.JournalStart(journal_).v + kJournalLogIndex) * kBlockSize;
  uint64_t until_end = uint64_t{log_blocks_ - position} * kBlockSize;
  size_t first = std::min<uint64_t>(bytes.size(), until_end);
  HF_CO_TRY(co_await device_.Write(start + uint64_t{position} * kBlockSize, bytes.first(first), flags));
  if (first < bytes.size()) HF_PROBE("journal: record wraps");
  if (first < bytes.size()) HF_CO_TRY(co_await device_.Write(start, bytes.subspan(first), flags));
  co_return Status();
}

}  // namespace holdfast::fs
