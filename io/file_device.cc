#include "io/file_device.h"

#include <fcntl.h>
#include <libaio.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "base/check.h"

namespace holdfast::io {

struct FileDevice::Aio {
  io_context_t context = nullptr;
  int event_fd = -1;
  ~Aio() {
    if (context != nullptr) io_destroy(context);  // waits for what the kernel still has
    if (event_fd >= 0) close(event_fd);
  }
};

struct FileDevice::Op {
  iocb control{};
  int opcode = 0;  // IO_CMD_PREAD, IO_CMD_PWRITE, IO_CMD_FDSYNC
  uint64_t offset = 0;
  std::byte* data = nullptr;
  size_t length = 0;
  bool fua = false;
  Completion<int64_t>* done = nullptr;  // bytes, or a negative errno
};

namespace {

Error FromErrno(int e, const std::string& what) {
  Errc code = Errc::kIo;
  switch (e) {
    case ENOENT: code = Errc::kNotFound; break;
    case EACCES:
    case EPERM: code = Errc::kPermission; break;
    case ENOSPC:
    case EDQUOT: code = Errc::kNoSpace; break;
    case EBADE: code = Errc::kConflict; break;
    case ENODEV:
    case ENXIO:
    case ENOLINK: code = Errc::kDisconnected; break;
    case EINVAL: code = Errc::kInvalid; break;
    case EOPNOTSUPP:
    case ENOTTY: code = Errc::kUnsupported; break;
    case EROFS: code = Errc::kReadOnly; break;
    case EBUSY: code = Errc::kBusy; break;
    default: break;
  }
  return Error(code, what + ": " + std::strerror(e));
}

// /sys says "write through" where completed writes are durable.
bool HasVolatileCache(dev_t device) {
  std::string base = "/sys/dev/block/" + std::to_string(major(device)) + ":" + std::to_string(minor(device));
  for (const char* below : {"/queue/write_cache", "/../queue/write_cache"}) {
    std::ifstream file(base + below);
    std::string line;
    if (std::getline(file, line)) return line != "write through";
  }
  return true;
}

int FcntlByte(int fd, int command, short type, uint64_t index, struct flock* out) {
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = static_cast<off_t>(kLockByteBase + index);
  lock.l_len = 1;
  int rc = fcntl(fd, command, &lock);
  if (out != nullptr) *out = lock;
  return rc;
}

}  // namespace

// ---- opening ----

Result<std::unique_ptr<FileDevice>> FileDevice::Open(Reactor* reactor, Pool* pool, std::string path,
                                                     FileDeviceOptions options) {
  std::unique_ptr<FileDevice> device(new FileDevice());
  device->reactor_ = reactor;
  device->pool_ = pool;
  device->options_ = options;
  int flags = (options.read_only ? O_RDONLY : O_RDWR) | O_DIRECT | O_CLOEXEC | O_NONBLOCK;
  struct stat st {};
  device->fd_ = open(path.c_str(), flags);
  if (device->fd_ < 0) {
    if (errno != EINVAL && errno != EISDIR) return FromErrno(errno, path);
    if (stat(path.c_str(), &st) == 0 && S_ISREG(st.st_mode))
      return Error(Errc::kUnsupported, path + ": this filesystem has no O_DIRECT");
    return Error(Errc::kInvalid, path + " is neither a file nor a block device");
  }
  if (fstat(device->fd_, &st) != 0) return FromErrno(errno, path);
  uint64_t size = 0;
  if (S_ISBLK(st.st_mode)) {
    device->block_device_ = true;
    if (ioctl(device->fd_, BLKGETSIZE64, &size) != 0) return FromErrno(errno, path);
  } else if (S_ISREG(st.st_mode)) {
    size = static_cast<uint64_t>(st.st_size);
  } else {
    return Error(Errc::kInvalid, path + " is neither a file nor a block device");
  }
  if (size < kBlockSize) return Error(Errc::kInvalid, path + " is empty");
  device->info_.name = std::move(path);
  device->info_.size_bytes = size / kBlockSize * kBlockSize;
  device->info_.volatile_cache = !device->block_device_ || HasVolatileCache(st.st_rdev);
  device->info_.discard = !options.read_only;
  device->info_.read_only = options.read_only;
  device->info_.local_file = !device->block_device_;

  device->aio_ = std::make_unique<Aio>();
  if (int rc = io_setup(static_cast<int>(options.in_flight_max), &device->aio_->context); rc < 0)
    return Error(Errc::kExhausted, std::string("io_setup (fs.aio-max-nr): ") + std::strerror(-rc));
  device->aio_->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (device->aio_->event_fd < 0) return FromErrno(errno, "eventfd");
  Status watched =
      reactor->Watch(device->aio_->event_fd, EPOLLIN, [d = device.get()](uint32_t) { d->OnCompletions(); });
  if (!watched.ok()) return watched.error();
  return device;
}

FileDevice::~FileDevice() {
  *alive_ = false;
  HF_CHECK(running_ == 0, "%s is destroyed with %zu requests running", info_.name.c_str(), running_);
  if (aio_ && aio_->event_fd >= 0) reactor_->Unwatch(aio_->event_fd);
  if (fd_ >= 0) close(fd_);
}

Task<void> FileDevice::Close() {
  closing_ = true;
  while (running_ > 0) co_await idle_.Wait();
  if (fd_ >= 0) close(std::exchange(fd_, -1));
}

// ---- requests ----

Task<Status> FileDevice::Read(uint64_t offset, std::span<std::byte> out) {
  Op op;
  op.opcode = IO_CMD_PREAD;
  op.offset = offset;
  op.data = out.data();
  op.length = out.size();
  auto status = co_await Run(&op);
  co_return status;
}

Task<Status> FileDevice::Write(uint64_t offset, std::span<const std::byte> in, WriteFlags flags) {
  if (info_.read_only) co_return Error(Errc::kReadOnly, info_.name + " was opened read-only");
  Op op;
  op.opcode = IO_CMD_PWRITE;
  op.offset = offset;
  op.data = const_cast<std::byte*>(in.data());
  op.length = in.size();
  op.fua = flags == WriteFlags::kFua;
  auto status = co_await Run(&op);
  co_return status;
}

Task<Status> FileDevice::Flush() {
  Op op;
  op.opcode = IO_CMD_FDSYNC;
  auto status = co_await Run(&op);
  co_return status;
}

Task<Status> FileDevice::Discard(uint64_t offset, uint64_t length) {
  if (closing_) co_return Errc::kCancelled;
  if (info_.read_only) co_return Error(Errc::kReadOnly, info_.name + " was opened read-only");
  if (offset % kBlockSize != 0 || length % kBlockSize != 0 || length > info_.size_bytes ||
      offset > info_.size_bytes - length)
    co_return Error(Errc::kInvalid, "misaligned or out of range");
  ++running_;
  int fd = fd_;
  bool block = block_device_;
  auto rc = co_await pool_->Run<int>([=] {
    uint64_t range[2] = {offset, length};
    int r = block ? ioctl(fd, BLKDISCARD, range)
                  : fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                              static_cast<off_t>(length));
    return r == 0 ? 0 : errno;
  });
  if (--running_ == 0) idle_.WakeAll();
  if (rc == 0) co_return Status();
  co_return FromErrno(rc, info_.name + ": discard");
}

