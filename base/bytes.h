// Byte buffers. AlignedBuffer is what O_DIRECT wants: 4 KiB aligned memory, a multiple of 4 KiB long, zeroed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

namespace holdfast {

inline constexpr size_t kBlockSize = 4096;  // bytes: the volume's block and the unit of every in-place write

using Bytes = std::vector<std::byte>;

class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  // Rounds up to a multiple of kBlockSize; the memory is zeroed.
  explicit AlignedBuffer(size_t size);
  AlignedBuffer(AlignedBuffer&&) noexcept = default;
  AlignedBuffer& operator=(AlignedBuffer&&) noexcept = default;

  std::byte* data() { return data_.get(); }
  const std::byte* data() const { return data_.get(); }
  size_t size() const { return size_; }
  std::span<std::byte> span() { return {data_.get(), size_}; }
  std::span<const std::byte> span() const { return {data_.get(), size_}; }
  AlignedBuffer Clone() const;

 private:
  struct Free {
    void operator()(std::byte* p) const;
  };
  std::unique_ptr<std::byte[], Free> data_;
  size_t size_ = 0;
};

inline std::span<const std::byte> AsBytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}
inline std::string_view AsText(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace holdfast
