// DiskImage: sparse bytes in 4 KiB pages that copies share until one of them writes, so that thousands of crash images
// of a 4 GiB volume cost only what differs.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <span>
#include <unordered_map>

#include "base/bytes.h"

namespace holdfast::sim {

inline constexpr uint64_t kSectorSize = 512;

class DiskImage {
 public:
  explicit DiskImage(uint64_t size = 0) : size_(size) {}
  uint64_t size() const { return size_; }
  // Any alignment. What was never written reads as zeroes.
  void Read(uint64_t offset, std::span<std::byte> out) const;
  void Write(uint64_t offset, std::span<const std::byte> in);
  // Becomes zeroes. Whole pages are given back.
  void Zero(uint64_t offset, uint64_t length);
  size_t pages() const { return pages_.size(); }

 private:
  using Page = std::array<std::byte, kBlockSize>;
  uint64_t size_;
  std::unordered_map<uint64_t, std::shared_ptr<Page>> pages_;  // by page number; looked up only
};

}  // namespace holdfast::sim
