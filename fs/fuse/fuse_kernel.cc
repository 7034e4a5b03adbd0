#include "fs/fuse/fuse_kernel.h"

#include <cerrno>
#include <memory>

#include "base/log.h"
#include "base/sync.h"

namespace holdfast::fs::fuse {
namespace {

struct Answer {
  int error = 0;
  Completion<bool> done;
};

Status FromErrno(int error) {
  // ENODEV, ENOTCONN: unmounted or aborted; the kernel caches nothing of ours any more.
  if (error == 0 || error == -ENODEV || error == -ENOTCONN || error == -EBADF) return Status();
  if (error == -ENOENT) return Errc::kNotFound;
  if (error == -ENOTDIR || error == -ENOTEMPTY || error == -EBUSY) return Status();
  return Error(Errc::kIo, "FUSE notification failed, errno " + std::to_string(-error));
}

}  // namespace

FuseKernel::FuseKernel(int fd, bool hide_epoch) : fd_(fd), hide_epoch_(hide_epoch), threads_(512, fd) {}

void FuseKernel::ProbeEpoch() {
  epoch_ = !hide_epoch_ && WriteNotifyEpoch(fd_) == 0;
  HF_LOG(LogLevel::kDebug, "fuse", "epoch", {{"usable", epoch_}});
}

Task<Status> FuseKernel::InvalidateInode(KernelInode inode, int64_t offset, int64_t length) {
  if (gone_) co_return Status();
  auto answer = std::make_shared<Answer>();
  int fd = fd_;
  threads_.Run([answer, fd, inode, offset, length] { answer->error = WriteNotifyInode(fd, inode, offset, length); },
               [answer] { answer->done.Set(true); });
  co_await answer->done;
  co_return FromErrno(answer->error);
}

Task<Status> FuseKernel::DropEntries(KernelInode parent, std::vector<KernelEntryDrop> names) {
  if (gone_) co_return Status();
  auto answer = std::make_shared<Answer>();
  int fd = fd_;
  threads_.Run(
      [answer, fd, parent, names = std::move(names)] {
        for (const KernelEntryDrop& drop : names) {
          int error = WriteNotifyEntry(fd, parent, drop.name, drop.expire_only);
          if (error != 0 && error != -ENOENT) answer->error = error;  // unknown names are what we want
        }
      },
      [answer] { answer->done.Set(true); });
  co_await answer->done;
  co_return FromErrno(answer->error);
}

Status FuseKernel::Epoch() {
  if (!epoch_) return Errc::kUnsupported;
  return gone_ ? Status() : FromErrno(WriteNotifyEpoch(fd_));
}

}  // namespace holdfast::fs::fuse
