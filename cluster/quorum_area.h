// The quorum area: where the disk acts as an acceptor and carries heartbeats. At kQuorumAreaOffset of the volume's own
// choosing (the superblock says where), or at offset 0 of a quorum device. Format: docs/format.md, "Quorum area".
//
//   block 0..255                   heartbeat block of node 1..256 (4 KiB each, contiguous: one read shows everybody)
//   then per node, kSlotBytes:     copy 0: header block (4 KiB), value area (64 KiB); copy 1: the same
//
// Records of headers and heartbeats fit the first 512 bytes (one sector: it is there or it is not). A slot is written by its
// node alone. A header names the value area that holds its value, so a header may be renewed without its value.
// INVARIANT: the newest valid header and the value it names are never overwritten.
// A zeroed area has no id and no vote until InitQuorumArea.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/block_device.h"
#include "base/bytes.h"
#include "base/ids.h"
#include "base/result.h"
#include "base/task.h"
#include "cluster/ballot.h"

namespace holdfast::cluster {

inline constexpr uint32_t kNodesMax = 256;
inline constexpr uint64_t kValueBytesMax = 64 << 10;  // of ClusterState
inline constexpr uint64_t kHeaderBytes = kBlockSize;
inline constexpr uint64_t kCopyBytes = kHeaderBytes + kValueBytesMax;
inline constexpr uint64_t kSlotBytes = 2 * kCopyBytes;
inline constexpr uint64_t kBeatsBytes = kNodesMax * kBlockSize;
// 35 MiB: the size of the whole area, for mkfs.
inline constexpr uint64_t kQuorumAreaBytes = kBeatsBytes + kNodesMax * kSlotBytes;
static_assert(kQuorumAreaBytes == 36'700'160);

// Relative to the area's begin. REQUIRES: 1 <= node <= 256, copy 0 or 1.
constexpr uint64_t BeatOffset(NodeId node) { return (node.v - 1) * kBlockSize; }
constexpr uint64_t HeaderOffset(NodeId node, uint32_t copy) {
  return kBeatsBytes + (node.v - 1) * kSlotBytes + copy * kCopyBytes;
}
constexpr uint64_t ValueOffset(NodeId node, uint32_t area) { return HeaderOffset(node, area) + kHeaderBytes; }

// A slot's header in memory.
struct SlotHeader {
  uint64_t area_id = 0;
  NodeId node;
  uint64_t sequence = 0;   // of writes of this slot
  uint64_t nonce = 0;      // start nonce of the writer
  Ballot promised;         // highest ballot that the owner has begun here
  Ballot accepted;         // ballot of the value; counter 0: no value
  uint32_t value_area = 0; // 0 or 1
  uint32_t value_bytes = 0;
  uint64_t value_hash = 0;
  uint64_t storage = 0;    // the owner's storage id, and what its own acceptor had accepted at that time:
  Ballot own_accepted;     // a store that is behind this has been restored from an old copy
};

// A heartbeat block in memory.
struct DiskBeat {
  uint64_t area_id = 0;
  NodeId node;
  uint64_t incarnation = 0;  // 0: not a member yet
  uint64_t nonce = 0;
  uint64_t sequence = 0;     // grows with every beat
  uint64_t decided_version = 0;
  Ballot decided_ballot;     // a slot with this accepted ballot holds the decided value of that version
  uint32_t flags = 0;        // kBeat*
  std::array<uint64_t, 4> hears{};  // bit (node - 1): it hears that node on the network
};
inline constexpr uint32_t kBeatLeaving = 1;  // goes on purpose
inline constexpr uint32_t kBeatJoining = 2;  // is no member

uint64_t ValueHash(std::span<const std::byte> value);

// Encode cannot fail and fills one zeroed block; Decode validates: kNotFound (zeroes: never written), kCorrupt.
void EncodeHeader(const SlotHeader& header, std::span<std::byte> block);
Result<SlotHeader> DecodeHeader(std::span<const std::byte> block, NodeId node);
void EncodeBeat(const DiskBeat& beat, std::span<std::byte> block);
Result<DiskBeat> DecodeBeat(std::span<const std::byte> block, NodeId node);

// Writes an empty area under a new id: every heartbeat block and both headers of every slot. Flushed when it returns.
// Whatever the area held is lost. REQUIRES: area_id != 0, offset a multiple of kBlockSize.
Task<Status> InitQuorumArea(BlockDevice* device, uint64_t offset, uint64_t area_id);
// The id of the area there; kNotFound where none was made.
Task<Result<uint64_t>> ReadAreaId(BlockDevice* device, uint64_t offset);

}  // namespace holdfast::cluster
