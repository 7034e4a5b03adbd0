#include "fs/meta_block.h"

#include <cstring>

#include "base/crc32c.h"

namespace holdfast::fs {
namespace {

Status Bad(BlockNo at, std::string what) {
  return Error(Errc::kCorrupt, "block " + std::to_string(at.v) + ": " + what);
}

}  // namespace

const char* BlockTypeName(BlockType type) {
  switch (type) {
    case BlockType::kNone: return "none";
    case BlockType::kSuperblock: return "superblock";
    case BlockType::kGroup: return "group header";
    case BlockType::kBitmap: return "bitmap";
    case BlockType::kInode: return "inode";
    case BlockType::kTree: return "tree node";
    case BlockType::kJournalHeader: return "journal header";
    case BlockType::kJournalOwner: return "journal owner";
    case BlockType::kClaims: return "claims";
    case BlockType::kLogDescriptor: return "log descriptor";
    case BlockType::kLogCommit: return "log commit";
  }
  return "unknown type";
}

void InitBlock(std::span<std::byte> block, const BlockName& name, const std::array<uint8_t, 16>& volume) {
  std::memset(block.data(), 0, kBlockSize);
  DiskBlockHeader& h = HeaderOf(block);
  h.magic = kBlockMagic;
  h.type = static_cast<uint16_t>(name.type);
  h.resource_type = static_cast<uint8_t>(name.resource.type);
  h.resource_number = name.resource.number;
  h.block = name.block.v;
  std::memcpy(h.volume, volume.data(), volume.size());
}

uint32_t BlockCrc(std::span<const std::byte> block) {
  static constexpr std::byte kZero[4] = {};
  uint32_t crc = Crc32c(block.first(kCrcOffset));
  crc = Crc32c(kZero, crc);
  return Crc32c(block.subspan(kCrcOffset + 4, kBlockSize - kCrcOffset - 4), crc);
}

void SealBlock(std::span<std::byte> block, uint64_t version) {
  HeaderOf(block).version = version;
  HeaderOf(block).crc32c = BlockCrc(block);
}

Status CheckBlock(std::span<const std::byte> block, BlockNo at, BlockType expected,
                  const std::array<uint8_t, 16>& volume) {
  const DiskBlockHeader& h = HeaderOf(block);
  if (h.magic != kBlockMagic) return Bad(at, "no metadata header (bad magic)");
  if (h.crc32c != BlockCrc(block)) return Bad(at, "checksum does not match");
  if (h.block != at.v) return Bad(at, "is marked as block " + std::to_string(uint64_t{h.block}));
  if (std::memcmp(h.volume, volume.data(), volume.size()) != 0) return Bad(at, "belongs to another volume");
  if (h.version > kVersionMax) return Bad(at, "has an impossible version");
  auto type = static_cast<BlockType>(uint16_t{h.type});
  if (expected != BlockType::kNone && type != expected)
    return Bad(at, std::string("is a ") + BlockTypeName(type) + ", expected a " + BlockTypeName(expected));
  return {};
}

}  // namespace holdfast::fs
