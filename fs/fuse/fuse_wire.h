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

}  // namespace holdfast::fs::fuse
