// meta_block.h: sealing and checking raw metadata blocks. Everything that reads a block from disk goes through
// CheckBlock; everything that writes one, through SealBlock.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "base/bytes.h"
#include "base/ids.h"
#include "base/result.h"
#include "fs/format.h"
#include "fs/resource.h"

namespace holdfast::fs {

inline DiskBlockHeader& HeaderOf(std::span<std::byte> block) { return *reinterpret_cast<DiskBlockHeader*>(block.data()); }
inline const DiskBlockHeader& HeaderOf(std::span<const std::byte> block) {
  return *reinterpret_cast<const DiskBlockHeader*>(block.data());
}
template <class T>
T& As(std::span<std::byte> block) {
  static_assert(sizeof(T) <= kBlockSize);
  return *reinterpret_cast<T*>(block.data());
}
template <class T>
const T& As(std::span<const std::byte> block) {
  static_assert(sizeof(T) <= kBlockSize);
  return *reinterpret_cast<const T*>(block.data());
}

struct BlockName {
  BlockNo block;
  BlockType type = BlockType::kNone;
  Resource resource;
};

// Zeroes the block and writes its header (version 0, no CRC).
void InitBlock(std::span<std::byte> block, const BlockName& name, const std::array<uint8_t, 16>& volume);
// Sets the version and the CRC.
void SealBlock(std::span<std::byte> block, uint64_t version);
uint32_t BlockCrc(std::span<const std::byte> block);
// Magic, CRC, volume and own number are right, and the type where one is expected. Error: kCorrupt, with words.
Status CheckBlock(std::span<const std::byte> block, BlockNo at, BlockType expected, const std::array<uint8_t, 16>& volume);
inline Resource BlockResource(std::span<const std::byte> block) {
  const DiskBlockHeader& h = HeaderOf(block);
  return {static_cast<LockType>(h.resource_type), h.resource_number};
}
const char* BlockTypeName(BlockType type);

}  // namespace holdfast::fs
