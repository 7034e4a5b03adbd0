#include "fs/alloc_claims.h"

#include <algorithm>

#include "base/check.h"
#include "base/mutants.h"

namespace holdfast::fs {
namespace {

void Insert(std::map<uint64_t, uint64_t>& extents, uint64_t start, uint64_t count) {
  auto next = extents.lower_bound(start);
  HF_CHECK(next == extents.end() || start + count <= next->first, "claimed twice: block %llu", static_cast<unsigned long long>(start));
  if (next != extents.begin()) {
    auto before = std::prev(next);
    HF_CHECK(before->first + before->second <= start, "claimed twice: block %llu", static_cast<unsigned long long>(start));
    if (before->first + before->second == start) {
      start = before->first;
      count += before->second;
      extents.erase(before);
    }
  }
  if (next != extents.end() && start + count == next->first) {
    count += next->second;
    extents.erase(next);
  }
  extents[start] = count;
}

// REQUIRES: the range lies in one extent.
void Cut(std::map<uint64_t, uint64_t>& extents, uint64_t start, uint64_t count) {
  auto it = extents.upper_bound(start);
  HF_CHECK(it != extents.begin(), "block %llu is not claimed", static_cast<unsigned long long>(start));
  --it;
  auto [at, size] = *it;
  HF_CHECK(start + count <= at + size, "blocks %llu+%llu are not claimed", static_cast<unsigned long long>(start),
           static_cast<unsigned long long>(count));
  extents.erase(it);
  if (at < start) extents[at] = start - at;
  if (start + count < at + size) extents[start + count] = at + size - (start + count);
}

}  // namespace

void Claims::AddData(uint64_t start, uint64_t count) {
  Insert(data_free_, start, count);
  data_free_total_ += count;
}

ClaimExtent Claims::TakeData(uint64_t max, uint64_t goal) {
  HF_CHECK(!data_free_.empty() && max > 0, "nothing to take from the pool");
  auto pick = data_free_.end();
  uint64_t start = 0;
  auto after = data_free_.upper_bound(goal);
  if (after != data_free_.begin()) {
    auto at = std::prev(after);
    if (goal < at->first + at->second) {
      pick = at;
      start = goal;
    }
  }
  if (pick == data_free_.end() && goal != 0 && after != data_free_.end() && after->first - goal < kBlocksPerBitmap / 4) {
    pick = after;
    start = after->first;
  }
  if (pick == data_free_.end()) {
    // The smallest that is large enough, else the largest: large extents stay whole for large files.
    for (auto it = data_free_.begin(); it != data_free_.end(); ++it) {
      if (pick == data_free_.end()) {
        pick = it;
      } else if (it->second >= max ? (pick->second < max || it->second < pick->second) : (pick->second < max && it->second > pick->second)) {
        pick = it;
      }
    }
    start = pick->first;
  }
  uint64_t count = std::min(max, pick->first + pick->second - start);
  Cut(data_free_, start, count);
  data_free_total_ -= count;
  Insert(data_taken_, start, count);
  return {start, count, ClaimKind::kData};
}

uint64_t Claims::TakeMeta(uint64_t goal) {
  HF_CHECK(!meta_free_.empty(), "no claimed metadata block left");
  auto it = meta_free_.lower_bound(goal);
  if (it == meta_free_.end()) it = meta_free_.begin();
  uint64_t block = it->first;
  meta_taken_[block] = it->second;
  meta_free_.erase(it);
  return block;
}

void Claims::UntakeData(uint64_t start, uint64_t count) {
  Cut(data_taken_, start, count);
  AddData(start, count);
}

void Claims::UntakeMeta(uint64_t block) {
  auto it = meta_taken_.find(block);
  HF_CHECK(it != meta_taken_.end(), "metadata block %llu was not taken", static_cast<unsigned long long>(block));
  meta_free_[block] = it->second;
  meta_taken_.erase(it);
}

void Claims::EndData(uint64_t start, uint64_t count) { Cut(data_taken_, start, count); }

void Claims::RestoreData(uint64_t start, uint64_t count) { Insert(data_taken_, start, count); }

ClaimedMeta Claims::EndMeta(uint64_t block) {
  auto it = meta_taken_.find(block);
  HF_CHECK(it != meta_taken_.end(), "metadata block %llu was not taken", static_cast<unsigned long long>(block));
  ClaimedMeta meta = it->second;
  meta_taken_.erase(it);
  return meta;
}

std::vector<ClaimExtent> Claims::TakeSpare(uint64_t max_data, size_t max_meta) {
  std::vector<ClaimExtent> out;
  while (max_data > 0 && !data_free_.empty()) {
    auto it = std::prev(data_free_.end());
    uint64_t count = std::min(max_data, it->second);
    uint64_t start = it->first + it->second - count;
    Cut(data_free_, start, count);
    data_free_total_ -= count;
    max_data -= count;
    Insert(data_taken_, start, count);
    out.push_back({start, count, ClaimKind::kData});
  }
  while (max_meta-- > 0 && !meta_free_.empty()) {
    auto it = std::prev(meta_free_.end());
    out.push_back({it->first, 1, it->second.was_free ? ClaimKind::kMetaFromFree : ClaimKind::kMeta});
    meta_taken_[it->first] = it->second;
    meta_free_.erase(it);
  }
  return out;
}

std::vector<ClaimExtent> Claims::All() const {
  std::vector<ClaimExtent> all;
  for (auto& [start, count] : data_free_) all.push_back({start, count, ClaimKind::kData});
  if (!HF_MUTANT(kTakenUnlisted)) {
    for (auto& [start, count] : data_taken_) all.push_back({start, count, ClaimKind::kData});
  }
  for (auto* metas : {&meta_free_, &meta_taken_}) {
    for (auto& [block, meta] : *metas) all.push_back({block, 1, meta.was_free ? ClaimKind::kMetaFromFree : ClaimKind::kMeta});
  }
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.start < b.start; });
  std::vector<ClaimExtent> merged;
  for (const ClaimExtent& e : all) {
    if (!merged.empty() && merged.back().kind == e.kind && merged.back().start + merged.back().count == e.start) {
      merged.back().count += e.count;
    } else {
      merged.push_back(e);
    }
  }
  return merged;
}

size_t EncodeClaims(std::span<const ClaimExtent> claims, DiskClaims* out) {
  size_t n = std::min<size_t>(claims.size(), kClaimsPerBlock);
  out->count = static_cast<uint32_t>(n);
  for (size_t i = 0; i < kClaimsPerBlock; ++i) {
    DiskClaim claim{};
    if (i < n) {
      claim.start = claims[i].start;
      claim.count = static_cast<uint32_t>(claims[i].count);
      claim.kind = static_cast<uint8_t>(claims[i].kind);
    }
    out->claims[i] = claim;
  }
  return n;
}

Result<std::vector<ClaimExtent>> DecodeClaims(const DiskClaims& in) {
  if (in.count > kClaimsPerBlock) return Error(Errc::kCorrupt, "claims block: count out of range");
  std::vector<ClaimExtent> out;
  for (uint32_t i = 0; i < in.count; ++i) {
    const DiskClaim& c = in.claims[i];
    if (c.count == 0 || c.kind > static_cast<uint8_t>(ClaimKind::kMeta)) return Error(Errc::kCorrupt, "claims block: bad claim");
    out.push_back({c.start, c.count, static_cast<ClaimKind>(c.kind)});
  }
  return out;
}

}  // namespace holdfast::fs