Task<Status> FileDevice::Run(Op* op) {
  if (closing_) co_return Errc::kCancelled;
  bool aligned = op->offset % kBlockSize == 0 && op->length % kBlockSize == 0 &&
                 reinterpret_cast<uintptr_t>(op->data) % kBlockSize == 0;
  if (!aligned || op->length > info_.size_bytes || op->offset > info_.size_bytes - op->length)
    co_return Error(Errc::kInvalid, "misaligned or out of range");
  ++running_;
  Status status;
  bool sync = op->opcode == IO_CMD_FDSYNC;
  while (sync || op->length > 0) {
    auto done = co_await Once(op);
    if (done < 0) {
      status = FromErrno(static_cast<int>(-done), info_.name);
      break;
    }
    if (sync) break;
    if (done == 0 || done % static_cast<int64_t>(kBlockSize) != 0) {
      status = Error(Errc::kIo, info_.name + " has become shorter");
      break;
    }
    op->offset += static_cast<uint64_t>(done);
    op->data += done;
    op->length -= static_cast<size_t>(done);
  }
  if (--running_ == 0) idle_.WakeAll();
  co_return status;
}

Task<int64_t> FileDevice::Once(Op* op) {
  Completion<int64_t> first;
  op->done = &first;
  Enqueue(op);
  auto result = co_await first;
  if (result == -EAGAIN) {
    auto slow = co_await InPool(op->opcode, op->offset, op->data, op->length, op->fua);
    co_return slow;
  }
  if (result == -EOPNOTSUPP && nowait_ && op->opcode != IO_CMD_FDSYNC) {
    nowait_ = false;
    Completion<int64_t> second;
    op->done = &second;
    Enqueue(op);
    auto again = co_await second;
    co_return again;
  }
  co_return result;
}

