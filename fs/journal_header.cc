#include "fs/journal_header.h"

#include <optional>

#include "fs/meta_block.h"

namespace holdfast::fs {
namespace {

BlockNo CopyOf(const Geometry& geometry, MountNo journal, uint64_t sequence) {
  return BlockNo(geometry.JournalStart(journal).v + sequence % 2);
}

Result<JournalHeader> Decode(const Geometry& geometry, MountNo journal, std::span<const std::byte> block, BlockNo at) {
  HF_TRY(CheckBlock(block, at, BlockType::kJournalHeader, geometry.uuid));
  const auto& d = As<DiskJournalHeader>(block);
  auto bad = [&](const char* what) {
    return Error(Errc::kCorrupt, "journal " + std::to_string(journal.v) + ": " + what);
  };
  if (BlockResource(block) != JournalResource(journal)) return bad("its header belongs to another lock");
  if (d.journal != journal.v) return bad("its header is another journal's");
  if (d.state != static_cast<uint32_t>(JournalState::kClean) && d.state != static_cast<uint32_t>(JournalState::kDirty))
    return bad("unknown state");
  if (d.tail_position >= geometry.LogBlocks()) return bad("tail outside the log");
  if (d.tail_sequence > kVersionMax || d.life > kVersionMax) return bad("an impossible sequence or life");
  JournalHeader h;
  h.journal = journal;
  h.sequence = d.header.version;
  h.state = static_cast<JournalState>(uint32_t{d.state});
  h.life = d.life;
  h.owner = {NodeId(static_cast<uint32_t>(d.owner_node)), Incarnation(d.owner_incarnation), d.owner_nonce,
             MountNo(static_cast<uint32_t>(d.owner_mount))};
  h.tail_position = static_cast<uint32_t>(d.tail_position);
  h.tail_sequence = d.tail_sequence;
  h.stamped = {static_cast<int64_t>(uint64_t{d.stamped.seconds}), d.stamped.nanoseconds};
  return h;
}

}  // namespace

void EncodeJournalHeader(const Geometry& geometry, const JournalHeader& header, std::span<std::byte> block) {
  BlockNo at = CopyOf(geometry, header.journal, header.sequence);
  InitBlock(block, {at, BlockType::kJournalHeader, JournalResource(header.journal)}, geometry.uuid);
  auto& d = As<DiskJournalHeader>(block);
  d.journal = header.journal.v;
  d.state = static_cast<uint32_t>(header.state);
  d.life = header.life;
  d.owner_node = header.owner.node.v;
  d.owner_incarnation = header.owner.incarnation.v;
  d.owner_nonce = header.owner.nonce;
  d.owner_mount = header.owner.mount.v;
  d.tail_position = header.tail_position;
  d.tail_sequence = header.tail_sequence;
  d.stamped.seconds = static_cast<uint64_t>(header.stamped.seconds);
  d.stamped.nanoseconds = header.stamped.nanoseconds;
  SealBlock(block, header.sequence);
}

Task<Result<JournalHeader>> ReadJournalHeader(BlockDevice& device, Geometry geometry, MountNo journal) {
  auto header = co_await ReadJournalHeader(device, geometry, journal, nullptr);
  co_return header;
}

Task<Result<JournalHeader>> ReadJournalHeader(BlockDevice& device, Geometry geometry, MountNo journal, unsigned* good) {
  if (journal.v >= geometry.journal_count) co_return Error(Errc::kInvalid, "no journal " + std::to_string(journal.v));
  AlignedBuffer buffer(2 * kBlockSize);
  BlockNo start = geometry.JournalStart(journal);
  HF_CO_TRY(co_await device.Read(start.v * kBlockSize, buffer.span()));
  std::optional<JournalHeader> best;
  Error why = Errc::kCorrupt;
  for (unsigned i = 0; i < 2; ++i) {
    auto one = Decode(geometry, journal, std::as_const(buffer).span().subspan(i * kBlockSize, kBlockSize), BlockNo(start.v + i));
    if (!one.ok()) {
      why = one.error();
      continue;
    }
    if (good) ++*good;
    if (one->sequence % 2 == i && (!best || one->sequence > best->sequence)) {
      best = *one;
    }
  }
  if (!best) co_return why;
  co_return *best;
}

Task<Status> WriteJournalHeader(BlockDevice& device, Geometry geometry, JournalHeader* header) {
  AlignedBuffer buffer(kBlockSize);
  ++header->sequence;
  EncodeJournalHeader(geometry, *header, buffer.span());
  uint64_t offset = CopyOf(geometry, header->journal, header->sequence).v * kBlockSize;
  auto written = co_await device.Write(offset, std::as_const(buffer).span(), WriteFlags::kFua);
  co_return written;
}

}  // namespace holdfast::fs
