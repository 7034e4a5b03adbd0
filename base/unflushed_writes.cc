#include "base/unflushed_writes.h"

#include <algorithm>
#include <cstring>

namespace holdfast {

void UnflushedWrites::Wrote(uint64_t offset, std::span<const std::byte> bytes, bool durable) {
  if (durable) return Discarded(offset, bytes.size());
  ++last_;
  for (size_t at = 0; at < bytes.size(); at += kBlockSize) {
    Kept& kept = blocks_[(offset + at) / kBlockSize];
    if (!kept.bytes) kept.bytes = std::make_unique<Block>();
    kept.number = last_;
    std::memcpy(kept.bytes->data(), bytes.data() + at, kBlockSize);
  }
}

void UnflushedWrites::Discarded(uint64_t offset, uint64_t length) {
  blocks_.erase(blocks_.lower_bound(offset / kBlockSize), blocks_.lower_bound((offset + length) / kBlockSize));
}

void UnflushedWrites::Flushed(uint64_t mark) {
  if (mark == last_) return blocks_.clear();
  std::erase_if(blocks_, [mark](const auto& entry) { return entry.second.number <= mark; });
}

std::vector<UnflushedWrites::Piece> UnflushedWrites::Pieces(size_t size_max) const {
  std::vector<Piece> out;
  for (auto it = blocks_.begin(); it != blocks_.end();) {
    auto end = it;
    size_t count = 0;
    for (uint64_t next = it->first; end != blocks_.end() && end->first == next && count * kBlockSize < size_max; ++end, ++next) ++count;
    Piece piece{it->first * kBlockSize, AlignedBuffer(count * kBlockSize)};
    for (size_t at = 0; it != end; ++it, at += kBlockSize) std::memcpy(piece.bytes.data() + at, it->second.bytes->data(), kBlockSize);
    out.push_back(std::move(piece));
  }
  return out;
}

}  // namespace holdfast
