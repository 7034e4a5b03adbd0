// FileDevice: a block device or an image file through libaio with O_DIRECT; buffered I/O is refused, because in-flight
// O_DIRECT requests keep the descriptor's byte locks (proof of death, docs/decisions) and page caches would lie to
// other nodes. One turn's requests enter the kernel in one io_submit. A request that would block there (RWF_NOWAIT)
// is done by the pool instead. FUA is RWF_DSYNC, Flush is IO_CMD_FDSYNC, Discard punches a hole or BLKDISCARDs.
// Errors: kIo, kConflict (EBADE: reservation conflict), kNoSpace (the image's filesystem is full), kDisconnected.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "base/block_device.h"
#include "base/pool.h"
#include "base/sync.h"
#include "io/reactor.h"

namespace holdfast::io {

struct FileDeviceOptions {
  bool read_only = false;
  unsigned in_flight_max = 128;  // requests in the kernel at once; more wait in our queue
};

// OFD byte locks on the volume's descriptor (docs/format.md, volume_users.h): byte 2^40 + index.
inline constexpr uint64_t kLockByteBase = uint64_t{1} << 40;

class FileDevice final : public BlockDevice {
 public:
  // kNotFound, kPermission, kInvalid (neither file nor block device, or empty), kUnsupported (no O_DIRECT there).
  static Result<std::unique_ptr<FileDevice>> Open(Reactor* reactor, Pool* pool, std::string path,
                                                  FileDeviceOptions options = {});
  ~FileDevice() override;

  const DeviceInfo& info() const override { return info_; }
  Task<Status> Read(uint64_t offset, std::span<std::byte> out) override;
  Task<Status> Write(uint64_t offset, std::span<const std::byte> in, WriteFlags flags) override;
  Task<Status> Flush() override;
  Task<Status> Discard(uint64_t offset, uint64_t length) override;
  Task<void> Close() override;

  // The descriptor through which all I/O goes; -1 after Close. Locks on it end when the last request in flight has.
  int descriptor() const { return fd_; }
  // kBusy: another open of the volume holds it. Taking a byte that we hold is a success.
  Status LockByte(uint64_t index);
  Status UnlockByte(uint64_t index);
  // True: somebody else holds it.
  Result<bool> TestByte(uint64_t index) const;

 private:
  struct Aio;   // the kernel's context, eventfd
  struct Op;    // one request, in its coroutine's frame
  FileDevice() = default;
  Task<Status> Run(Op* op);
  Task<int64_t> Once(Op* op);
  Task<int64_t> InPool(int opcode, uint64_t offset, void* data, size_t length, bool fua);
  void Enqueue(Op* op);
  void SubmitQueued();
  void OnCompletions();

  Reactor* reactor_ = nullptr;
  Pool* pool_ = nullptr;
  DeviceInfo info_;
  FileDeviceOptions options_;
  int fd_ = -1;
  std::unique_ptr<Aio> aio_;
  bool block_device_ = false;
  bool nowait_ = true;          // false once the filesystem said that it cannot
  std::deque<Op*> queued_;
  unsigned in_kernel_ = 0;
  bool submit_posted_ = false;
  bool closing_ = false;
  size_t running_ = 0;
  WaitList idle_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

// Sets, frees and asks a byte on any descriptor of the volume (fence_local, supervisors).
Status LockByteOf(int fd, uint64_t index);
Status UnlockByteOf(int fd, uint64_t index);
Result<bool> TestByteOf(int fd, uint64_t index);

}  // namespace holdfast::io
