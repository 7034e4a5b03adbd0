#include "fs/xattr.h"

#include <algorithm>
#include <cstring>

#include "fs/siphash.h"

namespace holdfast::fs {
namespace {

inline constexpr unsigned kHashShift = kXattrCollisionBits + kXattrPieceBits;
inline constexpr uint64_t kPieceMask = (uint64_t{1} << kXattrPieceBits) - 1;
inline constexpr size_t kValueMax = 64 * 1024;

struct Head {
  size_t value_bytes = 0;
  std::string_view name;
  std::span<const std::byte> bytes;
};

Result<Head> DecodeHead(std::span<const std::byte> value) {
  if (value.size() < sizeof(DiskXattr)) return Error(Errc::kCorrupt, "xattr record too short");
  const DiskXattr& d = *reinterpret_cast<const DiskXattr*>(value.data());
  size_t name_bytes = d.name_bytes;
  if (name_bytes == 0 || name_bytes > 255 || sizeof(DiskXattr) + name_bytes > value.size() || d.value_bytes > kValueMax)
    return Error(Errc::kCorrupt, "xattr record with impossible lengths");
  return Head{d.value_bytes, AsText(value.subspan(sizeof(DiskXattr), name_bytes)),
              value.subspan(sizeof(DiskXattr) + name_bytes)};
}

size_t FirstPiece(size_t name_bytes) { return kPieceBytesMax - sizeof(DiskXattr) - name_bytes; }

}  // namespace

size_t Xattrs::Pieces(size_t name_bytes, size_t value_bytes) {
  size_t first = FirstPiece(name_bytes);
  return value_bytes <= first ? 1 : 1 + (value_bytes - first + kPieceBytesMax - 1) / kPieceBytesMax;
}

// Where the attribute is, or where a new one of that name goes.
Result<Xattrs::Place> Xattrs::Find(std::string_view name) {
  uint64_t hash = SipHash(hash_key_, name) & kXattrHashMask;
  Place place;
  uint64_t free = 0;
  uint64_t at = hash << kHashShift;
  for (;;) {
    auto record = tree_.AtOrAfter(at);
    if (!record.ok()) return record.error();
    if (!*record || (*record)->key >> kHashShift != hash) break;
    auto head = DecodeHead((*record)->value);
    if (!head.ok()) return head.error();
    uint64_t collision = (*record)->key >> kXattrPieceBits & ((1u << kXattrCollisionBits) - 1);
    if (head->name == name) {
      place.key = (*record)->key & ~kPieceMask;
      place.found = true;
      place.value_bytes = head->value_bytes;
      place.pieces = Pieces(name.size(), head->value_bytes);
      return place;
    }
    if (collision == free) ++free;
    at = ((*record)->key | kPieceMask) + 1;
  }
  if (free >= 1u << kXattrCollisionBits) return Error(Errc::kNoSpace, "64 attributes have one hash");
  place.key = hash << kHashShift | free << kXattrPieceBits;
  return place;
}

Result<bool> Xattrs::Has(std::string_view name) {
  auto place = Find(name);
  if (!place.ok()) return place.error();
  return place->found;
}

Result<Bytes> Xattrs::Get(std::string_view name) {
  auto place = Find(name);
  if (!place.ok()) return place.error();
  if (!place->found) return Errc::kNoData;
  Bytes value;
  value.reserve(place->value_bytes);
  for (size_t i = 0; i < place->pieces; ++i) {
    auto record = tree_.Get(place->key + i);
    if (!record.ok()) return record.error();
    if (!*record) return Error(Errc::kCorrupt, "an xattr lacks a piece");
    std::span<const std::byte> bytes = (*record)->value;
    if (i == 0) bytes = DecodeHead(bytes)->bytes;
    value.insert(value.end(), bytes.begin(), bytes.end());
  }
  if (value.size() != place->value_bytes) return Error(Errc::kCorrupt, "an xattr of the wrong length");
  return value;
}

Result<std::vector<std::string>> Xattrs::List() {
  std::vector<std::string> names;
  for (uint64_t at = 0;;) {
    auto record = tree_.AtOrAfter(at);
    if (!record.ok()) return record.error();
    if (!*record) return names;
    auto head = DecodeHead((*record)->value);
    if (!head.ok()) return head.error();
    names.emplace_back(head->name);
    at = ((*record)->key | kPieceMask) + 1;
  }
}

// Leaves that lose all their records go, and a neighbour takes their range: the next piece is inserted there.
Status Xattrs::Load(std::string_view name, size_t value_bytes) {
  auto place = Find(name);
  if (!place.ok()) return place.error();
  size_t pieces = std::max(place->pieces, Pieces(name.size(), value_bytes));
  if (place->key > 0) {
    auto left = tree_.AtOrBefore(place->key - 1);
    if (!left.ok()) return left.error();
  }
  for (size_t i = 0; i < pieces; ++i) HF_TRY(tree_.LoadPath(place->key + i));
  auto right = tree_.AtOrAfter(place->key + pieces);
  return right.ok() ? Status() : Status(right.error());
}

Status Xattrs::Remove(std::string_view name) {
  auto place = Find(name);
  if (!place.ok()) return place.error();
  if (!place->found) return Errc::kNoData;
  for (size_t i = 0; i < place->pieces; ++i) HF_TRY(tree_.Remove(place->key + i));
  return Status();
}

Status Xattrs::Set(std::string_view name, std::span<const std::byte> value) {
  auto place = Find(name);
  if (!place.ok()) return place.error();
  if (place->found) HF_TRY(Remove(name));
  Bytes head(sizeof(DiskXattr) + name.size());
  DiskXattr d;
  d.value_bytes = static_cast<uint32_t>(value.size());
  d.name_bytes = static_cast<uint16_t>(name.size());
  d.reserved = 0;
  std::memcpy(head.data(), &d, sizeof(d));
  std::memcpy(head.data() + sizeof(d), name.data(), name.size());
  size_t first = std::min(value.size(), FirstPiece(name.size()));
  head.insert(head.end(), value.begin(), value.begin() + static_cast<ptrdiff_t>(first));
  HF_TRY(tree_.Insert(place->key, head));
  uint64_t key = place->key;
  for (size_t at = first; at < value.size(); at += kPieceBytesMax)
    HF_TRY(tree_.Insert(++key, value.subspan(at, std::min(kPieceBytesMax, value.size() - at))));
  return Status();
}

}  // namespace holdfast::fs
