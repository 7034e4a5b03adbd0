// Journal: the redo log of one mount: whole metadata blocks, each with its lock resource (filesystem.md, "Journal").
//
// A record's life: running (operations join) -> committing (closed: no operation is joined; images copied, versions
// raised, checksums set; descriptors + images written; flush; commit block with FUA; one step where the device has no
// volatile cache, or where no unflushed data becomes reachable: the commit block's checksum covers the images) -> logged (durable; images wait to be written in place) -> checkpointed (in place and flushed; the
// tail has moved past it). One record commits at a time; everybody who waits meanwhile shares the next one.
// INVARIANT: nothing is written in place before the record that carries it is durable; the tail moves only after
// what is behind it is in place and flushed; sequence numbers are never reused.
// Errors: the first failed write makes the journal fail for good (SetFatal is called once): the mount withdraws.
// Threading: one executor. docs/format.md has the bytes.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "base/block_device.h"
#include "base/clock.h"
#include "base/ids.h"
#include "base/result.h"
#include "base/sync.h"
#include "fs/data_device.h"
#include "fs/geometry.h"
#include "fs/journal_header.h"
#include "fs/meta_cache.h"
#include "fs/transaction.h"

namespace holdfast::fs {

struct JournalKnobs {
  Duration commit_age = Seconds(5);      // the oldest finished change is committed after this long
  uint32_t record_blocks_max = 2048;     // a running record this large is committed at once (less in a small log)
  uint32_t checkpoint_percent = 50;      // of the log in use: the background checkpoint starts
  uint32_t writes_in_flight_max = 16;    // of one checkpoint
  uint32_t write_blocks_max = 64;        // adjacent blocks gathered into one write in place
};

struct JournalCounters {
  uint64_t transactions = 0, commits = 0, images = 0, log_blocks = 0;
  uint64_t in_place_blocks = 0, checkpoints = 0, space_waits = 0, flushes = 0;
};

// For tests only: deliberately broken order, so that the crash test can show that it notices.
enum class JournalMutant : uint8_t { kNone, kCommitBeforeImages, kTailEarly, kUnordered };

class Journal {
 public:
  Journal(BlockDevice& device, const Geometry& geometry, MetaCache& cache, JournalKnobs knobs = {});
  ~Journal();
  Journal(const Journal&) = delete;

  // Takes the journal over: REQUIRES that its lock is held EX and that it is clean (replayed). Stamps the owner.
  // Errors: kBusy (dirty: replay first), kCorrupt, device errors.
  Task<Status> Open(MountNo journal, OwnerStamp owner);
  // Clean unmount: Checkpoint, mark clean. Nothing may be joined any more.
  Task<Status> Close();
  // Stops the age timer and background work without writing anything (withdraw). Waiters get the error.
  void Fail(Error error);
  void SetFatal(std::function<void(Error)> fatal) { fatal_ = std::move(fatal); }
  Task<void> Join();  // after Close or Fail: until nothing of ours is in flight

  // Joins the running record with room for so many different blocks. Waits for a closing commit and for log space,
  // never for a lock. REQUIRES: all locks that the operation needs are held. Errors: kIo after Fail, kInvalid (more
  // than the log can ever hold: see max_transaction_blocks()).
  Task<Result<Transaction>> Begin(uint32_t max_blocks);
  uint32_t max_transaction_blocks() const { return transaction_max_; }

  // Everything finished before the call is durable when it returns. Callers share commits and flushes.
  Task<Status> Commit();
  // As Commit, and data written in place before the call is durable too: one device flush when nothing was logged.
  Task<Status> Sync();
  // Letting go of an EX lock: what was changed under it is committed, written in place and flushed. The caller holds
  // new changes back (no guard exists). The resource's blocks stay cached; Drop is MetaCache::DropResource.
  Task<Status> WriteInPlace(Resource resource);
  // Everything finished before the call is in place, flushed, and the tail has moved past it.
  Task<Status> Checkpoint();

  // File data goes through this device from now on: then a commit that makes no fresh data reachable
  // (Transaction::OrderAfterData) needs one flush instead of two. Without it every commit is ordered after all writes.
  BlockDevice& data_device() {
    tracked_ = true;
    return data_device_;
  }

