#include "base/bytes.h"

#include <cstdlib>
#include <cstring>

#include "base/check.h"

namespace holdfast {

AlignedBuffer::AlignedBuffer(size_t size) : size_((size + kBlockSize - 1) / kBlockSize * kBlockSize) {
  if (size_ == 0) return;
  void* p = std::aligned_alloc(kBlockSize, size_);
  HF_CHECK(p != nullptr, "out of memory for a buffer of %zu bytes", size_);
  std::memset(p, 0, size_);
  data_.reset(static_cast<std::byte*>(p));
}

void AlignedBuffer::Free::operator()(std::byte* p) const { std::free(p); }

AlignedBuffer AlignedBuffer::Clone() const {
  AlignedBuffer copy(size_);
  if (size_ > 0) std::memcpy(copy.data(), data(), size_);
  return copy;
}

}  // namespace holdfast
