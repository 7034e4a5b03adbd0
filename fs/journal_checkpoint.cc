// Journal: images go in place, the tail follows.
#include <algorithm>
#include <cstring>

#include "fs/journal_internal.h"

#include "base/mutants.h"
#include "base/probe.h"

namespace holdfast::fs {

// One set of writes in place; the last to finish wakes the caller.
struct Journal::Burst {
  uint32_t in_flight = 0;
  Error error = Errc::kOk;
  WaitList changed;
};

// The record is durable: its images are now the newest of their blocks, its freed blocks need nothing any more.
void Journal::MakePending(std::shared_ptr<Record> record) {
  if (!HF_MUTANT(kFreedStaysPending)) {
    for (BlockNo block : record->forgets) Drop(block.v);
  }
  for (uint32_t i = 0; i < record->numbers.size(); ++i) {
    uint64_t number = record->numbers[i];
    auto& slot = pending_[number];
    if (!slot) {
      slot = std::make_unique<Pending>();
    } else {
      if (!slot->dropped) --slot->record->left;
      pending_of_[slot->resource].erase(number);
      if (pending_of_[slot->resource].empty()) pending_of_.erase(slot->resource);
    }
    slot->record = record;
    slot->index = i;
    slot->dropped = false;
    slot->pin = std::move(record->images[i]);
    slot->resource = slot->pin.resource();
    pending_of_[slot->resource].insert(number);
    ++record->left;
  }
  record->images.clear();
}

void Journal::Drop(uint64_t block) {
  auto it = pending_.find(block);
  if (it == pending_.end() || it->second->dropped) return;
  Pending& pending = *it->second;
  --pending.record->left;
  if (!pending.writing) {
    pending.dropped = true;
    Erase(block);
    return;
  }
  HF_PROBE("journal: block freed while it is written in place");
  // The write under way ends before the block's group can be let go.
  pending.dropped = true;
  pending_of_[pending.resource].erase(block);
  if (pending_of_[pending.resource].empty()) pending_of_.erase(pending.resource);
  BlockNo number(block);
  pending.resource = geometry_.InGroups(number) ? GroupResource(geometry_.GroupOf(number)) : pending.resource;
  pending_of_[pending.resource].insert(block);
  pending.pin.Reset();
}

void Journal::Erase(uint64_t block) {
  auto it = pending_.find(block);
  auto of = pending_of_.find(it->second->resource);
  if (of != pending_of_.end()) {
    of->second.erase(block);
    if (of->second.empty()) pending_of_.erase(of);
  }
  pending_.erase(it);
}

// A write of that record's image of the block has completed.
void Journal::InPlace(uint64_t block, const Record* written) {
  auto it = pending_.find(block);
  Pending& pending = *it->second;
  pending.writing = false;
  unflushed_[pending.resource] = flush_started_ + 1;
  if (pending.dropped) {
    Erase(block);
  } else if (pending.record.get() == written) {
    --pending.record->left;
    Erase(block);
  }
  else HF_PROBE("journal: newer image while written in place");
  // Otherwise a newer image came meanwhile and is still to be written.
  ++counters_.in_place_blocks;
}

// Writes the newest durable images of these blocks in place (not flushed) and waits for writes of them under way.
Task<Status> Journal::WriteBlocks(std::vector<uint64_t> blocks) {
  std::sort(blocks.begin(), blocks.end());
  auto burst = std::make_shared<Burst>();
  size_t i = 0;
  while (i < blocks.size() && !failed_ && burst->error.code == Errc::kOk) {
    auto it = pending_.find(blocks[i]);
    if (it == pending_.end()) {
      ++i;
      continue;
    }
    if (it->second->writing) {
      co_await pending_changed_.Wait();
      continue;
    }
    std::vector<uint64_t> run;
    for (; i < blocks.size() && run.size() < knobs_.write_blocks_max; ++i) {
      if (!run.empty() && blocks[i] != run.back() + 1) break;
      auto next = pending_.find(blocks[i]);
      if (next == pending_.end() || next->second->writing) break;
      next->second->writing = true;
      run.push_back(blocks[i]);
    }
    while (burst->in_flight >= knobs_.writes_in_flight_max) co_await burst->changed.Wait();
    ++burst->in_flight;
    scope_.Spawn(WriteRun(std::move(run), burst));
  }
  while (burst->in_flight > 0) co_await burst->changed.Wait();
  if (burst->error.code != Errc::kOk) {
    SetFailed(burst->error);
    co_return burst->error;
  }
  if (failed_) co_return failure_;
  co_return Status();
}

Task<void> Journal::WriteRun(std::vector<uint64_t> run, std::shared_ptr<Burst> burst) {
  AlignedBuffer bytes(run.size() * kBlockSize);
  std::vector<std::shared_ptr<Record>> written;
  for (size_t i = 0; i < run.size(); ++i) {
    // Of the newest image now: it may have been superseded since the run was chosen, or freed.
    Pending& pending = *pending_.at(run[i]);
    written.push_back(pending.record);
    std::memcpy(bytes.data() + i * kBlockSize, pending.record->Image(pending.index).data(), kBlockSize);
  }
  auto done = co_await device_.Write(run.front() * kBlockSize, std::as_const(bytes).span(), WriteFlags::kNone);
  if (done.ok()) {
    for (size_t i = 0; i < run.size(); ++i) InPlace(run[i], written[i].get());
  } else {
    burst->error = done.error();
  }
  --burst->in_flight;
  burst->changed.WakeAll();
  pending_changed_.WakeAll();
}

Task<Status> Journal::WriteInPlace(Resource resource) {
  if (failed_) co_return failure_;
  if (auto it = touched_.find(resource); it != touched_.end()) {
    uint64_t sequence = it->second;
    touched_.erase(it);
    HF_CO_TRY(co_await WaitCommitted(sequence));
  }
  for (auto of = pending_of_.find(resource); of != pending_of_.end(); of = pending_of_.find(resource)) {
    std::vector<uint64_t> blocks(of->second.begin(), of->second.end());
    HF_CO_TRY(co_await WriteBlocks(std::move(blocks)));
  }
  if (auto it = unflushed_.find(resource); it != unflushed_.end()) {
    uint64_t flush = it->second;
    unflushed_.erase(it);
    if (flush > flush_done_ && !HF_MUTANT(kHandOverUnflushed)) HF_CO_TRY(co_await FlushShared());
  }
  // File data in place, too.
  if (tracked_ && Unflushed(data_device_.writes())) HF_CO_TRY(co_await FlushShared());
  co_return Status();
}

// Blocks whose newest image is in a record up to `sequence`.
std::vector<uint64_t> Journal::PendingUpTo(uint64_t sequence) const {
  std::vector<uint64_t> blocks;
  for (const auto& record : records_) {
    if (record->sequence > sequence) break;
    for (uint64_t number : record->numbers) {
      auto it = pending_.find(number);
      if (it != pending_.end() && it->second->record == record && !it->second->dropped) blocks.push_back(number);
    }
  }
  return blocks;
}

Task<Status> Journal::CheckpointTo(uint64_t sequence) {
  if (mutant_ == JournalMutant::kTailEarly || HF_MUTANT(kTailEarly)) {
    for (auto& record : records_) {
      if (record->sequence <= sequence) record->left = 0;
    }
    HF_CO_TRY(co_await AdvanceTail());
  }
  while (!records_.empty() && records_.front()->sequence <= sequence) {
    std::vector<uint64_t> blocks = PendingUpTo(sequence);
    HF_CO_TRY(co_await WriteBlocks(std::move(blocks)));
    HF_CO_TRY(co_await AdvanceTail());
  }
  co_return Status();
}

// Moves the tail past the records whose images are all in place (or superseded by a later durable record).
Task<Status> Journal::AdvanceTail() {
  auto guard = co_await tail_mutex_.Lock();
  size_t done = 0;
  while (done < records_.size() && records_[done]->left == 0) ++done;
  if (done == 0) co_return Status();
  if (mutant_ != JournalMutant::kTailEarly && !HF_MUTANT(kTailEarly)) HF_CO_TRY(co_await FlushShared());
  const Record& last = *records_[done - 1];
  header_.tail_position = (last.position + last.blocks) % log_blocks_;
  header_.tail_sequence = last.sequence + 1;
  HF_CO_TRY(co_await WriteHeader());
  uint32_t freed = 0;
  for (size_t i = 0; i < done; ++i) {
    freed += records_.front()->blocks;
    records_.pop_front();
  }
  used_ -= freed;
  space_changed_.WakeAll();
  co_return Status();
}

Task<Status> Journal::WriteHeader() {
  auto done = co_await WriteJournalHeader(device_, geometry_, &header_);
  if (!done.ok()) SetFailed(done.error());
  co_return done;
}

Task<Status> Journal::Checkpoint() {
  HF_CO_TRY(co_await Commit());
  ++counters_.checkpoints;
  uint64_t sequence = committed_sequence_;
  auto done = co_await CheckpointTo(sequence);
  co_return done;
}

void Journal::KickCheckpoint() {
  if (checkpoint_running_ || failed_ || records_.empty()) return;
  checkpoint_running_ = true;
  scope_.Spawn(BackgroundCheckpoint());
}

// Until the log is half as full as what started it and nobody waits for space.
Task<void> Journal::BackgroundCheckpoint() {
  uint64_t goal = uint64_t{log_blocks_} * knobs_.checkpoint_percent / 200;
  ++counters_.checkpoints;
  while (!failed_ && !records_.empty() && (used_ > goal || space_waiters_ > 0)) {
    size_t middle = (records_.size() - 1) / 2;
    auto done = co_await CheckpointTo(records_[middle]->sequence);
    if (!done.ok()) break;
  }
  checkpoint_running_ = false;
}

}  // namespace holdfast::fs
