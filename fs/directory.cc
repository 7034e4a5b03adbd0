#include "fs/directory.h"

#include <cstring>

#include "base/bytes.h"
#include "fs/siphash.h"

namespace holdfast::fs {
namespace {

struct EncodedName {
  std::array<std::byte, sizeof(DiskName) + 255> bytes;
  size_t size = 0;
  std::span<const std::byte> span() const { return {bytes.data(), size}; }
};

EncodedName Encode(const NameRecord& record) {
  EncodedName out;
  DiskName d;
  d.inode = record.inode.v;
  d.generation = record.generation;
  d.type = record.type;
  d.length = static_cast<uint8_t>(record.name.size());
  std::memcpy(out.bytes.data(), &d, sizeof(d));
  std::memcpy(out.bytes.data() + sizeof(d), record.name.data(), record.name.size());
  out.size = sizeof(d) + record.name.size();
  return out;
}

}  // namespace

Result<NameRecord> Directory::Decode(const TreeRecord& record) {
  if (record.value.size() < sizeof(DiskName)) return Error(Errc::kCorrupt, "directory record too short");
  const DiskName& d = *reinterpret_cast<const DiskName*>(record.value.data());
  if (d.length == 0 || record.value.size() != sizeof(DiskName) + d.length)
    return Error(Errc::kCorrupt, "directory record of the wrong length");
  NameRecord name;
  name.cookie = record.key;
  name.inode = InodeNo(d.inode);
  name.generation = d.generation;
  name.type = d.type;
  name.name = AsText(record.value.subspan(sizeof(DiskName)));
  for (char c : name.name)
    if (c == '/' || c == '\0') return Error(Errc::kCorrupt, "directory record with an impossible name");
  if (name.inode.v == 0 || name.inode.v > kInodeNumberMax || name.generation == 0)
    return Error(Errc::kCorrupt, "directory record with an impossible inode");
  return name;
}

uint64_t Directory::HashOf(std::string_view name) const {
  uint64_t hash = SipHash(hash_key_, name) & kCookieHashMask;
  return hash == 0 ? 1 : hash;
}

Result<std::optional<NameRecord>> Directory::Find(std::string_view name) {
  uint64_t hash = HashOf(name);
  uint64_t at = hash << kCookieCollisionBits;
  for (;;) {
    auto record = tree_.AtOrAfter(at);
    if (!record.ok()) return record.error();
    if (!*record || (*record)->key >> kCookieCollisionBits != hash) return std::optional<NameRecord>();
    auto decoded = Decode(**record);
    if (!decoded.ok()) return decoded.error();
    if (decoded->name == name) return Outward(*decoded);
    at = (*record)->key + 1;
  }
}

Result<std::optional<NameRecord>> Directory::After(uint64_t cookie) {
  auto record = tree_.AtOrAfter(cookie + 1);
  if (!record.ok()) return record.error();
  if (!*record) return std::optional<NameRecord>();
  auto decoded = Decode(**record);
  if (!decoded.ok()) return decoded.error();
  return Outward(*decoded);
}

// Who follows a name locks its directory and what it names: never the same.
Result<std::optional<NameRecord>> Directory::Outward(const NameRecord& record) const {
  if (record.inode.v == tree_.owner().inode) return Error(Errc::kCorrupt, "a name in a directory that points to it");
  return std::optional<NameRecord>(record);
}

Result<uint64_t> Directory::FreeCookie(std::string_view name) {
  uint64_t hash = HashOf(name);
  uint64_t first = hash << kCookieCollisionBits, at = first, free = first;
  for (;;) {
    auto record = tree_.AtOrAfter(at);
    if (!record.ok()) return record.error();
    if (!*record || (*record)->key >> kCookieCollisionBits != hash) break;
    auto decoded = Decode(**record);
    if (!decoded.ok()) return decoded.error();
    if (decoded->name == name) return Errc::kExists;
    if ((*record)->key == free) ++free;
    at = (*record)->key + 1;
  }
  if (free - first >= uint64_t{1} << kCookieCollisionBits)
    return Error(Errc::kNoSpace, "128 names of this directory have one hash");
  return free;
}

Status Directory::Insert(uint64_t cookie, const NameRecord& record) {
  return tree_.Insert(cookie, Encode(record).span());
}

Status Directory::Redirect(uint64_t cookie, const NameRecord& record) {
  return tree_.Replace(cookie, Encode(record).span());
}

}  // namespace holdfast::fs
