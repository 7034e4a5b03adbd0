#include "tests/fuzz/volume_fields.h"

#include "fs/disk_inode.h"

namespace holdfast::fuzz {
namespace {

using namespace holdfast::fs;

constexpr const char* kReserved = "reserved: written as zero, ignored when read";
constexpr const char* kTime = "any time is a time";
constexpr const char* kHigher = "any number of changes may have been made";
constexpr const char* kOlder = "tells who wrote or when, to people";

#define FIELD(type, member) {#member, offsetof(type, member), sizeof(type::member)}
#define FREE(type, member, why) {#member, offsetof(type, member), sizeof(type::member), why}

const Field kHeader[] = {
    FIELD(DiskBlockHeader, magic), FIELD(DiskBlockHeader, type), FIELD(DiskBlockHeader, resource_type), FREE(DiskBlockHeader, reserved0, kReserved),
    FREE(DiskBlockHeader, reserved1, kReserved), FIELD(DiskBlockHeader, block), FREE(DiskBlockHeader, version, kHigher),
    FIELD(DiskBlockHeader, resource_number), {"volume", offsetof(DiskBlockHeader, volume), 8}, {"reserved2", offsetof(DiskBlockHeader, reserved2), 8, kReserved}};

const Field kSuper[] = {
    FIELD(DiskSuperblock, super_magic), FIELD(DiskSuperblock, format_version), FIELD(DiskSuperblock, block_bytes),
    FREE(DiskSuperblock, compat, "features that may be ignored"), FREE(DiskSuperblock, ro_compat, "the mount becomes read-only"),
    FIELD(DiskSuperblock, incompat), FIELD(DiskSuperblock, volume_blocks),
    FIELD(DiskSuperblock, quorum_block), FIELD(DiskSuperblock, quorum_blocks),
    FIELD(DiskSuperblock, first_journal_block), FIELD(DiskSuperblock, journal_count), FIELD(DiskSuperblock, journal_blocks),
    FIELD(DiskSuperblock, first_group_block), FIELD(DiskSuperblock, group_count), FIELD(DiskSuperblock, group_blocks), FIELD(DiskSuperblock, bitmap_blocks),
    FIELD(DiskSuperblock, root_inode), {"quota_inodes", offsetof(DiskSuperblock, quota_inodes), 8, kReserved}, {"hash_key", offsetof(DiskSuperblock, hash_key), 8},
    {"label", offsetof(DiskSuperblock, label), 8, "a name"}, {"lock_table", offsetof(DiskSuperblock, lock_table), 8, "a name"},
    {"created", offsetof(DiskSuperblock, created), 8, kTime}, FIELD(DiskSuperblock, root_generation), FREE(DiskSuperblock, writer_features, kReserved)};

const Field kGroup[] = {
    FIELD(DiskGroup, group), FIELD(DiskGroup, first_block), FIELD(DiskGroup, block_count), FIELD(DiskGroup, flags), FIELD(DiskGroup, free_count),
    FIELD(DiskGroup, meta_free_count), FIELD(DiskGroup, data_count), FIELD(DiskGroup, meta_count),
    FREE(DiskGroup, version_floor, "any number of blocks may have been freed"), FREE(DiskGroup, refcount_root, kReserved)};

const Field kBitmap[] = {{"states of the group's own blocks", 64, 1}, {"states of used blocks", 64 + 2, 1}, {"states of used blocks", 64 + 4, 4},
                         {"states behind the end of the volume", 64 + kBlockPayloadBytes - 1, 1}};

const Field kJournalHeader[] = {
    FIELD(DiskJournalHeader, journal), FREE(DiskJournalHeader, state, "a journal may be clean or dirty"), FREE(DiskJournalHeader, life, kOlder),
    FREE(DiskJournalHeader, owner_node, kOlder), FREE(DiskJournalHeader, owner_incarnation, kOlder), FREE(DiskJournalHeader, owner_nonce, kOlder),
    FREE(DiskJournalHeader, owner_mount, kOlder), FREE(DiskJournalHeader, tail_position, "the log may begin anywhere"),
    FREE(DiskJournalHeader, tail_sequence, "a log may be empty"), {"stamped", offsetof(DiskJournalHeader, stamped), 8, kTime}};

const Field kOwner[] = {FIELD(DiskJournalOwner, orphan_head)};

const Field kClaims[] = {FIELD(DiskClaims, count), FREE(DiskClaims, reserved0, kReserved), FREE(DiskClaims, reserved1, kReserved),
                         {"claim.start", offsetof(DiskClaims, claims), 8, "without claims nobody reads it"},
                         {"claim.count", offsetof(DiskClaims, claims) + 8, 4, "without claims nobody reads it"},
                         {"claim.kind", offsetof(DiskClaims, claims) + 12, 1, "without claims nobody reads it"}};

constexpr const char* kTail = "a record that is not of this log ends it, as a torn one does";
#define LOG(type, member) {#member, offsetof(type, member), sizeof(type::member), kTail}
#define LOG_NAME(type) \
  {"name.journal", offsetof(type, name), 4, kTail}, {"name.life", offsetof(type, name) + 8, 8, kTail}, \
      {"name.incarnation", offsetof(type, name) + 16, 8, kTail}, {"name.nonce", offsetof(type, name) + 24, 8, kTail}, \
      {"name.sequence", offsetof(type, name) + 32, 8, kTail}
#define ENTRY(member) {"entry0." #member, offsetof(DiskLogDescriptor, entry) + offsetof(DiskLogEntry, member), sizeof(DiskLogEntry::member), kTail}

const Field kDescriptor[] = {
    LOG_NAME(DiskLogDescriptor), LOG(DiskLogDescriptor, index), LOG(DiskLogDescriptor, descriptors), LOG(DiskLogDescriptor, entries),
    LOG(DiskLogDescriptor, images), ENTRY(block), ENTRY(resource_number), ENTRY(version), ENTRY(crc32c), ENTRY(resource_type), ENTRY(flags)};
const Field kCommit[] = {LOG_NAME(DiskLogCommit), LOG(DiskLogCommit, descriptors), LOG(DiskLogCommit, images), LOG(DiskLogCommit, wall_seconds)};

#define INODE(member) {#member, kInodeOffset + offsetof(DiskInode, member), sizeof(DiskInode::member)}
#define INODE_FREE(member, why) {#member, kInodeOffset + offsetof(DiskInode, member), sizeof(DiskInode::member), why}
#define NODE(at, name, member) {name "." #member, (at) + offsetof(DiskNode, member), sizeof(DiskNode::member)}
#define SLOT(at, name, member) {name ".slot0." #member, (at) + sizeof(DiskNode) + offsetof(DiskSlot, member), sizeof(DiskSlot::member), "an empty node has no slots"}
constexpr const char* kData = "data or a tree, as the state says";

const Field kInode[] = {
    INODE(number), INODE(generation), INODE_FREE(state, "flags of a life that goes on"), INODE_FREE(mode, "permissions; the type is in the name too"),
    INODE(nlink), INODE_FREE(uid, "anybody"), INODE_FREE(gid, "anybody"), INODE_FREE(project, "any project"), INODE_FREE(flags, "the user's"),
    INODE_FREE(size, "a file may have any size"), INODE(blocks), INODE_FREE(rdev, "any device"), INODE_FREE(change, kHigher),
    INODE_FREE(parent, "of directories alone"), INODE_FREE(parent_generation, "of directories alone"), INODE_FREE(entries_low, "of directories alone"),
    {"atime", kInodeOffset + offsetof(DiskInode, atime), 8, kTime}, {"mtime", kInodeOffset + offsetof(DiskInode, mtime), 8, kTime},
    {"ctime", kInodeOffset + offsetof(DiskInode, ctime), 8, kTime}, {"btime", kInodeOffset + offsetof(DiskInode, btime), 8, kTime},
    INODE_FREE(orphan_next, "on an orphan list alone"), INODE_FREE(entries_high, "of directories alone"), INODE_FREE(quota_flags, kReserved),
    INODE_FREE(refcount, kReserved), NODE(kXattrRootOffset, "xattrs", kind), NODE(kXattrRootOffset, "xattrs", level), NODE(kXattrRootOffset, "xattrs", count),
    NODE(kXattrRootOffset, "xattrs", heap), NODE(kXattrRootOffset, "xattrs", dead), NODE(kXattrRootOffset, "xattrs", owner),
    NODE(kXattrRootOffset, "xattrs", generation), SLOT(kXattrRootOffset, "xattrs", key), SLOT(kXattrRootOffset, "xattrs", offset),
    SLOT(kXattrRootOffset, "xattrs", length), {"data.kind", kDataRootOffset, 1, kData}, {"data.level", kDataRootOffset + 1, 1, kData},
    {"data.count", kDataRootOffset + 2, 2, kData}, {"data.heap", kDataRootOffset + 4, 2, kData}, {"data.dead", kDataRootOffset + 6, 2, kData},
    {"data.owner", kDataRootOffset + 8, 8, kData}, {"data.generation", kDataRootOffset + 16, 4, kData}, {"data.slot0.key", kDataRootOffset + 24, 8, kData},
    {"data.slot0.offset", kDataRootOffset + 32, 2, kData}, {"data.slot0.length", kDataRootOffset + 34, 2, kData},
    {"data.last record", kDataRootOffset + kDataRootBytes - 8, 8, kData}, {"data.last record", kDataRootOffset + kDataRootBytes - 16, 8, kData}};

const Field kTree[] = {
    NODE(kTreeNodeOffset, "node", kind), NODE(kTreeNodeOffset, "node", level), NODE(kTreeNodeOffset, "node", count), NODE(kTreeNodeOffset, "node", heap),
    NODE(kTreeNodeOffset, "node", dead), NODE(kTreeNodeOffset, "node", owner), NODE(kTreeNodeOffset, "node", generation),
    {"node.reserved", kTreeNodeOffset + offsetof(DiskNode, reserved), 4, kReserved}, {"slot0.key", kTreeNodeOffset + 24, 8, "a file's block may be elsewhere"},
    {"slot0.offset", kTreeNodeOffset + 32, 2}, {"slot0.length", kTreeNodeOffset + 34, 2}, {"last record", kBlockSize - 8, 8, "a value's bytes"},
    {"last record", kBlockSize - 16, 8, "a value's bytes"}};

}  // namespace

std::span<const Field> HeaderFields() { return kHeader; }

std::span<const Field> FieldsOf(BlockType type) {
  switch (type) {
    case BlockType::kSuperblock: return kSuper;
    case BlockType::kGroup: return kGroup;
    case BlockType::kBitmap: return kBitmap;
    case BlockType::kInode: return kInode;
    case BlockType::kTree: return kTree;
    case BlockType::kJournalHeader: return kJournalHeader;
    case BlockType::kJournalOwner: return kOwner;
    case BlockType::kClaims: return kClaims;
    case BlockType::kLogDescriptor: return kDescriptor;
    case BlockType::kLogCommit: return kCommit;
    default: return {};
  }
}

}  // namespace holdfast::fuzz
