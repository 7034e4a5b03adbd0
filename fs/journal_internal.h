// The journal's records in memory; journal*.cc and transaction.cc only.
#pragma once

#include "fs/journal.h"

namespace holdfast::fs {

// What has been changed since the last record was closed.
struct Journal::Running {
  std::vector<BlockRef> blocks;  // each once (MetaBlock::dirty)
  std::vector<std::pair<BlockNo, Resource>> forgets;
  uint64_t finished = 0;
  bool ordered = false;  // something in it makes fresh data reachable
  bool empty() const { return blocks.empty() && forgets.empty(); }
};

// A closed record: its bytes as they are in the log, kept until every image of it is in place or superseded.
struct Journal::Record {
  uint64_t sequence = 0;
  uint32_t position = 0;  // in the log
  uint32_t blocks = 0;    // in the log
  uint32_t descriptors = 0;
  AlignedBuffer bytes;
  std::vector<BlockRef> images;  // emptied when it is logged
  std::vector<uint64_t> numbers;  // image i is block numbers[i]
  std::vector<BlockNo> forgets;
  bool ordered = false;
  uint32_t left = 0;      // images of it that are the newest of their block and not in place
  std::span<const std::byte> Image(uint32_t index) const {
    return bytes.span().subspan(size_t{descriptors + index} * kBlockSize, kBlockSize);
  }
};

struct Journal::Pending {
  std::shared_ptr<Record> record;
  uint32_t index = 0;
  Resource resource;
  BlockRef pin;          // the cache must not read an older version back from disk
  bool writing = false;
  bool dropped = false;  // freed: only the end of the write under way is awaited
};

}  // namespace holdfast::fs
