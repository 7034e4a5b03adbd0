// VolumeImage: volumes in memory for the fuzzers and the generator of bad input. Two base images are made once per
// process by a fixed script; an input is a list of small changes to their metadata blocks, each sealed again, so that
// checksums do not stop what should be under test. Blocks of a journal's record are sealed with their record.
//
//   input: 1 byte which base (bit 0: crashed, its journal dirty), then changes of 8 bytes:
//     place (2): metadata block, modulo their number | offset (2): bit 15: the n-th byte that is not zero, else the byte
//     operation (1): low 3 bits what, next 2 the width (1, 2, 4, 8 bytes) | argument (3)
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/block_device.h"
#include "fs/format.h"
#include "fs/superblock.h"
#include "tests/sim/disk_image.h"

namespace holdfast::fuzz {

// A device without time and without faults. It remembers the first request that no program may make: outside the device,
// or, once there is a guard, a write of anything but metadata over what is never data.
class MemoryDevice final : public BlockDevice {
 public:
  explicit MemoryDevice(sim::DiskImage image);
  const DeviceInfo& info() const override { return info_; }
  Task<Status> Read(uint64_t offset, std::span<std::byte> out) override;
  Task<Status> Write(uint64_t offset, std::span<const std::byte> in, WriteFlags flags) override;
  Task<Status> Flush() override;
  Task<Status> Discard(uint64_t offset, uint64_t length) override;
  Task<void> Close() override;
  const sim::DiskImage& image() const { return image_; }
  // A mount with that journal is at work: it writes to its journal and to the groups.
  void Guard(const fs::Geometry& geometry, MountNo journal);
  void Unguard() { guarded_ = false; }
  const std::string& outrage() const { return outrage_; }

 private:
  Status Fits(const char* what, uint64_t offset, uint64_t length);
  void Judge(uint64_t block, std::span<const std::byte> bytes);
  sim::DiskImage image_;
  DeviceInfo info_;
  bool guarded_ = false;
  fs::Geometry geometry_;
  uint64_t journal_first_ = 0, journal_end_ = 0;
  std::string outrage_;
};

struct Place {
  uint64_t block = 0;
  fs::BlockType type = fs::BlockType::kNone;
  uint64_t commit = 0;  // of the log record that the block is part of; 0: none
};

struct BaseImage {
  sim::DiskImage image;
  fs::Superblock super;
  std::vector<Place> places;            // metadata blocks, by number
  struct Record {
    std::vector<uint64_t> blocks;       // descriptors and images, in order
    uint64_t commit = 0;
  };
  std::vector<Record> records;          // of dirty journals
};
const BaseImage& CleanBase();
const BaseImage& CrashedBase();

using BlockBytes = std::vector<std::byte>;
BlockBytes ReadBlock(const sim::DiskImage& image, uint64_t block);
// The block's checksum, and that of its record, become right again; nothing else.
void WriteSealed(const BaseImage& base, sim::DiskImage* image, uint64_t block, BlockBytes bytes);

// What an input says. Same bytes, same image. With HOLDFAST_FUZZ_SHOW in the environment the changes are printed.
struct Patched {
  const BaseImage* base;
  sim::DiskImage image;
  int changes = 0;
};
Patched Apply(std::span<const uint8_t> input);

}  // namespace holdfast::fuzz
