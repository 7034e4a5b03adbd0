// disk_inode.h: inodes, tree nodes and their records on disk (docs/format.md). Blocks of an inode all belong to its
// lock; their headers are meta_block.h's.
//
//   inode block: header 64 | DiskInode 192 | xattr root node 512 | data root node (or inline data) 3328
//   tree block:  header 64 | node 4032
//
// A node is a slotted page of records with 64-bit keys, whatever its size: DiskNode, slots in key order, free space,
// records growing down from the end. Level 0 holds records; above it each record is the 8-byte block number of a child
// whose keys are >= the slot's key (the first child also takes everything below). The root lives in the inode.
//   kExtents:  key = first file block, value DiskExtent
//   kNames:    key = cookie (56-bit name hash << 7 | collision number), value DiskName + name
//   kXattrs:   key = name hash << 16 | collision << 10 | piece, value DiskXattr + name + bytes (piece 0), bytes (others)
//   kPieces:   key = piece number, value bytes: symlink targets longer than the inline area
#pragma once

#include <cstddef>
#include <cstdint>

#include "fs/format.h"

namespace holdfast::fs {

inline constexpr uint32_t kInodeInlineData = 1;   // DiskInode::state: the data area holds `size` bytes of data
inline constexpr uint32_t kInodeOrphan = 2;       // on a journal's orphan list: nlink 0, freed after the last close
inline constexpr uint32_t kInodeTmpFile = 16;     // an orphan that never had a name: may get one
inline constexpr uint32_t kInodeDead = 8;         // an orphan that is being freed: stale for everybody but the reaper
inline constexpr uint32_t kInodeTruncating = 4;   // blocks past `size` may remain; finished by the next owner

// User-visible flags (FS_IOC_GETFLAGS numbers).
inline constexpr uint32_t kFlagImmutable = 0x10;
inline constexpr uint32_t kFlagAppend = 0x20;
inline constexpr uint32_t kFlagNodump = 0x40;

struct DiskInode {
  Le64 number;        // = block
  Le32 generation;    // of this use of the block; never 0
  Le32 state;         // kInode...
  Le32 mode;          // S_IF bits and permissions
  Le32 nlink;
  Le32 uid;
  Le32 gid;
  Le32 project;
  Le32 flags;         // kFlag...
  Le64 size;          // bytes; directories: sum of name lengths + 24 per entry
  Le64 blocks;        // data and tree blocks, in 4 KiB, without this one
  Le64 rdev;          // major << 32 | minor
  Le64 change;        // grows with every change
  Le64 parent;        // directories: inode number of the one they are in
  Le32 parent_generation;
  Le32 entries_low;   // directories: number of entries, low half
  DiskTime atime, mtime, ctime, btime;
  Le64 orphan_next;   // next inode of the orphan list, 0: end
  Le32 entries_high;
  Le32 quota_flags;   // reserved: 0
  Le64 refcount;      // reserved: 0
  uint8_t reserved[32];
};
static_assert(sizeof(DiskInode) == 192);

inline constexpr size_t kInodeOffset = kBlockHeaderBytes;
inline constexpr size_t kXattrRootOffset = 256;
inline constexpr size_t kXattrRootBytes = 512;
inline constexpr size_t kDataRootOffset = kXattrRootOffset + kXattrRootBytes;
inline constexpr size_t kDataRootBytes = kBlockSize - kDataRootOffset;
static_assert(kInodeOffset + sizeof(DiskInode) == kXattrRootOffset);
static_assert(kDataRootBytes == 3328);
inline constexpr size_t kInlineDataMax = kDataRootBytes;

enum class NodeKind : uint8_t { kExtents = 1, kNames = 2, kXattrs = 3, kPieces = 4 };

struct DiskNode {
  uint8_t kind;      // NodeKind
  uint8_t level;     // 0: records
  Le16 count;        // slots
  Le16 heap;         // offset in the node of the lowest record byte; the node's size when empty
  Le16 dead;         // bytes above `heap` that no slot refers to
  Le64 owner;        // inode number
  Le32 generation;   // the inode's
  Le32 reserved;
};
static_assert(sizeof(DiskNode) == 24);

struct DiskSlot {
  Le64 key;
  Le16 offset;  // in the node
  Le16 length;
};
static_assert(sizeof(DiskSlot) == 12);

inline constexpr size_t kTreeNodeOffset = kBlockHeaderBytes;
inline constexpr size_t kTreeNodeBytes = kBlockSize - kTreeNodeOffset;
inline constexpr unsigned kTreeLevelMax = 10;
inline constexpr size_t kRecordBytesMax = 960;  // so that any node splits into two that have room

inline constexpr uint8_t kExtentUnwritten = 1;    // reads as zeroes
inline constexpr uint8_t kExtentShared = 2;       // reserved (reflink)
inline constexpr uint8_t kExtentChecksummed = 4;  // reserved

struct DiskExtent {
  Le64 start;        // volume block
  Le32 count;        // blocks, > 0
  uint8_t flags;
  uint8_t device;    // reserved: 0
  Le16 reserved;
};
static_assert(sizeof(DiskExtent) == 16);

inline constexpr uint64_t kInodeNumberMax = (uint64_t{1} << 48) - 1;  // node ids keep 16 bits of generation above

struct DiskName {
  Le64 inode;
  Le32 generation;
  uint8_t type;      // d_type
  uint8_t length;    // of the name that follows, 1..255
};
static_assert(sizeof(DiskName) == 14);

inline constexpr unsigned kCookieCollisionBits = 7;
inline constexpr uint64_t kCookieHashMask = (uint64_t{1} << 56) - 1;
inline constexpr uint64_t kCookieFirst = 1 << kCookieCollisionBits;  // below: 0 start, 1 ".", 2 ".."

struct DiskXattr {
  Le32 value_bytes;  // of all pieces
  Le16 name_bytes;   // of the name that follows, 1..255
  Le16 reserved;
};
static_assert(sizeof(DiskXattr) == 8);
inline constexpr unsigned kXattrPieceBits = 10;
inline constexpr unsigned kXattrCollisionBits = 6;
inline constexpr uint64_t kXattrHashMask = (uint64_t{1} << 47) - 1;
inline constexpr size_t kPieceBytesMax = 960;

}  // namespace holdfast::fs
