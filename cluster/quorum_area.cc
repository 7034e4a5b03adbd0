// Encoding of the quorum area and its making. See quorum_area.h.
#include "cluster/quorum_area.h"

#include <algorithm>
#include <cstring>

#include "base/crc32c.h"
#include "base/le.h"

namespace holdfast::cluster {
namespace {

constexpr uint64_t kHeaderMagic = 0x31544f4c53464851;  // "QHFSLOT1"
constexpr uint64_t kBeatMagic = 0x3154414542464851;    // "QHFBEAT1"
constexpr size_t kRecordBytes = 512;

struct DiskBallot {
  Le64 counter;
  Le64 nonce;
  Le32 node;
  Le32 reserved;
};
static_assert(sizeof(DiskBallot) == 24);

struct DiskSlotHeader {
  Le64 magic;
  Le64 area_id;
  Le32 node;
  Le32 value_area;
  Le64 sequence;
  Le64 nonce;
  DiskBallot promised;
  DiskBallot accepted;
  DiskBallot own_accepted;
  Le64 storage;
  Le64 value_hash;
  Le32 value_bytes;
  uint8_t reserved[kRecordBytes - 136];
  Le32 crc;  // CRC32C of the record with this field zero
};
static_assert(sizeof(DiskSlotHeader) == kRecordBytes);
static_assert(offsetof(DiskSlotHeader, promised) == 40 && offsetof(DiskSlotHeader, crc) == 508);

struct DiskBeatRecord {
  Le64 magic;
  Le64 area_id;
  Le32 node;
  Le32 flags;
  Le64 incarnation;
  Le64 nonce;
  Le64 sequence;
  Le64 decided_version;
  DiskBallot decided_ballot;
  Le64 hears[4];
  uint8_t reserved[kRecordBytes - 116];
  Le32 crc;
};
static_assert(sizeof(DiskBeatRecord) == kRecordBytes);
static_assert(offsetof(DiskBeatRecord, hears) == 80 && offsetof(DiskBeatRecord, crc) == 508);

DiskBallot Put(const Ballot& ballot) {
  DiskBallot out;
  out.counter = ballot.counter;
  out.nonce = ballot.nonce;
  out.node = ballot.node.v;
  out.reserved = 0;
  return out;
}
Ballot Take(const DiskBallot& ballot) { return {ballot.counter, NodeId(ballot.node), ballot.nonce}; }

template <class Record>
void Seal(Record& record, std::span<std::byte> block) {
  record.crc = 0;
  auto bytes = std::as_bytes(std::span(&record, 1));
  record.crc = Crc32c(bytes);
  std::fill(block.begin(), block.end(), std::byte{0});
  std::memcpy(block.data(), &record, sizeof(record));
}

template <class Record>
Result<Record> Open(std::span<const std::byte> block, uint64_t magic, NodeId node) {
  if (block.size() < sizeof(Record)) return Errc::kInvalid;
  if (std::all_of(block.begin(), block.begin() + sizeof(Record), [](std::byte b) { return b == std::byte{0}; }))
    return Errc::kNotFound;
  Record record;
  std::memcpy(&record, block.data(), sizeof(record));
  uint32_t crc = record.crc;
  record.crc = 0;
  if (record.magic != magic) return Error(Errc::kCorrupt, "not a record of the quorum area");
  if (Crc32c(std::as_bytes(std::span(&record, 1))) != crc) return Error(Errc::kCorrupt, "checksum");
  if (record.node != node.v) return Error(Errc::kCorrupt, "the record of another node");
  return record;
}

}  // namespace

uint64_t ValueHash(std::span<const std::byte> value) {
  uint64_t hash = 0xcbf29ce484222325;
  for (std::byte b : value) hash = (hash ^ static_cast<uint8_t>(b)) * 0x100000001b3;
  return hash;
}

void EncodeHeader(const SlotHeader& header, std::span<std::byte> block) {
  DiskSlotHeader disk;
  std::memset(&disk, 0, sizeof(disk));
  disk.magic = kHeaderMagic;
  disk.area_id = header.area_id;
  disk.node = header.node.v;
  disk.value_area = header.value_area;
  disk.sequence = header.sequence;
  disk.nonce = header.nonce;
  disk.promised = Put(header.promised);
  disk.accepted = Put(header.accepted);
  disk.own_accepted = Put(header.own_accepted);
  disk.storage = header.storage;
  disk.value_hash = header.value_hash;
  disk.value_bytes = header.value_bytes;
  Seal(disk, block);
}

Result<SlotHeader> DecodeHeader(std::span<const std::byte> block, NodeId node) {
  auto disk = Open<DiskSlotHeader>(block, kHeaderMagic, node);
  if (!disk.ok()) return disk.error();
  SlotHeader header;
  header.area_id = disk->area_id;
  header.node = node;
  header.sequence = disk->sequence;
  header.nonce = disk->nonce;
  header.promised = Take(disk->promised);
  header.accepted = Take(disk->accepted);
  header.own_accepted = Take(disk->own_accepted);
  header.storage = disk->storage;
  header.value_hash = disk->value_hash;
  header.value_bytes = disk->value_bytes;
  header.value_area = disk->value_area;
  if (header.value_area > 1 || header.value_bytes > kValueBytesMax || header.area_id == 0 ||
      (header.accepted.counter != 0) != (header.value_bytes != 0) || header.accepted > header.promised)
    return Error(Errc::kCorrupt, "a slot header that makes no sense");
  return header;
}

void EncodeBeat(const DiskBeat& beat, std::span<std::byte> block) {
  DiskBeatRecord disk;
  std::memset(&disk, 0, sizeof(disk));
  disk.magic = kBeatMagic;
  disk.area_id = beat.area_id;
  disk.node = beat.node.v;
  disk.flags = beat.flags;
  disk.incarnation = beat.incarnation;
  disk.nonce = beat.nonce;
  disk.sequence = beat.sequence;
  disk.decided_version = beat.decided_version;
  disk.decided_ballot = Put(beat.decided_ballot);
  for (size_t i = 0; i < beat.hears.size(); ++i) disk.hears[i] = beat.hears[i];
  Seal(disk, block);
}

Result<DiskBeat> DecodeBeat(std::span<const std::byte> block, NodeId node) {
  auto disk = Open<DiskBeatRecord>(block, kBeatMagic, node);
  if (!disk.ok()) return disk.error();
  DiskBeat beat;
  beat.area_id = disk->area_id;
  beat.node = node;
  beat.flags = disk->flags;
  beat.incarnation = disk->incarnation;
  beat.nonce = disk->nonce;
  beat.sequence = disk->sequence;
  beat.decided_version = disk->decided_version;
  beat.decided_ballot = Take(disk->decided_ballot);
  for (size_t i = 0; i < beat.hears.size(); ++i) beat.hears[i] = disk->hears[i];
  return beat;
}

Task<Status> InitQuorumArea(BlockDevice* device, uint64_t offset, uint64_t area_id) {
  if (area_id == 0 || offset % kBlockSize != 0) co_return Error(Errc::kInvalid, "area id or offset");
  if (offset + kQuorumAreaBytes > device->info().size_bytes)
    co_return Error(Errc::kNoSpace, device->info().name + " is too small for a quorum area of 35 MiB");
  // Headers first: until every one of them carries the new id, no reader takes the area for whole.
  AlignedBuffer block(kBlockSize);
  for (uint32_t n = 1; n <= kNodesMax; ++n) {
    SlotHeader header;
    header.area_id = area_id;
    header.node = NodeId(n);
    EncodeHeader(header, block.span());
    for (uint32_t copy = 0; copy < 2; ++copy) {
      auto status = co_await device->Write(offset + HeaderOffset(NodeId(n), copy), block.span(), WriteFlags::kNone);
      if (!status.ok()) co_return status.error();
    }
  }
  AlignedBuffer beats(kBeatsBytes);
  for (uint32_t n = 1; n <= kNodesMax; ++n) {
    DiskBeat beat;
    beat.area_id = area_id;
    beat.node = NodeId(n);
    EncodeBeat(beat, beats.span().subspan((n - 1) * kBlockSize, kBlockSize));
  }
  auto status = co_await device->Write(offset, beats.span(), WriteFlags::kNone);
  if (!status.ok()) co_return status.error();
  auto flushed = co_await device->Flush();
  co_return flushed;
}

Task<Result<uint64_t>> ReadAreaId(BlockDevice* device, uint64_t offset) {
  if (offset + kQuorumAreaBytes > device->info().size_bytes) co_return Error(Errc::kNotFound, "no quorum area");
  // A heartbeat block may be under way; any valid one of the first few tells.
  AlignedBuffer blocks(8 * kBlockSize);
  auto status = co_await device->Read(offset, blocks.span());
  if (!status.ok()) co_return status.error();
  for (uint32_t n = 1; n <= 8; ++n) {
    auto beat = DecodeBeat(blocks.span().subspan((n - 1) * kBlockSize, kBlockSize), NodeId(n));
    if (beat.ok() && beat->area_id != 0) co_return beat->area_id;
  }
  co_return Error(Errc::kNotFound, "there is no quorum area");
}

}  // namespace holdfast::cluster
