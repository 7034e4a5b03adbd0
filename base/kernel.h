// Kernel: what a mount tells the operating system's cache of its filesystem: invalidations and the epoch. Replies to
// requests are not here: they are the return values of vfs operations. A kernel inode is named by its FUSE node id
// (generation16 << 48 | block; the root is 1).
// Measured facts that callers must know (filesystem.md, "The kernel's side"): everything but Epoch may wait for locks
// that the kernel holds for a request which the caller holds back, so it runs in the pool and the caller must be
// able to go on without its answer.
// Production: fs/fuse/fuse_kernel.h; tests and the simulator model it (tests/fs/model_kernel.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/task.h"

namespace holdfast {

using KernelInode = uint64_t;  // FUSE node id

struct KernelEntryDrop {
  std::string name;
  bool expire_only = false;  // a directory: never detach what users mounted below it
};

class Kernel {
 public:
  virtual ~Kernel() = default;

  // Whether Epoch works (kernels from 6.16, unless hidden by -o noepoch).
  virtual bool has_epoch() const = 0;

  // Attributes and the pages of [offset, offset + length); length 0: to the end; offset < 0: attributes alone.
  // Waits for locked pages. Error kNotFound: the kernel has no such inode, or a reply that creates it is under way.
  virtual Task<Status> InvalidateInode(KernelInode inode, int64_t offset, int64_t length) = 0;

  // Names and absent names of a directory. Waits for its i_rwsem. Names that the kernel does not know are no error.
  virtual Task<Status> DropEntries(KernelInode parent, std::vector<KernelEntryDrop> names) = 0;

  // Makes every name of the mount ask again. Takes no lock, never waits. Error kUnsupported where there is none.
  virtual Status Epoch() = 0;

  // A file's size in the kernel, after the kernel was made to ask for it anew: a GETATTR comes in while this runs, marked as
  // ours (fs/kernel_requests.h, KernelReply::own). Takes no lock of the kernel. kUnsupported, kNotFound: it cannot be asked.
  struct SizeSeen {
    uint64_t asked = 0;     // what that GETATTR was told
    uint64_t believed = 0;  // i_size now: another one when an invalidation or the end of a write overtook the answer
  };
  virtual Task<Result<SizeSeen>> AskSize(KernelInode inode, uint32_t generation) = 0;
};

}  // namespace holdfast
