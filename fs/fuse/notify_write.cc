// The raw notification messages (fuse_wire.h), shared by the mount and its supervisor.
#include <cerrno>
#include <sys/uio.h>
#include <unistd.h>

#include "fs/fuse/fuse_kernel.h"
#include "fs/fuse/fuse_wire.h"

namespace holdfast::fs::fuse {

int WriteNotifyInode(int fd, KernelInode inode, int64_t offset, int64_t length) {
  NotifyInode message{};
  message.header.len = sizeof(message);
  message.header.error = FUSE_NOTIFY_INVAL_INODE;
  message.body.ino = inode;
  message.body.off = offset;
  message.body.len = length;
  ssize_t n;
  do {
    n = write(fd, &message, sizeof(message));
  } while (n < 0 && errno == EINTR);
  return n < 0 ? -errno : 0;
}

int WriteNotifyEntry(int fd, KernelInode parent, const std::string& name, bool expire_only) {
  NotifyEntry message{};
  message.header.len = sizeof(message) + name.size() + 1;
  message.header.error = FUSE_NOTIFY_INVAL_ENTRY;
  message.body.parent = parent;
  message.body.name_length = name.size();
  message.body.flags = expire_only ? kExpireOnly : 0;
  iovec parts[2] = {{&message, sizeof(message)}, {const_cast<char*>(name.c_str()), name.size() + 1}};
  ssize_t n;
  do {
    n = writev(fd, parts, 2);
  } while (n < 0 && errno == EINTR);
  return n < 0 ? -errno : 0;
}

int WriteNotifyEpoch(int fd) {
  fuse_out_header header{};
  header.len = sizeof(header);
  header.error = kNotifyEpoch;
  ssize_t n;
  do {
    n = write(fd, &header, sizeof(header));
  } while (n < 0 && errno == EINTR);
  return n < 0 ? -errno : 0;
}

}  // namespace holdfast::fs::fuse
