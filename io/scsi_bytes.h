// Big-endian fields in SCSI parameter data. REQUIRES: the field lies within the buffer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace holdfast::io {

inline void PutBe(std::span<std::byte> out, size_t at, uint64_t value, size_t bytes) {
  for (size_t i = 0; i < bytes; i++) out[at + i] = static_cast<std::byte>(value >> (8 * (bytes - 1 - i)));
}
inline void PutBe64(std::span<std::byte> out, size_t at, uint64_t value) { PutBe(out, at, value, 8); }
inline uint64_t GetBe(std::span<const std::byte> in, size_t at, size_t bytes) {
  uint64_t value = 0;
  for (size_t i = 0; i < bytes; i++) value = value << 8 | std::to_integer<uint64_t>(in[at + i]);
  return value;
}
inline uint16_t GetBe16(std::span<const std::byte> in, size_t at) { return static_cast<uint16_t>(GetBe(in, at, 2)); }
inline uint32_t GetBe32(std::span<const std::byte> in, size_t at) { return static_cast<uint32_t>(GetBe(in, at, 4)); }
inline uint64_t GetBe64(std::span<const std::byte> in, size_t at) { return GetBe(in, at, 8); }

}  // namespace holdfast::io
