// Xattrs: extended attributes of one inode on its tree of kXattrs: piece 0 of an attribute has its name, its length and
// the first bytes, further pieces the rest. Synchronous like the tree (kWouldBlock: load and again).
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "fs/btree.h"

namespace holdfast::fs {

class Xattrs {
 public:
  Xattrs(Tree& tree, const std::array<uint8_t, 16>& hash_key) : tree_(tree), hash_key_(hash_key) {}

  // Errors: kNoData.
  Result<Bytes> Get(std::string_view name);
  Result<std::vector<std::string>> List();
  Result<bool> Has(std::string_view name);
  // Loads what Set (of a value of that size) or Remove will touch.
  Status Load(std::string_view name, size_t value_bytes);
  // REQUIRES: a transaction, Load(), room for BlocksFor(). Replaces what is there.
  Status Set(std::string_view name, std::span<const std::byte> value);
  Status Remove(std::string_view name);
  static size_t Pieces(size_t name_bytes, size_t value_bytes);
  // New tree blocks that storing it may take.
  size_t BlocksFor(size_t name_bytes, size_t value_bytes) {
    return tree_.InsertBlocks() + 4 + Pieces(name_bytes, value_bytes) / 3;
  }

 private:
  struct Place {
    uint64_t key = 0;      // of piece 0
    bool found = false;
    size_t value_bytes = 0;
    size_t pieces = 0;
  };
  Result<Place> Find(std::string_view name);
  Tree& tree_;
  const std::array<uint8_t, 16>& hash_key_;
};

}  // namespace holdfast::fs
