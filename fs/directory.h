// Directory: the names in a directory, on its tree of kNames. A name's key is its cookie: 56 bits of keyed hash << 7 |
// collision number; it never changes while the name lives. Synchronous like the tree (kWouldBlock: load and again).
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>

#include "fs/btree.h"

namespace holdfast::fs {

struct NameRecord {
  uint64_t cookie = 0;
  InodeNo inode;
  uint32_t generation = 0;
  uint8_t type = 0;
  std::string_view name;  // valid until the next change of the tree
};

class Directory {
 public:
  Directory(Tree& tree, const std::array<uint8_t, 16>& hash_key) : tree_(tree), hash_key_(hash_key) {}

  // kNotFound is not an error here: an empty optional.
  Result<std::optional<NameRecord>> Find(std::string_view name);
  // The first name with a cookie > `cookie`.
  Result<std::optional<NameRecord>> After(uint64_t cookie);
  // The cookie that a new name gets. Errors: kExists, kNoSpace (128 names with one hash).
  Result<uint64_t> FreeCookie(std::string_view name);
  // REQUIRES for changes: a transaction, LoadPath(cookie).
  Status Insert(uint64_t cookie, const NameRecord& record);
  Status Remove(uint64_t cookie) { return tree_.Remove(cookie); }
  // Points the name to another inode.
  Status Redirect(uint64_t cookie, const NameRecord& record);

  static Result<NameRecord> Decode(const TreeRecord& record);

 private:
  Result<std::optional<NameRecord>> Outward(const NameRecord& record) const;
  uint64_t HashOf(std::string_view name) const;
  Tree& tree_;
  const std::array<uint8_t, 16>& hash_key_;
};

}  // namespace holdfast::fs
