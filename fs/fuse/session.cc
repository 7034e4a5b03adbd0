#include "fs/fuse/session.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/mount.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/check.h"
#include "base/log.h"
#include "fs/fuse/fuse_wire.h"

namespace holdfast::fs::fuse {
namespace {

constexpr size_t kRequestsPerTurn = 64;     // then completions and timers get their turn
constexpr size_t kFreeBuffersMax = 64;      // 1 MiB each
constexpr size_t kPage = 4096;
constexpr size_t kWriteHead = sizeof(fuse_in_header) + sizeof(fuse_write_in);
constexpr size_t kRequestBytes = (1 << 20) + kPage;  // what libfuse reads at most

void* NewRequestMemory() {
  void* base = std::aligned_alloc(kPage, kPage + kRequestBytes);
  HF_CHECK(base != nullptr, "no memory for a request");
  return static_cast<char*>(base) + kPage - kWriteHead;
}
void FreeRequestMemory(void* memory) {
  if (memory) std::free(static_cast<char*>(memory) - (kPage - kWriteHead));
}

// libfuse hands custom_io no user data of ours (fuse_session_new's), so INIT is patched by what passes through here.
// One mount per process.
struct InitFlags {
  bool seen = false;
  bool answered = false;
  uint32_t offered = 0;
  uint32_t offered2 = 0;
} g_init;

}  // namespace

RequestBuffer::~RequestBuffer() {
  if (!memory_) return;
  if (pool_->size() < kFreeBuffersMax) {
    pool_->push_back(memory_);
  } else {
    FreeRequestMemory(memory_);
  }
}

ssize_t FuseSession::Read(int fd, void* buffer, size_t size, void*) {
  ssize_t n = read(fd, buffer, std::min(size, kRequestBytes));
  if (!g_init.seen && n >= static_cast<ssize_t>(sizeof(fuse_in_header) + 16)) {
    auto* header = static_cast<const fuse_in_header*>(buffer);
    if (header->opcode == FUSE_INIT) {
      const auto* words = reinterpret_cast<const uint32_t*>(static_cast<const char*>(buffer) + sizeof(fuse_in_header));
      g_init.seen = true;
      g_init.offered = words[3];
      bool ext = (words[3] & kInitExt) != 0 && n >= static_cast<ssize_t>(sizeof(fuse_in_header) + 20);
      g_init.offered2 = ext ? words[4] : 0;
    }
  }
  return n;
}

ssize_t FuseSession::WriteV(int fd, struct iovec* parts, int count, void*) {
  if (!g_init.answered && g_init.seen && count >= 2 && parts[1].iov_len >= 64) {
    g_init.answered = true;
    // fuse_init_out: major, minor, max_readahead, flags, background|congestion, max_write, gran, pages|align, flags2
    auto* words = static_cast<uint32_t*>(parts[1].iov_base);
    words[3] |= g_init.offered & kInitHandleKillprivV2;
    if ((g_init.offered2 & kInit2DirectIoAllowMmap) != 0) {
      words[3] |= kInitExt;
      words[8] |= kInit2DirectIoAllowMmap;
    }
    HF_LOG(LogLevel::kDebug, "fuse", "init",
           {{"killpriv_v2", (words[3] & kInitHandleKillprivV2) != 0},
            {"direct_mmap", (words[8] & kInit2DirectIoAllowMmap) != 0}});
  }
  return writev(fd, parts, count);
}

Result<std::unique_ptr<FuseSession>> FuseSession::Mount(SessionOptions options, const fuse_lowlevel_ops& ops, void* user) {
  std::unique_ptr<FuseSession> self(new FuseSession);
  self->options_ = options;
  std::string list = "default_permissions,allow_other,suid,dev,subtype=holdfast,fsname=" + options.source;
  if (!options.kernel_options.empty()) list += "," + options.kernel_options;
  std::string name = "mount.holdfast", o = "-o";
  char* argv[] = {name.data(), o.data(), list.data(), nullptr};
  fuse_args args = FUSE_ARGS_INIT(3, argv);
  self->session_ = fuse_session_new(&args, &ops, sizeof(ops), user);
  fuse_opt_free_args(&args);
  if (!self->session_) return Error(Errc::kInvalid, "libfuse refuses the mount options '" + list + "'");
  if (fuse_session_mount(self->session_, options.mountpoint.c_str()) != 0) {
    return Error(Errc::kIo, "cannot mount on " + options.mountpoint + ": " + std::strerror(errno));
  }
  self->original_fd_ = fuse_session_fd(self->session_);
  self->fd_ = fcntl(self->original_fd_, F_DUPFD_CLOEXEC, 3);
  fuse_custom_io io{};
  io.writev = &FuseSession::WriteV;
  io.read = &FuseSession::Read;
  if (self->fd_ < 0 || fuse_session_custom_io(self->session_, &io, self->fd_) != 0) {
    umount2(options.mountpoint.c_str(), MNT_DETACH);
    return Error(Errc::kUnsupported, "libfuse has no custom I/O; version 3.13 or newer is needed");
  }
  fcntl(self->fd_, F_SETFL, fcntl(self->fd_, F_GETFL) | O_NONBLOCK);
  return self;
}

FuseSession::~FuseSession() {
  Close();
  FreeRequestMemory(buffer_.mem);
  for (void* memory : free_buffers_) FreeRequestMemory(memory);
}

void FuseSession::Start(io::Reactor& reactor, std::function<void()> on_end) {
  reactor_ = &reactor;
  on_end_ = std::move(on_end);
  Status watched = reactor.Watch(fd_, EPOLLIN, [this](uint32_t) { OnReadable(); });
  HF_CHECK(watched.ok(), "/dev/fuse cannot be polled: %s", watched.error().ToString().c_str());
}

void FuseSession::Pause() {
  if (!paused_ && !ended_ && reactor_) reactor_->Rewatch(fd_, 0);
  paused_ = true;
}

void FuseSession::Resume() {
  if (paused_ && !ended_ && reactor_) reactor_->Rewatch(fd_, EPOLLIN);
  paused_ = false;
}

void FuseSession::OnReadable() {
  for (size_t i = 0; i < kRequestsPerTurn && !ended_ && !paused_; ++i) {
    if (!buffer_.mem && free_buffers_.empty()) buffer_.mem = NewRequestMemory();
    if (!buffer_.mem) {
      buffer_.mem = free_buffers_.back();
      free_buffers_.pop_back();
    }
    int got = fuse_session_receive_buf(session_, &buffer_);
    if (got == -EINTR || got == -ENOENT) continue;
    if (got == -EAGAIN) return;
    if (got <= 0) {
      ended_ = true;
      reactor_->Unwatch(fd_);
      if (on_end_) on_end_();
      return;
    }
    auto* header = static_cast<fuse_in_header*>(buffer_.mem);
    tmpfile_ = header->opcode == kOpcodeTmpFile;
    if (tmpfile_) header->opcode = FUSE_CREATE;
    statx_ = header->opcode == kOpcodeStatx;
    if (statx_) header->opcode = FUSE_GETATTR;
    fuse_session_process_buf(session_, &buffer_);
  }
}

RequestBuffer FuseSession::TakeBuffer() {
  void* memory = buffer_.mem;
  buffer_.mem = nullptr;
  return RequestBuffer(&free_buffers_, memory);
}

void FuseSession::Close() {
  if (!session_) return;
  if (reactor_ && !ended_) reactor_->Unwatch(fd_);
  ended_ = true;
  fuse_session_destroy(std::exchange(session_, nullptr));  // closes fd_
  fd_ = -1;
  if (original_fd_ >= 0) close(std::exchange(original_fd_, -1));
}

int FuseSession::Unmount(const std::string& mountpoint, bool lazy) {
  return umount2(mountpoint.c_str(), lazy ? MNT_DETACH : 0) == 0 ? 0 : -errno;
}

}  // namespace holdfast::fs::fuse
