// FuseKernel: the Kernel seam on /dev/fuse: notifications are written raw, from threads of their own; the epoch, which
// takes no lock, from the reactor. libfuse 3.14 has no call for the epoch, and with -o noepoch it is hidden so that
// the rules for older kernels can be tested.
#pragma once

#include <memory>
#include <string>
#include <sys/types.h>

#include "base/kernel.h"
#include "fs/fuse/notify_threads.h"

namespace holdfast::fs::fuse {

class FuseKernel : public Kernel {
 public:
  struct Where {
    int fd = -1;             // /dev/fuse of this mount, kept open by the owner
    std::string directory;   // where it is mounted
    std::string device;      // of the mount, "0:53"; empty: sizes cannot be asked for
    bool hide_epoch = false;  // -o noepoch
  };
  explicit FuseKernel(Where where);
  ~FuseKernel() override;

  // Asks the kernel once, after INIT, whether it knows the epoch (kernels from 6.16).
  void ProbeEpoch();
  bool has_epoch() const override { return epoch_; }
  Task<Status> InvalidateInode(KernelInode inode, int64_t offset, int64_t length) override;
  Task<Status> DropEntries(KernelInode parent, std::vector<KernelEntryDrop> names) override;
  Status Epoch() override;
  // A thread opens the inode by its handle in our own mount and calls statx(2) on it.
  Task<Result<SizeSeen>> AskSize(KernelInode inode, uint32_t generation) override;
  // Is a request of this thread AskSize's?
  bool Asks(pid_t thread) const;
  // The connection is gone: what is asked from now on has been done by that.
  void Disconnected() { gone_ = true; }

 private:
  struct Askers;

  Where where_;
  bool epoch_ = false;
  bool gone_ = false;
  std::shared_ptr<Askers> askers_;
  NotifyThreads threads_;
};

// One raw notification; 0 or a negative errno. Also used by the supervisor.
int WriteNotifyInode(int fd, KernelInode inode, int64_t offset, int64_t length);
int WriteNotifyEntry(int fd, KernelInode parent, const std::string& name, bool expire_only);
int WriteNotifyEpoch(int fd);

}  // namespace holdfast::fs::fuse
