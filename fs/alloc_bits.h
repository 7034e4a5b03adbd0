// Two-bit block states in bitmap blocks: reading, searching, setting. Pure functions over the bytes of DiskBitmap.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "fs/format.h"

namespace holdfast::fs {

inline BlockState StateAt(const DiskBitmap& bitmap, uint32_t index) {
  return static_cast<BlockState>((bitmap.states[index / 4] >> (2 * (index % 4))) & 3);
}
inline void SetStateAt(DiskBitmap& bitmap, uint32_t index, BlockState state) {
  uint8_t& byte = bitmap.states[index / 4];
  unsigned shift = 2 * (index % 4);
  byte = static_cast<uint8_t>((byte & ~(3u << shift)) | (static_cast<unsigned>(state) << shift));
}

// Calls found(start, count) for each run of `wanted` in [from, to), at most `max` blocks long, until it returns false.
// Returns false when it was stopped.
bool ForEachRun(const DiskBitmap& bitmap, BlockState wanted, uint32_t from, uint32_t to, uint32_t max,
                const std::function<bool(uint32_t start, uint32_t count)>& found);

struct StateCounts {
  uint32_t free = 0, data = 0, meta = 0, meta_free = 0;
};
StateCounts CountStates(const DiskBitmap& bitmap, uint32_t from, uint32_t to);

}  // namespace holdfast::fs
