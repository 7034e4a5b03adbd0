#include "tests/sim/disk_image.h"

#include <algorithm>

#include "base/check.h"

namespace holdfast::sim {

void DiskImage::Read(uint64_t offset, std::span<std::byte> out) const {
  HF_CHECK(offset + out.size() <= size_, "read past the end of the image");
  while (!out.empty()) {
    uint64_t within = offset % kBlockSize;
    size_t n = std::min<size_t>(out.size(), kBlockSize - within);
    auto it = pages_.find(offset / kBlockSize);
    if (it == pages_.end()) std::memset(out.data(), 0, n);
    else std::memcpy(out.data(), it->second->data() + within, n);
    out = out.subspan(n);
    offset += n;
  }
}

void DiskImage::Write(uint64_t offset, std::span<const std::byte> in) {
  HF_CHECK(offset + in.size() <= size_, "write past the end of the image");
  while (!in.empty()) {
    uint64_t within = offset % kBlockSize;
    size_t n = std::min<size_t>(in.size(), kBlockSize - within);
    std::shared_ptr<Page>& page = pages_[offset / kBlockSize];
    if (!page) page = std::make_shared<Page>(Page{});
    else if (page.use_count() > 1) page = std::make_shared<Page>(*page);
    std::memcpy(page->data() + within, in.data(), n);
    in = in.subspan(n);
    offset += n;
  }
}

void DiskImage::Zero(uint64_t offset, uint64_t length) {
  static constexpr Page kZeroes{};
  while (length > 0) {
    uint64_t within = offset % kBlockSize;
    uint64_t n = std::min(length, kBlockSize - within);
    if (n == kBlockSize) pages_.erase(offset / kBlockSize);
    else if (pages_.contains(offset / kBlockSize)) Write(offset, {kZeroes.data(), static_cast<size_t>(n)});
    offset += n;
    length -= n;
  }
}

}  // namespace holdfast::sim
