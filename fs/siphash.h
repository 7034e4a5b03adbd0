// SipHash-2-4 (Aumasson, Bernstein 2012): the keyed hash of names, so that nobody can choose names that collide.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace holdfast::fs {

uint64_t SipHash(const std::array<uint8_t, 16>& key, std::string_view text);

}  // namespace holdfast::fs
