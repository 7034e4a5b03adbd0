#include "fs/superblock.h"

#include <cstring>

#include "fs/meta_block.h"

namespace holdfast::fs {
namespace {

constexpr BlockNo kLive[2] = {BlockNo(kSuperblockBlock), BlockNo(kSuperblockBlock + 1)};

std::string FixedText(const char* text, size_t size) { return std::string(text, strnlen(text, size)); }

void PutText(char* out, size_t size, const std::string& text) { std::memcpy(out, text.data(), std::min(size, text.size())); }

// Numbers that later arithmetic trusts.
Status CheckGeometry(const Geometry& g) {
  auto bad = [](const char* what) -> Status { return Error(Errc::kCorrupt, std::string("superblock: ") + what); };
  if (g.bitmap_blocks == 0 || g.bitmap_blocks > 4096) return bad("bitmap blocks per group out of range");
  if (g.group_blocks != g.bitmap_blocks * kBlocksPerBitmap) return bad("group size does not match its bitmaps");
  if (g.journal_count == 0 || g.journal_count > 65536) return bad("journal count out of range");
  if (g.journal_blocks < kJournalBlocksMin || g.journal_blocks > (1u << 24)) return bad("journal size out of range");
  if (g.volume_blocks == 0 || g.volume_blocks > (uint64_t{1} << 48)) return bad("volume size out of range");
  if (g.first_journal_block <= kSuperblockBackupBlock || g.first_journal_block >= g.volume_blocks) return bad("journals start outside the volume");
  if (g.first_group_block < g.first_journal_block + uint64_t{g.journal_count} * g.journal_blocks) return bad("groups overlap journals");
  if (g.first_group_block >= g.volume_blocks) return bad("groups start outside the volume");
  uint64_t groups = (g.volume_blocks - g.first_group_block + g.group_blocks - 1) / g.group_blocks;
  if (g.group_count != groups) return bad("group count does not match the volume's size");
  if (g.GroupBlocks(g.group_count - 1) <= g.GroupOverhead() + 1) return bad("the last group is too small");
  return {};
}

}  // namespace

void EncodeSuperblock(const Superblock& super, BlockNo at, std::span<std::byte> out) {
  const Geometry& g = super.geometry;
  InitBlock(out, {at, BlockType::kSuperblock, kSuperResource}, g.uuid);
  auto& d = As<DiskSuperblock>(out);
  d.super_magic = kSuperMagic;
  d.format_version = kFormatVersion;
  d.block_bytes = static_cast<uint32_t>(kBlockSize);
  d.compat = super.compat;
  d.ro_compat = super.ro_compat;
  d.incompat = super.incompat;
  d.volume_blocks = g.volume_blocks;
  d.quorum_block = super.quorum_block;
  d.quorum_blocks = super.quorum_blocks;
  d.first_journal_block = g.first_journal_block;
  d.journal_count = g.journal_count;
  d.journal_blocks = g.journal_blocks;
  d.first_group_block = g.first_group_block;
  d.group_count = g.group_count;
  d.group_blocks = g.group_blocks;
  d.bitmap_blocks = g.bitmap_blocks;
  d.root_inode = super.root_inode.v;
  d.root_generation = super.root_generation;
  std::memcpy(d.hash_key, super.hash_key.data(), 16);
  PutText(d.label, sizeof d.label, super.label);
  PutText(d.lock_table, sizeof d.lock_table, super.lock_table);
  d.created.seconds = static_cast<uint64_t>(super.created.seconds);
  d.created.nanoseconds = super.created.nanoseconds;
  SealBlock(out, super.sequence);
}

Result<Superblock> DecodeSuperblock(std::span<const std::byte> block, BlockNo at) {
  const auto& d = As<DiskSuperblock>(block);
  if (d.header.magic != kBlockMagic || d.super_magic != kSuperMagic)
    return Error(Errc::kNotFound, "no Holdfast superblock");
  Superblock s;
  Geometry& g = s.geometry;
  std::memcpy(g.uuid.data(), d.header.volume, 16);
  HF_TRY(CheckBlock(block, at, BlockType::kSuperblock, g.uuid));
  if (BlockResource(block) != kSuperResource) return Error(Errc::kCorrupt, "superblock: belongs to another lock");
  if (d.format_version != kFormatVersion || d.block_bytes != kBlockSize)
    return Error(Errc::kUnsupported, "format version " + std::to_string(uint32_t{d.format_version}) + " with blocks of " +
                                         std::to_string(uint32_t{d.block_bytes}) + " bytes: this program knows version 1 with 4096");
  s.compat = d.compat;
  s.ro_compat = d.ro_compat;
  s.incompat = d.incompat;
  if (s.incompat & ~kKnownIncompat) return Error(Errc::kUnsupported, "the volume uses features that this program does not know");
  g.volume_blocks = d.volume_blocks;
  g.first_journal_block = d.first_journal_block;
  g.journal_count = d.journal_count;
  g.journal_blocks = d.journal_blocks;
  g.first_group_block = d.first_group_block;
  g.group_count = d.group_count;
  g.group_blocks = d.group_blocks;
  g.bitmap_blocks = d.bitmap_blocks;
  HF_TRY(CheckGeometry(g));
  s.sequence = d.header.version;
  s.quorum_block = d.quorum_block;
  s.quorum_blocks = d.quorum_blocks;
  s.root_inode = InodeNo(d.root_inode);
  s.root_generation = d.root_generation;
  bool area = s.quorum_block == kQuorumAreaOffset / kBlockSize && s.quorum_blocks == kQuorumAreaBytes / kBlockSize &&
              s.quorum_block + s.quorum_blocks <= g.first_journal_block;
  if (!area && (s.quorum_block != 0 || s.quorum_blocks != 0)) return Error(Errc::kCorrupt, "superblock: quorum area out of place");
  if (!g.ValidTarget(BlockNo(s.root_inode.v))) return Error(Errc::kCorrupt, "superblock: root inode out of range");
  std::memcpy(s.hash_key.data(), d.hash_key, 16);
  s.label = FixedText(d.label, sizeof d.label);
  s.lock_table = FixedText(d.lock_table, sizeof d.lock_table);
  s.created = {static_cast<int64_t>(uint64_t{d.created.seconds}), d.created.nanoseconds};
  return s;
}

namespace {

bool SameVolume(const Superblock& a, const Superblock& b) {
  const Geometry &g = a.geometry, &h = b.geometry;
  return g.uuid == h.uuid && g.volume_blocks == h.volume_blocks && g.first_journal_block == h.first_journal_block &&
         g.journal_count == h.journal_count && g.journal_blocks == h.journal_blocks && g.first_group_block == h.first_group_block &&
         g.group_count == h.group_count && g.group_blocks == h.group_blocks && g.bitmap_blocks == h.bitmap_blocks &&
         a.root_inode == b.root_inode && a.root_generation == b.root_generation && a.hash_key == b.hash_key &&
         a.quorum_block == b.quorum_block && a.quorum_blocks == b.quorum_blocks;
}

}  // namespace

Task<Result<Superblock>> ReadSuperblock(BlockDevice& device) { return ReadSuperblock(device, nullptr); }

Task<Result<Superblock>> ReadSuperblock(BlockDevice& device, ReadSuperblockReport* report) {
  uint64_t blocks = device.info().size_bytes / kBlockSize;
  if (blocks <= kSuperblockBackupBlock) co_return Error(Errc::kNotFound, "too small for a Holdfast volume");
  std::array<BlockNo, 4> places = {kLive[0], kLive[1], BlockNo(kSuperblockBackupBlock), BlockNo(blocks - 1)};
  std::optional<Superblock> best;
  Error why(Errc::kNotFound, "no Holdfast superblock");
  AlignedBuffer buffer(kBlockSize);
  std::array<std::optional<Superblock>, 4> copies;
  for (size_t i = 0; i < places.size(); ++i) {
    // Backups are older by nature: they count only when both live copies are bad.
    if (i >= 2 && best && !report) break;
    if (i == 3 && best) places[3] = best->geometry.LastBackup();
    if (report) report->at[i] = places[i];
    if (places[i].v >= blocks) continue;
    auto read = co_await device.Read(places[i].v * kBlockSize, buffer.span());
    if (!read.ok()) co_return read.error();
    auto super = DecodeSuperblock(buffer.span(), places[i]);
    if (!super.ok()) {
      if (super.code() != Errc::kNotFound && why.code != Errc::kUnsupported) why = super.error();
      continue;
    }
    if (report) {
      report->good[i] = true;
      report->sequence[i] = super->sequence;
    }
    if (!best || (i < 2 && super->sequence > best->sequence)) best = *super;
    copies[i] = std::move(*super);
  }
  if (!best) co_return why;
  for (size_t i = 0; report && i < copies.size(); ++i) report->same[i] = copies[i] && SameVolume(*copies[i], *best);
  if (best->geometry.volume_blocks > blocks)
    co_return Error(Errc::kCorrupt, "the volume has " + std::to_string(best->geometry.volume_blocks) + " blocks, the device only " +
                                        std::to_string(blocks));
  co_return *best;
}

Task<Status> WriteSuperblock(BlockDevice& device, Superblock* super, bool with_backups) {
  AlignedBuffer buffer(kBlockSize);
  ++super->sequence;
  BlockNo live = kLive[super->sequence % 2];
  EncodeSuperblock(*super, live, buffer.span());
  HF_CO_TRY(co_await device.Write(live.v * kBlockSize, std::as_const(buffer).span(), WriteFlags::kFua));
  if (with_backups) {
    for (BlockNo at : {BlockNo(kSuperblockBackupBlock), super->geometry.LastBackup()}) {
      EncodeSuperblock(*super, at, buffer.span());
      HF_CO_TRY(co_await device.Write(at.v * kBlockSize, std::as_const(buffer).span(), WriteFlags::kFua));
    }
  }
  co_return Status();
}

std::string UuidText(const std::array<uint8_t, 16>& uuid) {
  static const char* kHex = "0123456789abcdef";
  std::string text;
  for (size_t i = 0; i < uuid.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += kHex[uuid[i] >> 4];
    text += kHex[uuid[i] & 15];
  }
  return text;
}

Result<std::array<uint8_t, 16>> ParseUuid(std::string_view text) {
  std::array<uint8_t, 16> uuid{};
  size_t digits = 0;
  for (char c : text) {
    if (c == '-') continue;
    int value = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
    if (value < 0 || digits == 32) return Error(Errc::kInvalid, "not a UUID: " + std::string(text));
    uuid[digits / 2] = static_cast<uint8_t>((uuid[digits / 2] << 4) | value);
    ++digits;
  }
  if (digits != 32) return Error(Errc::kInvalid, "not a UUID: " + std::string(text));
  return uuid;
}

}  // namespace holdfast::fs
