// What the operations of vfs.h take and return: plain values, free of FUSE and of the on-disk format.
// An inode is named by its kernel node id: generation (16 bits) << 48 | block number; the root is 1. Every number that
// comes from outside is validated as hostile input: kStale when it names nothing that exists now.
// `acquisition` = LockGuard::acquisition() of the inode lock under which a value was read: as long as
// LockTable::Valid(inode, acquisition) holds, the value may be cached without limit.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/ids.h"
#include "base/kernel.h"
#include "fs/interrupt.h"
#include "fs/lock_mode.h"

namespace holdfast::fs {

inline constexpr KernelInode kRootNode = 1;
inline constexpr size_t kNameMax = 255;             // bytes
inline constexpr size_t kSymlinkMax = 4095;         // bytes
inline constexpr size_t kXattrValueMax = 64 * 1024;  // bytes
inline constexpr uint64_t kFileSizeMax = (uint64_t{1} << 63) - 1;
inline constexpr uint32_t kLinkMax = 0x7fffffff;

// st_mode's format bits and d_type (they are the same numbers, shifted by 12).
enum class FileType : uint8_t {
  kUnknown = 0, kFifo = 1, kCharDevice = 2, kDirectory = 4, kBlockDevice = 6, kRegular = 8, kSymlink = 10, kSocket = 12,
};
constexpr FileType TypeOfMode(uint32_t mode) { return static_cast<FileType>((mode >> 12) & 15); }

struct Attr {
  KernelInode node = 0;
  InodeNo number;           // st_ino
  uint32_t generation = 0;  // all 32 bits, for NFS handles
  uint32_t mode = 0;        // with the format bits
  uint32_t nlink = 0;
  uint32_t uid = 0;
  uint32_t gid = 0;
  uint64_t rdev = 0;        // (major << 32) | minor
  uint64_t size = 0;
  uint64_t blocks = 0;      // in units of 512 bytes, dirty data included
  WallTime atime, mtime, ctime, btime;
  uint64_t change = 0;      // grows with every change
  uint32_t project = 0;
  uint32_t flags = 0;
  uint64_t acquisition = 0;

  FileType type() const { return TypeOfMode(mode); }
};

// The answer to a name: an inode, or the certainty that there is none (node 0).
struct Entry {
  Attr attr;
  uint64_t parent_acquisition = 0;
  bool found() const { return attr.node != 0; }
};

// Who asks. Permissions are the kernel's; this is for new inodes and for the setgid rules.
struct Caller {
  uint32_t uid = 0;
  uint32_t gid = 0;
  uint32_t umask = 0;  // applied unless a default ACL of the directory takes its place
  Interrupt* interrupt = nullptr;  // interrupt.h
};

enum SetAttrField : uint32_t {
  kSetMode = 1, kSetUid = 2, kSetGid = 4, kSetSize = 8, kSetAtime = 16, kSetMtime = 32, kSetCtime = 64,
  kSetAtimeNow = 128, kSetMtimeNow = 256, kSetFlags = 512, kSetProject = 1024,
};
struct SetAttr {
  uint32_t which = 0;  // of SetAttrField
  uint32_t mode = 0;   // permission bits alone count
  uint32_t uid = 0;
  uint32_t gid = 0;
  uint64_t size = 0;
  WallTime atime, mtime, ctime;
  uint32_t flags = 0;
  uint32_t project = 0;
  bool kill_privileges = false;  // FATTR_KILL_SUIDGID
  // Of nothing at all (chown to -1, -1; the kernel's file_remove_privs): who asks. Others than root and the owner change nothing.
  uint32_t caller = 0;
};

enum RenameFlag : uint32_t { kRenameNoReplace = 1, kRenameExchange = 2, kRenameWhiteout = 4 };  // as renameat2

// What became of a rename: nodes whose cached attributes changed, and both parents.
struct RenameResult {
  Attr moved;           // the inode that now has the new name
  KernelInode replaced = 0;   // the inode whose name was overwritten (or exchanged), 0 if none
  bool replaced_gone = false;  // ... and it has no links left
  uint64_t old_parent_acquisition = 0;
  uint64_t new_parent_acquisition = 0;
};

struct RemoveResult {
  KernelInode node = 0;  // whose name was removed
  uint32_t nlink = 0;
  uint64_t parent_acquisition = 0;
};

struct OpenOptions {
  bool write = false;
  bool truncate = false;         // O_TRUNC
  bool kill_privileges = false;  // FUSE_OPEN_KILL_SUIDGID
  Interrupt* interrupt = nullptr;
};
struct OpenResult {
  Attr attr;
  LockMode mode = LockMode::kNone;  // under which the open ended: EX = a cached writable handle is safe (rule 5)
};

struct ReadOptions {
  LockMode mode = LockMode::kPr;  // kEx: while a cached writable handle exists here
  bool page_io = false;           // the kernel's page cache asks (LockOptions.page_io and page_read)
  Interrupt* interrupt = nullptr;
};
struct ReadResult {
  size_t bytes = 0;        // less than asked for only at the end of the file
  uint64_t file_size = 0;  // when it was read
  LockMode mode = LockMode::kNone;
  uint64_t acquisition = 0;
};

struct WriteOptions {
  bool append = false;           // at our own end of file, whatever the offset (rule 4)
  bool page_io = false;          // a page of the kernel: clipped to the size, never appended
  bool kill_privileges = false;  // clear suid, and sgid of a group-executable file
  bool sync = false;             // O_SYNC, O_DSYNC: durable before the answer
  Interrupt* interrupt = nullptr;
  // Keeps the bytes alive, which nobody changes after the call: whole pages of a large write are kept where they are.
  std::shared_ptr<void> memory;
};
struct WriteResult {
  size_t bytes = 0;
  uint64_t offset = 0;  // where it really went
  uint64_t file_size = 0;
  uint64_t acquisition = 0;
};

struct DirEntry {
  std::string name;
  KernelInode node = 0;
  InodeNo number;
  FileType type = FileType::kUnknown;
  uint64_t cookie = 0;     // reading after it continues with the next name; stable for the entry's life
  bool has_attr = false;   // readdirplus got the inode's lock without waiting
  Attr attr;
};
struct DirPage {
  std::vector<DirEntry> entries;  // "." and ".." first when asked from cookie 0
  bool end = false;
  uint64_t parent_acquisition = 0;
};
struct ReadDirOptions {
  uint64_t cookie = 0;            // 0: from the start; else the cookie of the last entry seen
  size_t bytes_max = 64 * 1024;   // of names, counting 24 bytes (plus: 152) per entry as FUSE does
  bool plus = false;
  Interrupt* interrupt = nullptr;
};

enum FallocateFlag : uint32_t {
  kFallocKeepSize = 1, kFallocPunchHole = 2, kFallocZeroRange = 0x10,  // as fallocate(2)
  kFallocKillPrivileges = 1u << 31,  // ours: the caller may not keep set-id bits
};

enum class XattrMode : uint8_t { kSet, kCreate, kReplace };

struct StatFs {
  uint64_t blocks = 0;  // of kBlockSize
  uint64_t free = 0;
  uint64_t available = 0;
  uint64_t files = 0;   // an upper bound: inodes are made from free blocks
  uint64_t files_free = 0;
  uint64_t id = 0;
};

}  // namespace holdfast::fs
