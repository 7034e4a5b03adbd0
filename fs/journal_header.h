// JournalHeader: who owns a journal, whether it is clean, and where replay starts; two alternating copies on disk.
// Anybody may read it without a lock: the copy with the higher sequence that validates is the truth.
// Errors: kCorrupt (neither copy validates, or fields out of range), device errors.
#pragma once

#include <cstdint>

#include "base/block_device.h"
#include "base/clock.h"
#include "base/ids.h"
#include "base/result.h"
#include "base/task.h"
#include "fs/format.h"
#include "fs/geometry.h"

namespace holdfast::fs {

// Stamped into the header and into every record. A fence token must name exactly this before anybody else replays.
struct OwnerStamp {
  NodeId node;
  Incarnation incarnation;
  uint64_t nonce = 0;
  MountNo mount;
  constexpr bool operator==(const OwnerStamp&) const = default;
};

struct JournalHeader {
  MountNo journal;
  uint64_t sequence = 0;  // of the header copies
  JournalState state = JournalState::kClean;
  uint64_t life = 0;
  OwnerStamp owner;       // the last one, when clean
  uint32_t tail_position = 0;
  uint64_t tail_sequence = 0;
  WallTime stamped;
};

Task<Result<JournalHeader>> ReadJournalHeader(BlockDevice& device, Geometry geometry, MountNo journal);
// For fsck: *good is how many of the two copies are.
Task<Result<JournalHeader>> ReadJournalHeader(BlockDevice& device, Geometry geometry, MountNo journal, unsigned* good);
// Sequence + 1 into the other copy, FUA.
Task<Status> WriteJournalHeader(BlockDevice& device, Geometry geometry, JournalHeader* header);
void EncodeJournalHeader(const Geometry& geometry, const JournalHeader& header, std::span<std::byte> block);

}  // namespace holdfast::fs
