// Resource: what a cluster lock protects, and what each image in the journal belongs to: a type and a number.
// Its name in the lock manager and on the wire is 9 bytes: type, then the number big-endian (docs/format.md).
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <string>

#include "base/ids.h"
#include "dlm/types.h"

namespace holdfast::fs {

// The values are on disk (DiskBlockHeader::resource_type) and in lock names.
enum class LockType : uint8_t {
  kNone = 0,
  kSuper = 1,    // number 0: superblock
  kInode = 2,    // number = inode number: attributes, data, xattrs, directory entries
  kOpen = 3,     // number = inode number: who has it open
  kGroup = 4,    // number = group
  kJournal = 5,  // number = journal = mount number: ownership; orphan head and claims
  kRename = 6,   // number 0: renames of directories between directories
  kFreeze = 7,   // number 0
  kQuota = 8,    // reserved
  kRange = 9,    // number = inode number: fcntl and flock range locks
};

struct Resource {
  LockType type = LockType::kNone;
  uint64_t number = 0;
  constexpr auto operator<=>(const Resource&) const = default;
};

constexpr Resource ResourceOf(InodeNo inode) { return {LockType::kInode, inode.v}; }
constexpr Resource OpenResource(InodeNo inode) { return {LockType::kOpen, inode.v}; }
constexpr Resource RangeResource(InodeNo inode) { return {LockType::kRange, inode.v}; }
constexpr Resource GroupResource(uint64_t group) { return {LockType::kGroup, group}; }
constexpr Resource JournalResource(MountNo journal) { return {LockType::kJournal, journal.v}; }
inline constexpr Resource kSuperResource{LockType::kSuper, 0};
inline constexpr Resource kRenameResource{LockType::kRename, 0};
inline constexpr Resource kFreezeResource{LockType::kFreeze, 0};

const char* LockTypeName(LockType type);
std::string ToString(Resource resource);  // "inode 9023"
dlm::ResourceName DlmName(Resource resource);
// Of a lock manager name; {kNone, 0} when it is not one of ours.
Resource ResourceFromName(const dlm::ResourceName& name);

}  // namespace holdfast::fs

template <>
struct std::hash<holdfast::fs::Resource> {
  size_t operator()(const holdfast::fs::Resource& r) const noexcept {
    uint64_t h = (r.number ^ (static_cast<uint64_t>(r.type) << 56)) * 0x9e3779b97f4a7c15ull;
    return h ^ (h >> 32);
  }
};
