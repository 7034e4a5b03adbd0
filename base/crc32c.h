// CRC32C (Castagnoli, RFC 3720 appendix B.4) of metadata blocks, journal records and quorum-area slots. ISA-L.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace holdfast {

// Continues from `seed` (the CRC of what came before; 0 at the start).
uint32_t Crc32c(std::span<const std::byte> bytes, uint32_t seed = 0);

}  // namespace holdfast
