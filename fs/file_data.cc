#include "fs/file_data.h"

#include <algorithm>

namespace holdfast::fs {

void FileData::Add(uint64_t first, uint64_t count, bool promised) {
  auto buffer = std::make_shared<AlignedBuffer>(count * kBlockSize);
  Adopt(first, count, promised, buffer->data(), buffer);
}

void FileData::Adopt(uint64_t first, uint64_t count, bool promised, std::byte* bytes, std::shared_ptr<void> owner) {
  if (first == 0 || !pages_.contains(first - 1)) ++runs_;
  auto hint = pages_.upper_bound(first);
  for (uint64_t i = 0; i < count; ++i) {
    auto it = pages_.emplace_hint(hint, first + i, DirtyPage{bytes + i * kBlockSize, owner, promised});
    if (promised) ++promised_;
    hint = std::next(it);
  }
}

uint64_t FileData::Drop(uint64_t first, uint64_t count) {
  auto it = pages_.lower_bound(first);
  uint64_t promised = 0;
  while (it != pages_.end() && it->first - first < count) {
    promised += it->second.promised;
    it = pages_.erase(it);
  }
  promised_ -= promised;
  ++runs_;  // what is left may be in two parts
  if (pages_.empty()) {
    Clear();
  } else if (promised > 0) {
    (void)reserved.Split(std::min(promised, reserved.data_left()), 0);  // back to the pool
  }
  return promised;
}

void FileData::Erase(std::map<uint64_t, DirtyPage>::iterator it) {
  promised_ -= it->second.promised;
  pages_.erase(it);
}

void FileData::Clear() {
  pages_.clear();
  promised_ = runs_ = 0;
  reserved.Release();
}

}  // namespace holdfast::fs
