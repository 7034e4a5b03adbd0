// UnflushedWrites: what a device has acknowledged and not yet been flushed since, kept so that it can be written again.
// An array may lose its power while its users live on: writes in its cache are gone, and a flush in the next session would
// answer well without them. So whoever keeps a session writes all of this again, after the old session is drained and
// before anything else goes (the way NFS repeats unstable writes when the server's verifier has changed).
// Threading: one executor. Bytes are copied, a block each.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "base/bytes.h"

namespace holdfast {

class UnflushedWrites {
 public:
  // Acknowledged. durable: with FUA: older unflushed bytes below it must not come back.
  void Wrote(uint64_t offset, std::span<const std::byte> bytes, bool durable);
  void Discarded(uint64_t offset, uint64_t length);
  // A flush that begins now covers everything up to Mark(); once it has been answered: Flushed(mark).
  uint64_t Mark() const { return last_; }
  void Flushed(uint64_t mark);

  bool empty() const { return blocks_.empty(); }
  size_t bytes() const { return blocks_.size() * kBlockSize; }
  struct Piece {
    uint64_t offset;
    AlignedBuffer bytes;
  };
  // All of it, by offset, neighbours together up to that size.
  std::vector<Piece> Pieces(size_t size_max = 1 << 20) const;

 private:
  using Block = std::array<std::byte, kBlockSize>;
  struct Kept {
    uint64_t number = 0;
    std::unique_ptr<Block> bytes;
  };
  std::map<uint64_t, Kept> blocks_;  // by block number
  uint64_t last_ = 0;
};

}  // namespace holdfast
