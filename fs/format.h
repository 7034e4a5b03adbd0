// format.h: the volume's structures that belong to storage: block header, superblock, groups, journals, claims.
// Inodes, tree nodes and directory records are in disk_inode.h. docs/format.md explains every field.
// All numbers little-endian (Le<T>), reserved bytes zero. A Disk struct is laid over raw bytes after its block's
// header has been validated (meta_block.h); in-memory twins are other types.
//
// Volume, in blocks of 4 KiB:
//   0..15 boot area | 16, 17 superblock, two alternating copies | 255 superblock backup | 256.. quorum area |
//   journals | groups ... | the last block of the device at mkfs time: another superblock backup
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/bytes.h"
#include "base/le.h"

namespace holdfast::fs {

inline constexpr uint64_t kSuperblockOffset = 65536;  // bytes
inline constexpr uint64_t kSuperblockBlock = kSuperblockOffset / kBlockSize;
inline constexpr uint64_t kSuperblockBackupBlock = 255;

// The quorum area's layout is cluster/'s: 256 heartbeat blocks of 4 KiB, then per node 2 x (4 KiB + 64 KiB).
inline constexpr uint64_t kQuorumAreaOffset = 1ull << 20;  // bytes
inline constexpr uint64_t kQuorumAreaBytes = 256ull * 4096 + 256ull * 2 * (4096 + 65536);
inline constexpr uint64_t kFirstJournalBlock = (kQuorumAreaOffset + kQuorumAreaBytes) / kBlockSize;

inline constexpr uint32_t kBlockMagic = 0x646d6648;       // "Hfmd"
inline constexpr uint64_t kSuperMagic = 0x54534644'4c4f48ull;  // "HOLDFST"
inline constexpr uint32_t kFormatVersion = 1;
// Versions of blocks, sequences and lives of journals only grow, by few: none ever comes here, so none ever wraps.
inline constexpr uint64_t kVersionMax = uint64_t{1} << 62;

enum class BlockType : uint16_t {
  kNone = 0,
  kSuperblock = 1,
  kGroup = 2,
  kBitmap = 3,
  kInode = 4,
  kTree = 5,           // extents, directory entries or xattrs of one inode (disk_inode.h)
  kJournalHeader = 6,
  kJournalOwner = 7,   // orphan list head of a journal
  kClaims = 8,
  kLogDescriptor = 9,
  kLogCommit = 10,
};

struct DiskTime {
  Le64 seconds;  // two's complement, since 1970 UTC
  Le32 nanoseconds;
};
static_assert(sizeof(DiskTime) == 12);

// First in every metadata block.
struct DiskBlockHeader {
  Le32 magic;           // kBlockMagic
  Le16 type;            // BlockType
  uint8_t resource_type;  // LockType: the lock that protects this block
  uint8_t reserved0;
  Le32 crc32c;          // of the whole block with this field zero
  Le32 reserved1;
  Le64 block;           // own number
  Le64 version;         // grows with each change of this block by whichever node
  Le64 resource_number;
  uint8_t volume[16];   // UUID
  uint8_t reserved2[8];
};
static_assert(sizeof(DiskBlockHeader) == 64);
inline constexpr size_t kBlockHeaderBytes = sizeof(DiskBlockHeader);
inline constexpr size_t kBlockPayloadBytes = kBlockSize - kBlockHeaderBytes;
inline constexpr size_t kCrcOffset = offsetof(DiskBlockHeader, crc32c);
static_assert(kCrcOffset == 8);

// ---- superblock: type kSuperblock, resource super; the header's version is the sequence that picks the newer copy ----
struct DiskSuperblock {
  DiskBlockHeader header;
  Le64 super_magic;        // kSuperMagic
  Le32 format_version;
  Le32 block_bytes;        // 4096
  Le64 compat;             // features: may be ignored
  Le64 ro_compat;          // unknown bit: mount read-only
  Le64 incompat;           // unknown bit: refuse
  Le64 volume_blocks;
  Le64 quorum_block;       // first block of the quorum area, 0: none on this volume
  Le64 quorum_blocks;
  Le64 first_journal_block;
  Le32 journal_count;
  Le32 journal_blocks;     // each
  Le64 first_group_block;
  Le64 group_count;
  Le32 group_blocks;       // each but the last
  Le32 bitmap_blocks;      // per group
  Le64 root_inode;
  Le64 quota_inodes[3];    // user, group, project; 0: none
  uint8_t hash_key[16];    // of directory name hashes
  char label[64];
  char lock_table[64];     // "cluster:fsname"; empty: nolock only
  DiskTime created;
  Le32 root_generation;
  Le64 writer_features;    // reserved: 0
  uint8_t reserved[kBlockSize - 368];
};
static_assert(offsetof(DiskSuperblock, super_magic) == 64);
static_assert(offsetof(DiskSuperblock, hash_key) == 200);
static_assert(sizeof(DiskSuperblock) == kBlockSize);

// ---- groups: block 0 header, then bitmap_blocks bitmaps, then the rest ----
enum class BlockState : uint8_t {  // two bits in the bitmap
  kFree = 0,
  kData = 1,
  kMeta = 2,
  kMetaFree = 3,  // was metadata: free for metadata only until every journal has been checkpointed past it
};

inline constexpr uint64_t kBlocksPerBitmap = kBlockPayloadBytes * 4;
static_assert(kBlocksPerBitmap == 16128);

inline constexpr uint32_t kGroupBitmapsUnwritten = 1;  // bitmap blocks hold anything; every block is free but the group's own

struct DiskGroup {
  DiskBlockHeader header;  // type kGroup, resource group
  Le64 group;
  Le64 first_block;        // = header.block
  Le32 block_count;
  Le32 flags;
  Le32 free_count;
  Le32 meta_free_count;
  Le32 data_count;
  Le32 meta_count;         // without the header and the bitmaps
  Le64 version_floor;      // a block becoming metadata starts above this
  Le64 refcount_root;      // reserved for reflink: 0
  uint8_t reserved[kBlockPayloadBytes - 56];
};
static_assert(sizeof(DiskGroup) == kBlockSize);

struct DiskBitmap {
  DiskBlockHeader header;  // type kBitmap, resource group
  uint8_t states[kBlockPayloadBytes];  // block i of this bitmap: bits 2(i%4).. of byte i/4
};
static_assert(sizeof(DiskBitmap) == kBlockSize);

// ---- journals: blocks 0, 1 header copies | 2 owner block | 3..6 claims | 8.. log ----
inline constexpr uint32_t kJournalOwnerIndex = 2;
inline constexpr uint32_t kJournalClaimsIndex = 3;
inline constexpr uint32_t kClaimsBlocks = 4;
inline constexpr uint32_t kJournalLogIndex = 8;
inline constexpr uint32_t kJournalBlocksMin = 256;

enum class JournalState : uint32_t { kClean = 1, kDirty = 2 };

struct DiskJournalHeader {
  DiskBlockHeader header;  // type kJournalHeader; version = sequence that picks the newer copy
  Le32 journal;
  Le32 state;              // JournalState
  Le64 life;               // counts owners and replays of this journal; records of another life are not part of the log
  Le64 owner_node;
  Le64 owner_incarnation;
  Le64 owner_nonce;
  Le64 owner_mount;
  Le64 tail_position;      // block in the log where the oldest record that replay needs begins
  Le64 tail_sequence;      // its sequence
  DiskTime stamped;
  Le32 reserved0;
  uint8_t reserved[kBlockPayloadBytes - 80];
};
static_assert(sizeof(DiskJournalHeader) == kBlockSize);

struct DiskJournalOwner {
  DiskBlockHeader header;  // type kJournalOwner, resource journal
  Le64 orphan_head;        // first inode of the list; 0: none
  uint8_t reserved[kBlockPayloadBytes - 8];
};
static_assert(sizeof(DiskJournalOwner) == kBlockSize);

enum class ClaimKind : uint8_t {
  kMetaFromFree = 0,  // metadata in the bitmap; never used: plain free again
  kData = 1,          // data in the bitmap; free again
  kMeta = 2,          // metadata in the bitmap; free for metadata only again
};

struct DiskClaim {
  Le64 start;
  Le32 count;              // blocks; 0: unused slot
  uint8_t kind;            // ClaimKind: what the bitmap says, and what it goes back to
  uint8_t reserved[3];
};
static_assert(sizeof(DiskClaim) == 16);
inline constexpr uint32_t kClaimsPerBlock = (kBlockPayloadBytes - 16) / sizeof(DiskClaim);

struct DiskClaims {
  DiskBlockHeader header;  // type kClaims, resource journal
  Le32 count;              // slots used, from 0
  Le32 reserved0;
  Le64 reserved1;
  DiskClaim claims[kClaimsPerBlock];
};
static_assert(sizeof(DiskClaims) == kBlockSize);

// A record: descriptors (as many as `images` needs), the images, one commit block. It may wrap around the log's end
// at any block. Every block of it names volume (header), journal, life, owner and sequence.
struct DiskLogName {
  Le32 journal;
  Le32 reserved;
  Le64 life;
  Le64 owner_incarnation;
  Le64 owner_nonce;
  Le64 sequence;           // grows by one per record, never reused
};
static_assert(sizeof(DiskLogName) == 40);

inline constexpr uint16_t kLogImage = 1;   // an image of the block is in this record
inline constexpr uint16_t kLogForget = 2;  // the block was freed: older images of it in this journal are void

struct DiskLogEntry {
  Le64 block;
  Le64 resource_number;
  Le64 version;
  Le32 crc32c;             // the image's own header field
  uint8_t resource_type;
  uint8_t reserved;
  Le16 flags;
};
static_assert(sizeof(DiskLogEntry) == 32);
inline constexpr uint32_t kLogEntriesPerBlock = (kBlockPayloadBytes - 64) / sizeof(DiskLogEntry);

struct DiskLogDescriptor {
  DiskBlockHeader header;  // type kLogDescriptor
  DiskLogName name;
  Le32 index;              // of this descriptor in the record
  Le32 descriptors;        // in the record
  Le32 entries;            // in the record
  Le32 images;             // in the record
  Le64 reserved;
  DiskLogEntry entry[kLogEntriesPerBlock];
  uint8_t reserved1[kBlockPayloadBytes - 64 - kLogEntriesPerBlock * sizeof(DiskLogEntry)];
};
static_assert(sizeof(DiskLogDescriptor) == kBlockSize);

struct DiskLogCommit {
  DiskBlockHeader header;  // type kLogCommit
  DiskLogName name;
  Le32 descriptors;
  Le32 images;
  Le32 record_crc32c;      // of the descriptors' and images' bytes in order
  Le32 reserved0;
  Le64 wall_seconds;
  uint8_t reserved[kBlockPayloadBytes - 64];
};
static_assert(sizeof(DiskLogCommit) == kBlockSize);

}  // namespace holdfast::fs
