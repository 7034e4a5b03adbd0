// Replay: what a dead owner's journal holds goes in place. The caller has proof that the owner is fenced (I1) and holds
// the journal's lock; this file only reads, compares versions and writes. Idempotent: a replayer that dies is replaced.
//
//   scan from the header's tail: records of that journal, life and owner, sequence by sequence, until one does not
//   validate -> newest image of each block, without those that a later record forgot -> images of frozen resources
//   whose block in place is older or damaged are written -> flush -> header clean, life + 1, sequences jump
//
// A log with a hole is refused (Hole).
// INVARIANT: with survivors, only blocks of resources that the lock manager reports frozen are touched: a lock that was
// handed over proves that its blocks are in place, and a living owner may be writing them now.
// Orphans and claims stay behind in a clean journal; Allocator::ReturnClaims and the orphan list adopt them.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/block_device.h"
#include "base/result.h"
#include "fs/journal_header.h"
#include "fs/resource.h"

namespace holdfast::fs {

struct LogImage {
  std::shared_ptr<AlignedBuffer> record;  // of the whole record
  size_t offset = 0;
  Resource resource;
  uint64_t version = 0;
  uint64_t sequence = 0;
  std::span<const std::byte> bytes() const { return std::as_const(*record).span().subspan(offset, kBlockSize); }
};

struct LogContents {
  JournalHeader header;
  std::map<uint64_t, LogImage> newest;  // by block
  uint64_t records = 0;
  uint64_t images = 0;
  uint64_t forgotten = 0;
  uint64_t next_sequence = 0;
  uint32_t end_position = 0;
  // Not empty: the log does not end where the records end. Later ones of the same owner stand behind a place that is damaged, or
  // the header is older than the log. A crash alone never leaves that: a record is begun when the one before it is durable.
  std::string hole;
};
// Reads the log of a dirty journal (of a clean one: no records). Errors: kCorrupt (header), device errors.
Task<Result<LogContents>> ReadLog(BlockDevice& device, Geometry geometry, MountNo journal);

struct ReplayReport {
  OwnerStamp owner;  // whose journal it was
  bool was_clean = false;
  uint64_t records = 0, images = 0;
  uint64_t applied = 0, newer = 0, not_frozen = 0, forgotten = 0;
  std::string hole;  // given up: what stood behind it in the log
};

// What to do about a hole in the log: behind it stand changes that somebody was told are safe.
enum class Hole : uint8_t {
  kRefuse,  // kCorrupt, nothing is written: only a human may give them up
  kGiveUp,  // replay what comes before it (fsck -y)
};

// Asked once per resource. nullptr: nobody survived (cold start, nolock, fsck): versions alone decide.
using FrozenPredicate = std::function<Task<Result<bool>>(Resource)>;

Task<Result<ReplayReport>> ReplayJournal(BlockDevice& device, Geometry geometry, MountNo journal, FrozenPredicate frozen,
                                         Hole hole = Hole::kRefuse);

}  // namespace holdfast::fs
