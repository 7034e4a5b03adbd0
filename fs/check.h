// Check: is a volume consistent? Reads every structure and every reference between them: superblock copies, journals
// (headers, orphan lists, claims), groups and bitmaps against all reachable blocks, inodes, their trees, directories
// (order, hashes, types, link counts), xattrs. The volume must not be in use; dirty journals are replayed before
// (ReplayJournal) or looked through: an overlay of their images shows the volume as it would be after replay.
// Repairs only what cannot lose anything: see RepairKind. The program is tools/fsck_main.cc.
// Threading: one executor. Memory: 2 bits per block of groups in use, about 64 bytes per inode.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/block_device.h"
#include "base/result.h"
#include "fs/superblock.h"

namespace holdfast::fs {

enum class RepairKind : uint8_t {
  kNone,      // nothing that this program repairs
  kSuper,     // superblock copies written anew
  kJournal,   // the bad one of a journal header's copies written anew
  kOrphan,    // an inode without names on an orphan list: freed
  kClaims,    // claims of a mount that is gone: returned
  kBitmap,    // blocks that nothing uses, counts of a group
  kLinks,     // a link count
};

struct Finding {
  enum class Level : uint8_t {
    kNote,   // legal after a crash: the next mount would tidy it up
    kError,
  };
  Level level = Level::kError;
  RepairKind repair = RepairKind::kNone;
  std::string code;   // "bitmap-leak", "nlink", ...
  std::string text;   // one line for a person
  uint64_t block = 0;
  uint64_t inode = 0;
  uint64_t count = 1; // findings of this kind that it stands for
  bool repaired = false;
};

struct CheckCounts {
  uint64_t inodes = 0, directories = 0, files = 0, names = 0, orphans = 0, claims = 0;
  uint64_t data_blocks = 0, meta_blocks = 0, free_blocks = 0, meta_free_blocks = 0, total_blocks = 0;
};

struct CheckOptions {
  bool repair_safe = false;  // notes: orphans, claims, header copies
  bool repair_all = false;   // and errors that have a RepairKind
  size_t findings_max = 200; // kept in full; more are counted
  std::function<void(uint64_t done, uint64_t total)> progress;
};

struct CheckReport {
  Superblock super;
  std::vector<Finding> findings;
  uint64_t errors = 0, notes = 0, repaired = 0;
  std::vector<uint32_t> dirty_journals;  // looked through, not replayed
  CheckCounts counts;
  bool clean() const { return errors == 0; }
};

// Errors: kNotFound (no volume), kCorrupt (no superblock or geometry to go by), kIo, kUnsupported.
Task<Result<CheckReport>> CheckVolume(BlockDevice& device, CheckOptions options);

}  // namespace holdfast::fs
