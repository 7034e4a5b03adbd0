// FuseSession: one mount's line to the kernel on libfuse's low-level API, driven by the reactor: one thread, non-blocking
// reads (the fastest server on few cores, docs/decisions). Adds to libfuse 3.14 what it cannot ask for: init flags
// or-ed into the INIT reply through fuse_session_custom_io, raw OPEN replies, request buffers that a handler may keep.
// Threading: the reactor's thread, but Unmount (pool).
#pragma once

#define FUSE_USE_VERSION 314
#include <fuse3/fuse_lowlevel.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "io/reactor.h"

namespace holdfast::fs::fuse {

struct SessionOptions {
  std::string mountpoint;
  std::string source;         // shown in the mount table
  std::string kernel_options; // "ro", "nosuid", "nodev", "noexec", comma-separated
};

// The memory of one request; a handler that suspends keeps it, others leave it to the session. The bytes of a WRITE begin at
// a page boundary: they can go to the disk from where they are.
class RequestBuffer {
 public:
  RequestBuffer() = default;
  RequestBuffer(RequestBuffer&& o) noexcept : pool_(o.pool_), memory_(std::exchange(o.memory_, nullptr)) {}
  RequestBuffer& operator=(RequestBuffer&&) = delete;
  ~RequestBuffer();

 private:
  friend class FuseSession;
  RequestBuffer(std::vector<void*>* pool, void* memory) : pool_(pool), memory_(memory) {}
  std::vector<void*>* pool_ = nullptr;
  void* memory_ = nullptr;
};

class FuseSession {
 public:
  // Mounts; errors are one line for a person. Requests are served from Start on.
  static Result<std::unique_ptr<FuseSession>> Mount(SessionOptions options, const fuse_lowlevel_ops& ops, void* user);
  ~FuseSession();

  // on_end: the kernel has unmounted us or the connection was aborted. Requests under way may still be answered.
  void Start(io::Reactor& reactor, std::function<void()> on_end);
  // No new requests are read until Resume.
  void Pause();
  void Resume();
  // From the last request on, nothing is served; the descriptor is closed (what waits in the kernel gets ENOTCONN).
  void Close();

  // The buffer of the request that is being processed; its bytes stay valid as long as it lives.
  RequestBuffer TakeBuffer();
  // The body of the request that is being processed, as it is on the wire (libfuse hides some flags). Valid: the request
  // is at least that long, which libfuse has checked before it calls a handler.
  template <class T>
  const T* Body() const {
    constexpr size_t kHeader = 40;  // fuse_in_header
    return reinterpret_cast<const T*>(static_cast<const char*>(buffer_.mem) + kHeader);
  }
  // The CREATE that is being processed was a TMPFILE (libfuse 3.14 does not know it; same body and reply).
  bool IsTmpFile() const { return tmpfile_; }
  // The GETATTR that is being processed was a STATX: its answer has another form.
  bool IsStatx() const { return statx_; }
  int fd() const { return fd_; }
  bool ended() const { return ended_; }
  const std::string& mountpoint() const { return options_.mountpoint; }

  // Detaches the mount point; may block, so call it in the pool. lazy: open files keep the connection.
  static int Unmount(const std::string& mountpoint, bool lazy);

 private:
  FuseSession() = default;
  void OnReadable();
  static ssize_t WriteV(int fd, struct iovec* parts, int count, void* user);
  static ssize_t Read(int fd, void* buffer, size_t size, void* user);

  SessionOptions options_;
  fuse_session* session_ = nullptr;
  int fd_ = -1;           // what libfuse reads and writes
  int original_fd_ = -1;  // what the kernel was given
  io::Reactor* reactor_ = nullptr;
  std::function<void()> on_end_;
  fuse_buf buffer_{};
  std::vector<void*> free_buffers_;
  bool ended_ = false;
  bool paused_ = false;
  bool tmpfile_ = false;
  bool statx_ = false;
};

}  // namespace holdfast::fs::fuse