  // Called at each commit right before the images are taken, with nothing joined: state that operations share and
  // that is encoded as a whole (claims). Change blocks through `tx`; it must not suspend.
  void SetCommitHook(uint32_t max_blocks, std::function<void(Transaction& tx)> hook);
  // The record being filled now, and the last durable one.
  uint64_t running_sequence() const { return running_sequence_; }
  uint64_t committed_sequence() const { return committed_sequence_; }
  bool failed() const { return failed_; }
  MountNo number() const { return journal_; }
  const JournalHeader& header() const { return header_; }
  MetaCache& cache() { return cache_; }
  const JournalCounters& counters() const { return counters_; }
  // Blocks of the log in use, and its size.
  uint32_t used_blocks() const { return used_; }
  uint32_t log_blocks() const { return log_blocks_; }
  size_t not_in_place() const { return pending_.size(); }
  // The owner block (orphan list head) of this journal: As<DiskJournalOwner>. Read once at Open.
  const BlockRef& owner_block() const { return owner_block_; }
  void set_mutant(JournalMutant mutant) { mutant_ = mutant; }

 private:
  friend class Transaction;
  struct Record;   // logged, not yet checkpointed
  struct Pending;  // newest durable image of one block that is not in place
  struct Running;

  // transaction.cc
  void TxChange(Transaction& tx, MetaBlock* block);
  void TxFinish(Transaction& tx);
  void TxAbort(Transaction& tx);
  void Leave(Transaction& tx);

  // journal_commit.cc
  Task<void> CommitLoop();
  Task<Status> CommitOne();
  std::shared_ptr<Record> BuildRecord();
  Task<Status> WriteRecord(std::shared_ptr<Record> record);
  Task<Status> WriteLog(uint32_t position, std::span<const std::byte> bytes, WriteFlags flags);
  Task<Status> WaitCommitted(uint64_t sequence);
  void KickCommit();
  void ArmAgeTimer();
  Task<Status> FlushShared();

  // journal_checkpoint.cc
  Task<Status> WriteBlocks(std::vector<uint64_t> blocks);
  struct Burst;
  Task<void> WriteRun(std::vector<uint64_t> run, std::shared_ptr<Burst> burst);
  Task<Status> AdvanceTail();
  Task<Status> WriteHeader();
  Task<void> BackgroundCheckpoint();
  void KickCheckpoint();
  Task<Status> CheckpointTo(uint64_t sequence);
  void InPlace(uint64_t block, const Record* written);
  void MakePending(std::shared_ptr<Record> record);
  void Drop(uint64_t block);
  void Erase(uint64_t block);
  std::vector<uint64_t> PendingUpTo(uint64_t sequence) const;

  // Has file data been written that no flush has covered (since `writes` of them, at least)?
  bool Unflushed(uint64_t writes) const { return device_.info().volatile_cache && data_flushed_ < writes; }
  bool HasRoom(uint32_t max_blocks) const;
  void SetFailed(const Error& error);

  BlockDevice& device_;
  Geometry geometry_;
  MetaCache& cache_;
  JournalKnobs knobs_;
  std::function<void(Error)> fatal_;
  std::function<void(Transaction&)> hook_;
  uint32_t hook_blocks_ = 0;
  JournalMutant mutant_ = JournalMutant::kNone;
  DataDevice data_device_;
  bool tracked_ = false;
  uint64_t data_flushed_ = 0;  // of data_device_.writes()

  MountNo journal_;
  JournalHeader header_;
  BlockRef owner_block_;
  uint32_t log_blocks_ = 0;
  uint32_t transaction_max_ = 0;
  uint32_t record_max_ = 0;
  uint32_t head_ = 0;  // where the next record begins
  uint32_t used_ = 0;  // blocks from the tail to the head
  bool open_ = false;
  bool failed_ = false;
  Error failure_ = Errc::kOk;

  std::unique_ptr<Running> running_;
  uint64_t running_sequence_ = 0;
  uint64_t committed_sequence_ = 0;
  uint64_t empty_commits_ = 0;
  uint64_t next_id_ = 1;
  uint32_t joined_ = 0;
  uint32_t credits_open_ = 0;
  bool closing_ = false;
  bool commit_wanted_ = false;
  bool commit_running_ = false;
  WaitList joined_changed_;
  WaitList space_changed_;
  WaitList committed_changed_;
  TimerId age_timer_ = 0;

  std::deque<std::shared_ptr<Record>> records_;  // logged, oldest first
  std::unordered_map<uint64_t, std::unique_ptr<Pending>> pending_;
  std::map<Resource, std::set<uint64_t>> pending_of_;
  std::unordered_map<Resource, uint64_t> touched_;    // the last record that changed something under it
  std::unordered_map<Resource, uint64_t> unflushed_;  // the flush that makes its last write in place durable
  bool checkpoint_running_ = false;
  uint32_t space_waiters_ = 0;
  Mutex tail_mutex_;
  WaitList pending_changed_;
  bool flush_running_ = false;
  uint64_t flush_started_ = 0, flush_done_ = 0;  // flushes are numbered
  WaitList flush_changed_;
  JournalCounters counters_;
  Scope scope_;
};

}  // namespace holdfast::fs
