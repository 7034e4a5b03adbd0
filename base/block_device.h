// BlockDevice: the shared disk. Offsets and lengths are bytes, multiples of kBlockSize, buffers kBlockSize aligned
// (AlignedBuffer); they stay alive until the call completes. Only Flush (or kFua) makes writes durable; a completed
// write without it survives the death of this node but not a power loss of the array.
// Production: io/file_device.h (libaio, O_DIRECT), io/iscsi_device.h (libiscsi); simulation: tests/sim/disk.h.
// Errors: kIo (failed; the outcome of a write is unknown), kConflict (our reservation key is gone: we are fenced),
// kDisconnected (session lost, stalled past its limit), kInvalid (misaligned, out of range: a bug of ours).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/bytes.h"
#include "base/result.h"
#include "base/task.h"

namespace holdfast {

struct DeviceInfo {
  std::string name;             // path or URL, password removed
  uint64_t size_bytes = 0;      // rounded down to kBlockSize
  bool volatile_cache = true;   // false: completed writes are durable, commits need one step only
  bool discard = false;         // Discard() does something
  bool read_only = false;
  bool local_file = false;      // an image file: fence_local and OFD byte locks apply
};

enum class WriteFlags : uint8_t { kNone = 0, kFua = 1 };

class BlockDevice {
 public:
  virtual ~BlockDevice() = default;
  virtual const DeviceInfo& info() const = 0;
  virtual Task<Status> Read(uint64_t offset, std::span<std::byte> out) = 0;
  // kFua: durable when it completes.
  virtual Task<Status> Write(uint64_t offset, std::span<const std::byte> in, WriteFlags flags) = 0;
  // Everything whose write completed before Flush was called is durable when it completes.
  virtual Task<Status> Flush() = 0;
  // The range may read as zeroes or as before. kUnsupported where the device has none.
  virtual Task<Status> Discard(uint64_t offset, uint64_t length) = 0;
  // Refuses new requests (kCancelled), waits for those in flight, closes.
  virtual Task<void> Close() = 0;
};

}  // namespace holdfast
