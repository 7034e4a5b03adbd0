// What the FUSE protocol has and libfuse 3.14 (or an older linux/fuse.h) has no name for: init flags, open flags, the
// raw notification messages. Source: include/uapi/linux/fuse.h of Linux 6.16.
#pragma once

#include <cstdint>

#include <linux/fuse.h>

namespace holdfast::fs::fuse {

inline constexpr uint32_t kInitExt = 1u << 30;              // flags2 is valid
inline constexpr uint32_t kInitHandleKillprivV2 = 1u << 28;
inline constexpr uint32_t kInit2DirectIoAllowMmap = 1u << 4;  // bit 36
inline constexpr uint32_t kOpenParallelDirectWrites = 1u << 6;
inline constexpr uint32_t kOpcodeTmpFile = 51;             // body and reply of CREATE
inline constexpr uint32_t kOpcodeStatx = 52;                // body begins as GETATTR's
inline constexpr int32_t kNotifyEpoch = 8;                  // FUSE_NOTIFY_INC_EPOCH
inline constexpr uint32_t kExpireOnly = 1u << 0;

struct NotifyInode {
  fuse_out_header header;
  fuse_notify_inval_inode_out body;
};
static_assert(sizeof(NotifyInode) == 40);

// libfuse keeps a larger struct in its own headers; this is what is on the wire.
struct NotifyEntryBody {
  uint64_t parent;
  uint32_t name_length;
  uint32_t flags;
};
struct NotifyEntry {
  fuse_out_header header;
  NotifyEntryBody body;  // followed by the name and a NUL
};
static_assert(sizeof(NotifyEntry) == 32);

// The answer to STATX (Linux 6.6).
struct StatxTime {
  int64_t seconds;
  uint32_t nanoseconds;
  int32_t reserved;
};
struct StatxOut {
  uint64_t attr_valid;
  uint32_t attr_valid_nanoseconds;
  uint32_t flags;
  uint64_t spare[2];
  uint32_t mask;
  uint32_t block_size;
  uint64_t attributes;
  uint32_t nlink;
  uint32_t uid;
  uint32_t gid;
  uint16_t mode;
  uint16_t spare0;
  uint64_t inode;
  uint64_t size;
  uint64_t blocks;
  uint64_t attributes_mask;
  StatxTime atime, btime, ctime, mtime;
  uint32_t rdev_major, rdev_minor;
  uint32_t dev_major, dev_minor;
  uint64_t spare2[14];
};
static_assert(sizeof(StatxOut) == 288);

}  // namespace holdfast::fs::fuse
