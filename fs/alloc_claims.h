// Claims: what this mount has taken out of the group bitmaps and not yet given to a file: a pool of free blocks and
// what operations have taken out of the pool. Pure bookkeeping; encoded as a whole into the journal's claims blocks
// at each commit (docs/format.md). Metadata blocks remember their group's version floor at the time of the claim.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "fs/format.h"

namespace holdfast::fs {

struct ClaimedMeta {
  uint64_t floor = 0;
  bool was_free = false;  // plain free before, not free for metadata only
};

struct ClaimExtent {
  uint64_t start = 0;
  uint64_t count = 0;
  ClaimKind kind = ClaimKind::kData;
};

class Claims {
 public:
  // --- the pool ---
  void AddData(uint64_t start, uint64_t count);
  void AddMeta(uint64_t block, ClaimedMeta meta) { meta_free_[block] = meta; }
  uint64_t data_free() const { return data_free_total_; }
  uint64_t meta_free() const { return meta_free_.size(); }
  size_t extents() const { return data_free_.size() + data_taken_.size() + meta_free_.size() + meta_taken_.size(); }

  // --- taking ---
  // REQUIRES: data_free() > 0. 1..max blocks at goal, else after it in the same group, else from a large extent.
  ClaimExtent TakeData(uint64_t max, uint64_t goal);
  uint64_t TakeMeta(uint64_t goal);
  void UntakeData(uint64_t start, uint64_t count);
  void UntakeMeta(uint64_t block);
  // The taken thing belongs to the volume's files from now on (or back).
  void EndData(uint64_t start, uint64_t count);
  ClaimedMeta EndMeta(uint64_t block);
  void RestoreData(uint64_t start, uint64_t count);
  void RestoreMeta(uint64_t block, ClaimedMeta meta) { meta_taken_[block] = meta; }

  // Marks up to so many blocks of the pool as taken, to be returned to the bitmaps and then ended.
  std::vector<ClaimExtent> TakeSpare(uint64_t max_data, size_t max_meta);

  // Everything claimed, sorted and merged.
  std::vector<ClaimExtent> All() const;

 private:
  std::map<uint64_t, uint64_t> data_free_;   // start -> count
  std::map<uint64_t, uint64_t> data_taken_;
  std::map<uint64_t, ClaimedMeta> meta_free_;
  std::map<uint64_t, ClaimedMeta> meta_taken_;
  uint64_t data_free_total_ = 0;
};

// Into one claims block's payload, from `index` on; returns how many fitted.
size_t EncodeClaims(std::span<const ClaimExtent> claims, DiskClaims* out);
// Error: kCorrupt.
Result<std::vector<ClaimExtent>> DecodeClaims(const DiskClaims& in);

}  // namespace holdfast::fs
