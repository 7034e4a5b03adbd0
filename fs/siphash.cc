#include "fs/siphash.h"

#include <bit>

namespace holdfast::fs {
namespace {

uint64_t Word(const char* p, size_t bytes) {
  uint64_t w = 0;
  for (size_t i = 0; i < bytes; ++i) w |= uint64_t{static_cast<uint8_t>(p[i])} << (8 * i);
  return w;
}

struct State {
  uint64_t v0, v1, v2, v3;
  void Round() {
    v0 += v1;
    v1 = std::rotl(v1, 13) ^ v0;
    v0 = std::rotl(v0, 32);
    v2 += v3;
    v3 = std::rotl(v3, 16) ^ v2;
    v0 += v3;
    v3 = std::rotl(v3, 21) ^ v0;
    v2 += v1;
    v1 = std::rotl(v1, 17) ^ v2;
    v2 = std::rotl(v2, 32);
  }
  void Take(uint64_t word) {
    v3 ^= word;
    Round();
    Round();
    v0 ^= word;
  }
};

}  // namespace

uint64_t SipHash(const std::array<uint8_t, 16>& key, std::string_view text) {
  uint64_t k0 = Word(reinterpret_cast<const char*>(key.data()), 8);
  uint64_t k1 = Word(reinterpret_cast<const char*>(key.data()) + 8, 8);
  State s{k0 ^ 0x736f6d6570736575ull, k1 ^ 0x646f72616e646f6dull, k0 ^ 0x6c7967656e657261ull, k1 ^ 0x7465646279746573ull};
  size_t whole = text.size() & ~size_t{7};
  for (size_t i = 0; i < whole; i += 8) s.Take(Word(text.data() + i, 8));
  s.Take(Word(text.data() + whole, text.size() - whole) | uint64_t{text.size()} << 56);
  s.v2 ^= 0xff;
  for (int i = 0; i < 4; ++i) s.Round();
  return s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}

}  // namespace holdfast::fs
