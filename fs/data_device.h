// DataDevice: the volume as file data is written to it: counts writes, so that the journal knows whether a commit has
// data to order before itself. Everything else goes straight through. Threading: one executor.
#pragma once

#include "base/block_device.h"

namespace holdfast::fs {

class DataDevice final : public BlockDevice {
 public:
  explicit DataDevice(BlockDevice& device) : device_(device) {}
  uint64_t writes() const { return writes_; }  // completed

  const DeviceInfo& info() const override { return device_.info(); }
  Task<Status> Read(uint64_t offset, std::span<std::byte> out) override { return device_.Read(offset, out); }
  Task<Status> Write(uint64_t offset, std::span<const std::byte> in, WriteFlags flags) override {
    auto done = co_await device_.Write(offset, in, flags);
    ++writes_;
    co_return done;
  }
  Task<Status> Flush() override { return device_.Flush(); }
  Task<Status> Discard(uint64_t offset, uint64_t length) override { return device_.Discard(offset, length); }
  Task<void> Close() override { return device_.Close(); }

 private:
  BlockDevice& device_;
  uint64_t writes_ = 0;
};

}  // namespace holdfast::fs
