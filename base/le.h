// Le<T>: an unsigned little-endian integer without alignment, for on-disk structures. Disk structs are made of
// these alone, so that they can be laid over raw bytes on any machine (docs/format.md).
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace holdfast {

template <class T>
class Le {
  static_assert(std::is_unsigned_v<T>);

 public:
  Le() = default;
  Le(T value) { *this = value; }  // NOLINT: assigned like the number that it is
  Le& operator=(T value) {
    for (unsigned i = 0; i < sizeof(T); ++i) bytes_[i] = static_cast<uint8_t>(value >> (8 * i));
    return *this;
  }
  operator T() const {  // NOLINT
    T value = 0;
    for (unsigned i = 0; i < sizeof(T); ++i) value |= static_cast<T>(static_cast<T>(bytes_[i]) << (8 * i));
    return value;
  }

 private:
  uint8_t bytes_[sizeof(T)];
};

using Le16 = Le<uint16_t>;
using Le32 = Le<uint32_t>;
using Le64 = Le<uint64_t>;

}  // namespace holdfast
