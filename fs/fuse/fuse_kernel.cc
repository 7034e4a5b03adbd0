#include "fs/fuse/fuse_kernel.h"

#include <cerrno>
#include <fcntl.h>
#include <memory>
#include <mutex>
#include <set>
#include <sys/stat.h>
#include <unistd.h>

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

// An open descriptor of an inode in our own mount, by the handle that the kernel's FUSE makes (fuse_encode_fh). No path is
// walked but the one to the mount, nothing is looked up; OPENDIR of the root is answered by libfuse. -1: errno.
int OpenInode(const std::string& directory, const std::string& device, KernelInode inode, uint32_t generation) {
  constexpr int kInode64AndGeneration = 0x81;  // FILEID_INO64_GEN
  struct {
    file_handle head;
    uint32_t words[3];
  } handle{};
  handle.head.handle_bytes = sizeof(handle.words);
  handle.head.handle_type = kInode64AndGeneration;
  handle.words[0] = static_cast<uint32_t>(inode >> 32);
  handle.words[1] = static_cast<uint32_t>(inode);
  handle.words[2] = generation;
  int top = open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);  // one of O_PATH does not count as a mount's
  if (top < 0) return -1;
  struct statx st{};
  int fd = -1;
  // Something else may be mounted there by now.
  if (statx(top, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &st) == 0 &&
      std::to_string(st.stx_dev_major) + ":" + std::to_string(st.stx_dev_minor) == device) {
    fd = open_by_handle_at(top, &handle.head, O_PATH | O_CLOEXEC);
  } else {
    errno = ENOENT;
  }
  int error = errno;
  close(top);
  errno = error;
  return fd;
}

}  // namespace

struct FuseKernel::Askers {
  mutable std::mutex mutex;
  std::set<pid_t> threads;

  // Returns an errno.
  int Ask(const Where& where, KernelInode inode, uint32_t generation, SizeSeen* seen) {
    int fd = OpenInode(where.directory, where.device, inode, generation);
    if (fd < 0) return errno;
    pid_t self = gettid();
    {
      std::lock_guard<std::mutex> hold(mutex);
      threads.insert(self);
    }
    struct statx st{};
    int error = statx(fd, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_SIZE, &st) == 0 ? 0 : errno;
    seen->asked = st.stx_size;
    {
      std::lock_guard<std::mutex> hold(mutex);
      threads.erase(self);
    }
    if (error == 0 && statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_SIZE, &st) != 0) error = errno;
    seen->believed = st.stx_size;
    close(fd);
    return error;
  }
};

FuseKernel::~FuseKernel() = default;

bool FuseKernel::Asks(pid_t thread) const {
  std::lock_guard<std::mutex> hold(askers_->mutex);
  return askers_->threads.contains(thread);
}

Task<Result<Kernel::SizeSeen>> FuseKernel::AskSize(KernelInode inode, uint32_t generation) {
  if (gone_ || where_.device.empty()) co_return Errc::kUnsupported;
  struct SizeAnswer {
    SizeSeen seen;
    int error = 0;
    Completion<bool> done;
  };
  auto answer = std::make_shared<SizeAnswer>();
  auto askers = askers_;
  Where where = where_;
  threads_.Run([answer, askers, where, inode, generation] { answer->error = askers->Ask(where, inode, generation, &answer->seen); },
               [answer] { answer->done.Set(true); });
  co_await answer->done;
  if (answer->error == 0) co_return answer->seen;
  co_return Error(Errc::kUnsupported, "the kernel cannot be asked for a size, errno " + std::to_string(answer->error));
}

FuseKernel::FuseKernel(Where where) : where_(std::move(where)), askers_(std::make_shared<Askers>()), threads_(512, where_.fd) {}

void FuseKernel::ProbeEpoch() {
  epoch_ = !where_.hide_epoch && WriteNotifyEpoch(where_.fd) == 0;
  HF_LOG(LogLevel::kDebug, "fuse", "epoch", {{"usable", epoch_}});
}

Task<Status> FuseKernel::InvalidateInode(KernelInode inode, int64_t offset, int64_t length) {
  if (gone_) co_return Status();
  auto answer = std::make_shared<Answer>();
  int fd = where_.fd;
  threads_.Run([answer, fd, inode, offset, length] { answer->error = WriteNotifyInode(fd, inode, offset, length); },
               [answer] { answer->done.Set(true); });
  co_await answer->done;
  co_return FromErrno(answer->error);
}

Task<Status> FuseKernel::DropEntries(KernelInode parent, std::vector<KernelEntryDrop> names) {
  if (gone_) co_return Status();
  auto answer = std::make_shared<Answer>();
  int fd = where_.fd;
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
  return gone_ ? Status() : FromErrno(WriteNotifyEpoch(where_.fd));
}

}  // namespace holdfast::fs::fuse
