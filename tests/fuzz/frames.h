// Frames: an input cut into pieces, for targets that take a stream of messages: a length byte (255: two bytes more) and so many
// bytes, again and again.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

namespace holdfast::fuzz {

class Frames {
 public:
  explicit Frames(std::span<const uint8_t> input) : rest_(input) {}
  bool empty() const { return rest_.empty(); }
  uint8_t Byte() {
    if (rest_.empty()) return 0;
    uint8_t byte = rest_[0];
    rest_ = rest_.subspan(1);
    return byte;
  }
  std::span<const std::byte> Next() {
    size_t length = Byte();
    if (length == 255) {
      length = Byte();
      length = length << 8 | Byte();
    }
    length = std::min(length, rest_.size());
    auto piece = std::as_bytes(rest_.first(length));
    rest_ = rest_.subspan(length);
    return piece;
  }

 private:
  std::span<const uint8_t> rest_;
};

}  // namespace holdfast::fuzz
