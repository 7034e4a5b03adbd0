#include "fs/alloc_bits.h"

namespace holdfast::fs {

bool ForEachRun(const DiskBitmap& bitmap, BlockState wanted, uint32_t from, uint32_t to, uint32_t max,
                const std::function<bool(uint32_t start, uint32_t count)>& found) {
  const auto full = static_cast<uint8_t>(static_cast<unsigned>(wanted) * 0x55);  // four blocks in that state
  uint32_t start = 0, count = 0;
  auto end_run = [&] {
    if (count == 0) return true;
    uint32_t n = count;
    count = 0;
    return found(start, n);
  };
  for (uint32_t i = from; i < to;) {
    if (i % 4 == 0 && i + 4 <= to && bitmap.states[i / 4] == full && count + 4 <= max) {
      if (count == 0) start = i;
      count += 4;
      i += 4;
    } else {
      if (StateAt(bitmap, i) == wanted) {
        if (count == 0) start = i;
        ++count;
      } else if (!end_run()) {
        return false;
      }
      ++i;
    }
    if (count >= max && !end_run()) return false;
  }
  return end_run();
}

StateCounts CountStates(const DiskBitmap& bitmap, uint32_t from, uint32_t to) {
  uint32_t counts[4] = {};
  for (uint32_t i = from; i < to; ++i) ++counts[static_cast<unsigned>(StateAt(bitmap, i))];
  return {counts[0], counts[1], counts[2], counts[3]};
}

}  // namespace holdfast::fs
