#include "mkfs/make_volume.h"

#include <algorithm>
#include <cstring>

#include "fs/alloc_bits.h"
#include "fs/disk_inode.h"
#include "fs/journal_header.h"
#include "fs/meta_block.h"
#include "fs/node.h"

namespace holdfast::mkfs {
namespace {

using namespace holdfast::fs;

constexpr size_t kChunk = 1 << 20;

Task<Status> WriteBlock(BlockDevice& device, BlockNo at, AlignedBuffer& buffer, uint64_t version) {
  SealBlock(buffer.span(), version);
  auto done = co_await device.Write(at.v * kBlockSize, std::as_const(buffer).span(), WriteFlags::kNone);
  co_return done;
}

bool AllZero(std::span<const std::byte> bytes) {
  return bytes[0] == std::byte{0} && std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0;
}

// Reads first: a new image file stays sparse.
Task<Status> ZeroRange(BlockDevice& device, uint64_t offset, uint64_t bytes) {
  AlignedBuffer read(kChunk), zero(kChunk);
  while (bytes > 0) {
    auto n = static_cast<size_t>(std::min<uint64_t>(bytes, kChunk));
    HF_CO_TRY(co_await device.Read(offset, read.span().first(n)));
    if (!AllZero(read.span().first(n))) HF_CO_TRY(co_await device.Write(offset, std::as_const(zero).span().first(n), WriteFlags::kNone));
    offset += n;
    bytes -= n;
  }
  co_return Status();
}

Task<Status> WriteJournal(BlockDevice& device, Geometry g, MountNo journal, WallTime now) {
  AlignedBuffer buffer(kBlockSize);
  // A volume made again under the same UUID must not take old records for its own.
  JournalHeader header;
  header.journal = journal;
  header.life = static_cast<uint64_t>(now.seconds) << 20;
  header.tail_sequence = 1;
  header.stamped = now;
  HF_CO_TRY(co_await WriteJournalHeader(device, g, &header));
  HF_CO_TRY(co_await WriteJournalHeader(device, g, &header));
  BlockNo start = g.JournalStart(journal);
  BlockNo owner(start.v + kJournalOwnerIndex);
  InitBlock(buffer.span(), {owner, BlockType::kJournalOwner, JournalResource(journal)}, g.uuid);
  HF_CO_TRY(co_await WriteBlock(device, owner, buffer, 1));
  for (uint32_t i = 0; i < kClaimsBlocks; ++i) {
    BlockNo at(start.v + kJournalClaimsIndex + i);
    InitBlock(buffer.span(), {at, BlockType::kClaims, JournalResource(journal)}, g.uuid);
    HF_CO_TRY(co_await WriteBlock(device, at, buffer, 1));
  }
  co_return Status();
}

bool HoldsBackup(const Geometry& g, uint64_t group) { return g.InGroups(g.LastBackup()) && g.GroupOf(g.LastBackup()) == group; }

void EncodeGroup(const Geometry& g, uint64_t group, bool has_root, std::span<std::byte> out) {
  InitBlock(out, {g.GroupStart(group), BlockType::kGroup, GroupResource(group)}, g.uuid);
  auto& d = As<DiskGroup>(out);
  d.group = group;
  d.first_block = g.GroupStart(group).v;
  d.block_count = g.GroupBlocks(group);
  d.flags = has_root ? 0 : kGroupBitmapsUnwritten;
  d.meta_count = has_root ? 1 : 0;
  d.free_count = g.GroupBlocks(group) - g.GroupOverhead() - (HoldsBackup(g, group) ? 1 : 0) - (has_root ? 1 : 0);
}

void EncodeRoot(const Superblock& super, WallTime now, std::span<std::byte> out) {
  InodeNo number = super.root_inode;
  InitBlock(out, {BlockNo(number.v), BlockType::kInode, ResourceOf(number)}, super.geometry.uuid);
  auto& inode = *reinterpret_cast<DiskInode*>(out.data() + kInodeOffset);
  inode.number = number.v;
  inode.generation = super.root_generation;
  inode.mode = 0040755;
  inode.nlink = 2;
  inode.parent = number.v;
  inode.parent_generation = super.root_generation;
  inode.change = 1;
  DiskTime time;
  time.seconds = static_cast<uint64_t>(now.seconds);
  time.nanoseconds = now.nanoseconds;
  inode.atime = inode.mtime = inode.ctime = inode.btime = time;
  NodeOwner owner{number.v, super.root_generation};
  Node(out.subspan(kXattrRootOffset, kXattrRootBytes)).Init(NodeKind::kXattrs, 0, owner);
  Node(out.subspan(kDataRootOffset, kDataRootBytes)).Init(NodeKind::kNames, 0, owner);
}

}  // namespace

Status CheckLockTable(const std::string& lock_table) {
  size_t colon = lock_table.find(':');
  auto bad = [&](const char* why) { return Error(Errc::kInvalid, "lock table '" + lock_table + "': " + why); };
  if (colon == std::string::npos) return bad("must be CLUSTER:FSNAME");
  auto check = [](const std::string& part, size_t max) {
    return !part.empty() && part.size() <= max && std::all_of(part.begin(), part.end(), [](unsigned char c) {
      return isalnum(c) || c == '-' || c == '_';
    });
  };
  if (!check(lock_table.substr(0, colon), 32)) return bad("the cluster's name is 1 to 32 letters, digits, '-' or '_'");
  if (!check(lock_table.substr(colon + 1), 30)) return bad("the filesystem's name is 1 to 30 letters, digits, '-' or '_'");
  return {};
}

Result<Superblock> PlanVolume(const DeviceInfo& info, const MakeVolumeOptions& options, Random& random) {
  if (!options.lock_table.empty()) HF_TRY(CheckLockTable(options.lock_table));
  if (options.label.size() > 63) return Error(Errc::kInvalid, "the label is longer than 63 bytes");
  if (options.journals == 0 || options.journals > 256) return Error(Errc::kInvalid, "1 to 256 journals");
  if (options.journal_mib > 32768) return Error(Errc::kInvalid, "a journal is at most 32768 MB");
  Superblock super;
  super.geometry = MakeGeometry({.volume_blocks = info.size_bytes / kBlockSize,
                                 .journal_count = options.journals,
                                 .journal_blocks = static_cast<uint32_t>(options.journal_mib * (kChunk / kBlockSize)),
                                 .quorum_area = options.quorum_area});
  Geometry& g = super.geometry;
  if (g.volume_blocks == 0)
    return Error(Errc::kNoSpace, info.name + " is too small: " + std::to_string(info.size_bytes >> 20) + " MiB hold no " +
                                     std::to_string(options.journals) + " journals and a group besides the quorum area (35 MiB)");
  auto fill = [&](std::span<uint8_t> out) {
    for (size_t i = 0; i < out.size(); i += 8) {
      uint64_t x = random.Next();
      std::memcpy(out.data() + i, &x, 8);
    }
  };
  g.uuid = options.uuid;
  if (g.uuid == std::array<uint8_t, 16>{}) {
    fill(g.uuid);
    g.uuid[6] = static_cast<uint8_t>((g.uuid[6] & 0x0f) | 0x40);  // RFC 4122 version 4
    g.uuid[8] = static_cast<uint8_t>((g.uuid[8] & 0x3f) | 0x80);
  }
  fill(super.hash_key);
  if (options.quorum_area) {
    super.quorum_block = kQuorumAreaOffset / kBlockSize;
    super.quorum_blocks = kQuorumAreaBytes / kBlockSize;
  }
  super.label = options.label;
  super.lock_table = options.lock_table;
  super.created = options.now;
  super.root_inode = InodeNo(g.GroupStart(0).v + g.GroupOverhead());
  super.root_generation = static_cast<uint32_t>(random.Next() | 1);
  super.sequence = 0;
  return super;
}

Task<Result<Superblock>> MakeVolume(BlockDevice& device, MakeVolumeOptions options, Random& random) {
  auto plan = PlanVolume(device.info(), options, random);
  if (!plan.ok()) co_return plan.error();
  Superblock super = *plan;
  const Geometry& g = super.geometry;
  uint64_t total = 2 + g.journal_count + g.group_count;
  uint64_t done = 0;
  auto step = [&](const char* what) {
    if (options.progress) options.progress(done, total, what);
    ++done;
  };
  AlignedBuffer buffer(kBlockSize);
  // The old volume, if there was one, ends here.
  for (BlockNo at : {BlockNo(kSuperblockBlock), BlockNo(kSuperblockBlock + 1), BlockNo(kSuperblockBackupBlock), g.LastBackup()})
    HF_CO_TRY(co_await device.Write(at.v * kBlockSize, std::as_const(buffer).span(), WriteFlags::kNone));
  HF_CO_TRY(co_await device.Flush());
  step("discarding");
  if (options.discard && device.info().discard) {
    auto discarded = co_await device.Discard(kQuorumAreaOffset, device.info().size_bytes - kQuorumAreaOffset);
    if (!discarded.ok() && discarded.code() != Errc::kUnsupported) co_return discarded.error();
  }
  step("quorum area");
  if (super.quorum_blocks != 0) HF_CO_TRY(co_await ZeroRange(device, super.quorum_block * kBlockSize, super.quorum_blocks * kBlockSize));
  for (uint32_t j = 0; j < g.journal_count; ++j) {
    step("journals");
    HF_CO_TRY(co_await WriteJournal(device, g, MountNo(j), options.now));
  }
  for (uint64_t group = 0; group < g.group_count; ++group) {
    step("groups");
    EncodeGroup(g, group, group == 0, buffer.span());
    HF_CO_TRY(co_await WriteBlock(device, g.GroupStart(group), buffer, 1));
  }
  for (uint32_t b = 0; b < g.bitmap_blocks; ++b) {
    InitBlock(buffer.span(), {g.BitmapOf(0, b), BlockType::kBitmap, GroupResource(0)}, g.uuid);
    auto& bitmap = As<DiskBitmap>(buffer.span());
    for (uint32_t i = 0; i < kBlocksPerBitmap; ++i) {
      uint64_t offset = uint64_t{b} * kBlocksPerBitmap + i;
      BlockNo block(g.GroupStart(0).v + offset);
      if (offset >= g.GroupBlocks(0) || g.IsOverhead(block) || block.v == super.root_inode.v) SetStateAt(bitmap, i, BlockState::kMeta);
    }
    HF_CO_TRY(co_await WriteBlock(device, g.BitmapOf(0, b), buffer, 1));
  }
  EncodeRoot(super, options.now, buffer.span());
  HF_CO_TRY(co_await WriteBlock(device, BlockNo(super.root_inode.v), buffer, 1));
  HF_CO_TRY(co_await device.Flush());
  HF_CO_TRY(co_await WriteSuperblock(device, &super, true));
  HF_CO_TRY(co_await WriteSuperblock(device, &super, false));
  HF_CO_TRY(co_await device.Flush());
  if (options.progress) options.progress(total, total, "done");
  co_return super;
}

}  // namespace holdfast::mkfs