Task<int64_t> FileDevice::InPool(int opcode, uint64_t offset, void* data, size_t length, bool fua) {
  int fd = fd_;
  auto result = co_await pool_->Run<int64_t>([=]() -> int64_t {
    iovec vector{data, length};
    for (;;) {
      ssize_t n = opcode == IO_CMD_PREAD    ? preadv2(fd, &vector, 1, static_cast<off_t>(offset), 0)
                  : opcode == IO_CMD_PWRITE ? pwritev2(fd, &vector, 1, static_cast<off_t>(offset), fua ? RWF_DSYNC : 0)
                                            : fdatasync(fd);
      if (n >= 0) return n;
      if (errno != EINTR) return -errno;
    }
  });
  co_return result;
}

void FileDevice::Enqueue(Op* op) {
  queued_.push_back(op);
  if (submit_posted_) return;
  submit_posted_ = true;
  reactor_->Post([this, alive = alive_] {
    if (*alive) SubmitQueued();
  });
}

void FileDevice::SubmitQueued() {
  submit_posted_ = false;
  std::vector<iocb*> batch;
  std::vector<Op*> ops;
  while (!queued_.empty() && in_kernel_ + batch.size() < options_.in_flight_max) {
    Op* op = queued_.front();
    queued_.pop_front();
    iocb& control = op->control;
    control = iocb{};
    control.data = op;
    control.aio_fildes = fd_;
    control.aio_lio_opcode = static_cast<short>(op->opcode);
    control.u.c.buf = op->data;
    control.u.c.nbytes = op->length;
    control.u.c.offset = static_cast<long long>(op->offset);
    if (op->opcode != IO_CMD_FDSYNC)
      control.aio_rw_flags = (nowait_ ? RWF_NOWAIT : 0) | (op->fua ? RWF_DSYNC : 0);
    io_set_eventfd(&control, aio_->event_fd);
    batch.push_back(&control);
    ops.push_back(op);
  }
  // The kernel refuses one request at a time: the first of what is left.
  for (size_t at = 0; at < batch.size();) {
    int rc = io_submit(aio_->context, static_cast<long>(batch.size() - at), batch.data() + at);
    if (rc > 0) {
      in_kernel_ += static_cast<unsigned>(rc);
      at += static_cast<size_t>(rc);
    } else {
      ops[at]->done->Set(rc == 0 ? -EAGAIN : rc);
      ++at;
    }
  }
}

void FileDevice::OnCompletions() {
  uint64_t count;
  (void)!read(aio_->event_fd, &count, sizeof count);
  io_event events[64];
  for (;;) {
    timespec none{};
    int n = io_getevents(aio_->context, 0, 64, events, &none);
    for (int i = 0; i < n; ++i) {
      --in_kernel_;
      static_cast<Op*>(events[i].data)->done->Set(static_cast<int64_t>(events[i].res));
    }
    if (n < 64) break;
  }
  if (!queued_.empty() && !submit_posted_) SubmitQueued();
}

// ---- byte locks ----

Status LockByteOf(int fd, uint64_t index) {
  if (FcntlByte(fd, F_OFD_SETLK, F_WRLCK, index, nullptr) == 0) return {};
  if (errno == EAGAIN || errno == EACCES)
    return Error(Errc::kBusy, "byte " + std::to_string(index) + " of the volume is locked");
  return FromErrno(errno, "byte lock");
}

Status UnlockByteOf(int fd, uint64_t index) {
  if (FcntlByte(fd, F_OFD_SETLK, F_UNLCK, index, nullptr) == 0) return {};
  return FromErrno(errno, "byte unlock");
}

Result<bool> TestByteOf(int fd, uint64_t index) {
  struct flock found {};
  if (FcntlByte(fd, F_OFD_GETLK, F_WRLCK, index, &found) != 0) return FromErrno(errno, "byte lock");
  return found.l_type != F_UNLCK;
}

Status FileDevice::LockByte(uint64_t index) { return LockByteOf(fd_, index); }
Status FileDevice::UnlockByte(uint64_t index) { return UnlockByteOf(fd_, index); }
Result<bool> FileDevice::TestByte(uint64_t index) const { return TestByteOf(fd_, index); }

}  // namespace holdfast::io
