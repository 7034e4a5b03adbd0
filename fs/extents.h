// Extents: where a file's blocks are, on its tree of kExtents (key = first file block). Synchronous like the tree.
// INVARIANT: extents do not overlap in the file; what the tree does not have is a hole.
#pragma once

#include <vector>

#include "fs/alloc.h"
#include "fs/btree.h"
#include "fs/geometry.h"

namespace holdfast::fs {

// `count` file blocks from the one asked for: mapped to start.., or a hole (start 0).
struct Mapping {
  BlockNo start;
  uint64_t count = 0;
  bool unwritten = false;
  bool hole() const { return start.v == 0; }
};

class Extents {
 public:
  Extents(Tree& tree, const Geometry& geometry) : tree_(tree), geometry_(geometry) {}

  // At most `max` blocks of one kind from file block `first` on.
  Result<Mapping> Map(uint64_t first, uint64_t max);
  // The last block that is mapped, plus one; 0 if none.
  Result<uint64_t> End();

  // REQUIRES for changes: a transaction, Load(first, count) and room for the splits.
  Status Load(uint64_t first, uint64_t count);
  // REQUIRES: a hole there.
  Status Insert(uint64_t first, Extent extent, bool unwritten);
  // Makes a hole; what it was is appended to `freed`.
  Status Remove(uint64_t first, uint64_t count, std::vector<Extent>* freed);
  // Unwritten blocks of the range become written.
  Status MarkWritten(uint64_t first, uint64_t count);
  // How much of [first, first + count), from its end (backwards) or start, has at most `extents_max` extents in at
  // most kFreeGroupsMax groups: what one transaction frees. Fills `extents` with them.
  struct Batch {
    uint64_t first = 0;
    uint64_t count = 0;
    bool more = false;
    std::vector<Extent> extents;
  };
  Result<Batch> LastBatch(uint64_t first, uint64_t count, size_t extents_max);

 private:
  struct Found {
    uint64_t first = 0;
    uint64_t count = 0;
    BlockNo start;
    uint8_t flags = 0;
  };
  Result<Found> Decode(const TreeRecord& record) const;
  Result<std::optional<Found>> Covering(uint64_t block);
  Status Put(const Found& found, bool replace);
  Tree& tree_;
  const Geometry& geometry_;
};

}  // namespace holdfast::fs
