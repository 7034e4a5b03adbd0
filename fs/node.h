// Node: one tree node laid over bytes (disk_inode.h: a slotted page of records with 64-bit keys). Pure: no I/O, no
// allocation; a node of any size, so that the root can live in an inode. Bytes from disk go through Check() once when
// they enter memory; after that the accessors trust them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "base/result.h"
#include "fs/disk_inode.h"

namespace holdfast::fs {

struct NodeOwner {
  uint64_t inode = 0;
  uint32_t generation = 0;
};

// Read access.
class NodeView {
 public:
  explicit NodeView(std::span<const std::byte> bytes) : bytes_(bytes) {}

  // Kind, owner, level, slot order, every record inside the heap and none overlapping the slots. Error: kCorrupt.
  static Status Check(std::span<const std::byte> bytes, NodeKind kind, NodeOwner owner);

  NodeKind kind() const { return static_cast<NodeKind>(header().kind); }
  unsigned level() const { return header().level; }
  unsigned count() const { return header().count; }
  size_t size() const { return bytes_.size(); }
  uint64_t key(unsigned i) const { return slots()[i].key; }
  std::span<const std::byte> value(unsigned i) const {
    const DiskSlot& s = slots()[i];
    return bytes_.subspan(s.offset, s.length);
  }
  // First slot with key >= `key`; count() if none.
  unsigned LowerBound(uint64_t key) const;
  std::optional<unsigned> Find(uint64_t key) const;
  // REQUIRES: level() > 0 and count() > 0. The child under which `key` is.
  unsigned ChildFor(uint64_t key) const;
  uint64_t child(unsigned i) const;

  size_t FreeBytes() const;  // after compaction
  size_t UsedBytes() const { return size() - sizeof(DiskNode) - FreeBytes(); }
  static size_t Cost(size_t value_bytes) { return sizeof(DiskSlot) + value_bytes; }
  size_t BytesOf(unsigned i) const { return Cost(slots()[i].length); }

 protected:
  const DiskNode& header() const { return *reinterpret_cast<const DiskNode*>(bytes_.data()); }
  const DiskSlot* slots() const { return reinterpret_cast<const DiskSlot*>(bytes_.data() + sizeof(DiskNode)); }
  std::span<const std::byte> bytes_;
};

// Write access.
class Node : public NodeView {
 public:
  explicit Node(std::span<std::byte> bytes) : NodeView(bytes), mutable_(bytes) {}

  void Init(NodeKind kind, unsigned level, NodeOwner owner);
  // False when there is no room even after compaction. REQUIRES: no such key.
  bool Insert(uint64_t key, std::span<const std::byte> value);
  bool Append(uint64_t key, std::span<const std::byte> value) { return InsertAt(count(), key, value); }
  void Remove(unsigned i);
  // Same key, another value. False: no room (the old value is still there).
  bool Replace(unsigned i, std::span<const std::byte> value);
  void SetKey(unsigned i, uint64_t key) { mutable_slots()[i].key = key; }
  // Everything of `from`, behind what is here. REQUIRES: room, keys above ours.
  void AppendAll(const NodeView& from);
  // The slots [i, count) move to the end of `to`.
  void MoveTail(unsigned i, Node& to);

 private:
  DiskNode& mutable_header() { return *reinterpret_cast<DiskNode*>(mutable_.data()); }
  DiskSlot* mutable_slots() { return reinterpret_cast<DiskSlot*>(mutable_.data() + sizeof(DiskNode)); }
  bool InsertAt(unsigned i, uint64_t key, std::span<const std::byte> value);
  void Compact();
  std::span<std::byte> mutable_;
};

}  // namespace holdfast::fs
