#include "fs/node.h"

#include <algorithm>
#include <array>
#include <bitset>
#include <cstring>

#include "base/check.h"

namespace holdfast::fs {

Status NodeView::Check(std::span<const std::byte> bytes, NodeKind kind, NodeOwner owner) {
  NodeView node(bytes);
  const DiskNode& h = node.header();
  if (h.kind != static_cast<uint8_t>(kind)) return Error(Errc::kCorrupt, "tree node of the wrong kind");
  if (h.owner != owner.inode || h.generation != owner.generation)
    return Error(Errc::kCorrupt, "tree node of another inode");
  if (h.level > kTreeLevelMax) return Error(Errc::kCorrupt, "tree node with an impossible level");
  size_t slots_end = sizeof(DiskNode) + size_t{h.count} * sizeof(DiskSlot);
  if (h.heap > bytes.size() || slots_end > h.heap) return Error(Errc::kCorrupt, "tree node with an impossible count");
  size_t used = 0;
  std::bitset<kBlockSize> taken;
  for (unsigned i = 0; i < h.count; ++i) {
    const DiskSlot& s = node.slots()[i];
    if ((s.length > 0 && s.offset < h.heap) || s.offset + s.length > bytes.size() || s.length > kRecordBytesMax)
      return Error(Errc::kCorrupt, "tree record outside its node");
    if (i > 0 && node.key(i - 1) >= s.key) return Error(Errc::kCorrupt, "tree keys out of order");
    if (h.level > 0 && s.length != sizeof(Le64)) return Error(Errc::kCorrupt, "tree pointer of the wrong size");
    used += s.length;
    for (size_t at = s.offset; at < size_t{s.offset} + s.length; ++at) {
      if (taken[at]) return Error(Errc::kCorrupt, "tree node with overlapping records");
      taken[at] = true;
    }
  }
  if (h.level > 0 && h.count == 0) return Error(Errc::kCorrupt, "inner tree node without children");
  if (used + h.dead != bytes.size() - h.heap) return Error(Errc::kCorrupt, "tree node whose bytes do not add up");
  return Status();
}

unsigned NodeView::LowerBound(uint64_t key) const {
  unsigned low = 0, high = count();
  const DiskSlot* s = slots();
  while (low < high) {
    unsigned middle = (low + high) / 2;
    if (s[middle].key < key) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

std::optional<unsigned> NodeView::Find(uint64_t wanted) const {
  unsigned i = LowerBound(wanted);
  if (i == count() || key(i) != wanted) return std::nullopt;
  return i;
}

unsigned NodeView::ChildFor(uint64_t wanted) const {
  unsigned i = LowerBound(wanted);
  if (i < count() && key(i) == wanted) return i;
  return i == 0 ? 0 : i - 1;
}

uint64_t NodeView::child(unsigned i) const { return *reinterpret_cast<const Le64*>(value(i).data()); }

size_t NodeView::FreeBytes() const {
  return header().heap + header().dead - sizeof(DiskNode) - size_t{header().count} * sizeof(DiskSlot);
}

void Node::Init(NodeKind kind, unsigned level, NodeOwner owner) {
  std::memset(mutable_.data(), 0, mutable_.size());
  DiskNode& h = mutable_header();
  h.kind = static_cast<uint8_t>(kind);
  h.level = static_cast<uint8_t>(level);
  h.heap = static_cast<uint16_t>(mutable_.size());
  h.owner = owner.inode;
  h.generation = owner.generation;
}

void Node::Compact() {
  std::array<std::byte, kBlockSize> heap;
  size_t end = size(), at = end;
  for (unsigned i = 0; i < count(); ++i) {
    DiskSlot& s = mutable_slots()[i];
    at -= s.length;
    std::memcpy(heap.data() + at, mutable_.data() + s.offset, s.length);
    s.offset = static_cast<uint16_t>(at);
  }
  size_t old = header().heap;
  std::memcpy(mutable_.data() + at, heap.data() + at, end - at);
  if (old < at) std::memset(mutable_.data() + old, 0, at - old);
  mutable_header().heap = static_cast<uint16_t>(at);
  mutable_header().dead = 0;
}

bool Node::Insert(uint64_t key, std::span<const std::byte> value) { return InsertAt(LowerBound(key), key, value); }

bool Node::InsertAt(unsigned i, uint64_t key, std::span<const std::byte> value) {
  if (FreeBytes() < Cost(value.size())) return false;
  unsigned n = count();
  size_t gap = header().heap - sizeof(DiskNode) - n * sizeof(DiskSlot);
  if (gap < Cost(value.size())) Compact();
  DiskSlot* s = mutable_slots();
  std::memmove(s + i + 1, s + i, (n - i) * sizeof(DiskSlot));
  uint16_t offset = static_cast<uint16_t>(header().heap - value.size());
  if (!value.empty()) std::memcpy(mutable_.data() + offset, value.data(), value.size());
  s[i].key = key;
  s[i].offset = offset;
  s[i].length = static_cast<uint16_t>(value.size());
  mutable_header().heap = offset;
  mutable_header().count = static_cast<uint16_t>(n + 1);
  return true;
}

void Node::Remove(unsigned i) {
  DiskSlot* s = mutable_slots();
  unsigned n = count();
  uint16_t length = s[i].length, offset = s[i].offset;
  std::memset(mutable_.data() + offset, 0, length);
  std::memmove(s + i, s + i + 1, (n - i - 1) * sizeof(DiskSlot));
  std::memset(s + n - 1, 0, sizeof(DiskSlot));
  DiskNode& h = mutable_header();
  h.count = static_cast<uint16_t>(n - 1);
  if (offset == h.heap) {
    h.heap = static_cast<uint16_t>(offset + length);
  } else {
    h.dead = static_cast<uint16_t>(h.dead + length);
  }
}

bool Node::Replace(unsigned i, std::span<const std::byte> value) {
  DiskSlot& s = mutable_slots()[i];
  if (s.length == value.size()) {
    if (!value.empty()) std::memcpy(mutable_.data() + s.offset, value.data(), value.size());
    return true;
  }
  if (FreeBytes() + s.length < value.size()) return false;
  uint64_t k = s.key;
  Remove(i);
  HF_CHECK(InsertAt(i, k, value), "a replaced record of %zu bytes fits", value.size());
  return true;
}

void Node::AppendAll(const NodeView& from) {
  for (unsigned i = 0; i < from.count(); ++i)
    HF_CHECK(Append(from.key(i), from.value(i)), "a merged node has room for %u records", from.count());
}

void Node::MoveTail(unsigned first, Node& to) {
  unsigned n = count();
  for (unsigned i = first; i < n; ++i) HF_CHECK(to.Append(key(i), value(i)), "a split node has room");
  while (count() > first) Remove(count() - 1);
}

}  // namespace holdfast::fs
