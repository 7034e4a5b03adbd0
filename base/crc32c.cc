#include "base/crc32c.h"

#include <isa-l/crc.h>

namespace holdfast {

uint32_t Crc32c(std::span<const std::byte> bytes, uint32_t seed) {
  // ISA-L's crc32_iscsi works on the raw register; the published CRC32C inverts before and after.
  auto* data = const_cast<unsigned char*>(reinterpret_cast<const unsigned char*>(bytes.data()));
  return ~crc32_iscsi(data, static_cast<int>(bytes.size()), ~seed);
}

}  // namespace holdfast
