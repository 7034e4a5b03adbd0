// The check of a volume: a healthy one is clean, each kind of damage is found and named, what can be repaired is.
#include <catch2/catch.hpp>

#include "base/log.h"
#include "fs/alloc_bits.h"
#include "fs/check.h"
#include "fs/disk_inode.h"
#include "fs/meta_block.h"
#include "tests/fs/vfs_rig.h"

namespace holdfast::fs::test {
namespace {

const Caller kMe{0, 0, 022};

// A small tree: directories, files inline and with extents, xattrs, links.
struct Damaged {
  VolumeRig rig{11, 48};
  KernelInode dir = 0, file = 0, large = 0;
  Geometry geometry;

  Damaged() {
    SetLogLevel(LogLevel::kOff);
    rig.Mount();
    Vfs& vfs = rig.vfs();
    dir = Must(rig.Run(vfs.MakeDir(kRootNode, "dir", 0755, kMe))).attr.node;
    for (int i = 0; i < 200; ++i) {
      KernelInode node = Must(rig.Run(vfs.Create(dir, "file" + std::to_string(i), 0644, true, kMe, {.write = true}))).attr.node;
      std::string data(static_cast<size_t>(i * 60), 'd');
      Must(rig.Run(vfs.Write(node, 0, AsBytes(data), {})));
      Must(rig.Run(vfs.Release(node)));
      if (i == 10) file = node;
      if (i == 150) large = node;
    }
    Must(rig.Run(vfs.Link(file, kRootNode, "second")));
    Must(rig.Run(vfs.SetXattr(file, "user.test", holdfast::Bytes(3000, std::byte{7}), {})));
    geometry = rig.mount->storage.super.geometry;
    rig.Unmount();
  }
  static uint64_t BlockOf(KernelInode node) { return node & ((uint64_t{1} << 48) - 1); }
  AlignedBuffer Read(uint64_t block) {
    AlignedBuffer out(kBlockSize);
    Must(rig.Run(rig.session->Read(block * kBlockSize, out.span())));
    return out;
  }
  void Write(uint64_t block, AlignedBuffer& bytes, bool seal) {
    if (seal) SealBlock(bytes.span(), HeaderOf(bytes.span()).version + 1);
    Must(rig.Run(rig.session->Write(block * kBlockSize, std::as_const(bytes).span(), WriteFlags::kFua)));
  }
  CheckReport Check(bool repair = false) {
    CheckOptions options;
    options.repair_safe = options.repair_all = repair;
    return Must(rig.Run(CheckVolume(*rig.session, std::move(options))));
  }
  DiskInode& InodeIn(AlignedBuffer& bytes) { return *reinterpret_cast<DiskInode*>(bytes.data() + kInodeOffset); }
};

bool Has(const CheckReport& report, const std::string& code) {
  for (const Finding& f : report.findings) {
    if (f.code == code) return true;
  }
  return false;
}

}  // namespace

TEST_CASE("fsck: a healthy volume is clean", "[fs][fsck][unit]") {
  Damaged v;
  CheckReport report = v.Check();
  CHECK(report.clean());
  CHECK(report.notes == 0);
  CHECK(report.counts.directories == 2);
  CHECK(report.counts.names == 202);
}

TEST_CASE("fsck: a flipped bit in any kind of block is found", "[fs][fsck][unit]") {
  Damaged v;
  uint64_t journal = v.geometry.JournalStart(MountNo(1)).v;
  for (uint64_t block : {Damaged::BlockOf(v.file), Damaged::BlockOf(v.dir), v.geometry.GroupStart(0).v, v.geometry.BitmapOf(0, 0).v, journal + 2, journal + 3, uint64_t{kSuperblockBackupBlock}}) {
    AlignedBuffer bytes = v.Read(block);
    bytes.data()[700] ^= std::byte{4};
    v.Write(block, bytes, false);
    CheckReport report = v.Check();
    INFO(block);
    CHECK_FALSE(report.clean());
    bytes.data()[700] ^= std::byte{4};
    v.Write(block, bytes, false);
  }
  CHECK(v.Check().clean());
}

TEST_CASE("fsck: a wrong link count is found and repaired", "[fs][fsck][unit]") {
  Damaged v;
  for (KernelInode node : {v.file, v.dir}) {
    AlignedBuffer bytes = v.Read(Damaged::BlockOf(node));
    v.InodeIn(bytes).nlink = 9;
    v.Write(Damaged::BlockOf(node), bytes, true);
  }
  CheckReport report = v.Check(true);
  CHECK(Has(report, "nlink"));
  CHECK(report.errors == 2);
  CHECK(report.repaired == 2);
  CHECK(v.Check().clean());
}

TEST_CASE("fsck: a torn copy of a journal's header is a note, and preening writes it anew", "[fs][fsck][unit]") {
  Damaged v;
  for (uint64_t copy : {0, 1}) {
    uint64_t block = v.geometry.JournalStart(MountNo(1)).v + copy;
    AlignedBuffer bytes = v.Read(block);
    bytes.data()[80] ^= std::byte{4};
    v.Write(block, bytes, false);
    CheckReport report = v.Check();
    CHECK(report.clean());
    CHECK(Has(report, "journal-header-copy"));
    CheckOptions safe;
    safe.repair_safe = true;
    Must(v.rig.Run(CheckVolume(*v.rig.session, std::move(safe))));
    CHECK_FALSE(Has(v.Check(), "journal-header-copy"));
  }
}

TEST_CASE("fsck: a damaged bitmap or group header is made again from what is in use", "[fs][fsck][unit]") {
  Damaged v;
  auto damage = [&](uint64_t block) {
    AlignedBuffer bytes = v.Read(block);
    bytes.data()[300] ^= std::byte{4};
    v.Write(block, bytes, false);
  };
  uint64_t last = v.geometry.group_count - 1;
  SECTION("bitmap") { damage(v.geometry.BitmapOf(0, 0).v); }
  SECTION("header") { damage(v.geometry.GroupStart(0).v); }
  SECTION("header and bitmap") {
    damage(v.geometry.GroupStart(0).v);
    damage(v.geometry.BitmapOf(0, 0).v);
  }
  SECTION("header of a group whose bitmaps were never written") { damage(v.geometry.GroupStart(last).v); }
  uint64_t free_before = 0;
  {
    CheckOptions safe;
    safe.repair_safe = true;
    CheckReport report = Must(v.rig.Run(CheckVolume(*v.rig.session, std::move(safe))));
    CHECK_FALSE(report.clean());
    CHECK(report.repaired == 0);  // -p leaves it to a person
  }
  CheckReport report = v.Check(true);
  CHECK(report.errors > 0);
  CHECK(report.repaired == report.errors);
  CheckReport again = v.Check();
  CHECK(again.clean());
  free_before = again.counts.free_blocks;
  // And it is a volume to work with.
  v.rig.Mount();
  KernelInode node = Must(v.rig.Run(v.rig.vfs().Create(kRootNode, "after", 0644, true, kMe, {.write = true}))).attr.node;
  std::string data(100'000, 'x');
  Must(v.rig.Run(v.rig.vfs().Write(node, 0, AsBytes(data), {})));
  Must(v.rig.Run(v.rig.vfs().Release(node)));
  v.rig.Unmount();
  CheckReport used = v.Check();
  CHECK(used.clean());
  CHECK(used.counts.free_blocks < free_before);
}

TEST_CASE("fsck: leaked and lost blocks in a bitmap are found and repaired", "[fs][fsck][unit]") {
  Damaged v;
  uint64_t bitmap = v.geometry.BitmapOf(0, 0).v;
  AlignedBuffer bytes = v.Read(bitmap);
  uint32_t used = v.geometry.OffsetInGroup(BlockNo(Damaged::BlockOf(v.file)));
  SetStateAt(As<DiskBitmap>(bytes.span()), 9000, BlockState::kData);
  SetStateAt(As<DiskBitmap>(bytes.span()), 9100, BlockState::kMeta);
  SetStateAt(As<DiskBitmap>(bytes.span()), used, BlockState::kFree);
  v.Write(bitmap, bytes, true);
  CheckReport report = v.Check(true);
  CHECK(Has(report, "bitmap-leak"));
  CHECK(Has(report, "bitmap-used-free"));
  CHECK(Has(report, "group-counts"));
  CHECK(report.repaired == report.errors);
  CheckReport again = v.Check();
  CHECK(again.clean());
  CHECK(again.counts.meta_free_blocks > 0);
}

TEST_CASE("fsck: preening returns what nothing uses and leaves the rest", "[fs][fsck][unit]") {
  Damaged v;
  uint64_t bitmap = v.geometry.BitmapOf(0, 0).v;
  AlignedBuffer bytes = v.Read(bitmap);
  SetStateAt(As<DiskBitmap>(bytes.span()), 9000, BlockState::kData);
  v.Write(bitmap, bytes, true);
  AlignedBuffer inode = v.Read(Damaged::BlockOf(v.file));
  v.InodeIn(inode).nlink = 5;
  v.Write(Damaged::BlockOf(v.file), inode, true);
  CheckOptions options;
  options.repair_safe = true;
  CheckReport report = Must(v.rig.Run(CheckVolume(*v.rig.session, std::move(options))));
  CHECK(report.errors == 3);  // leak, counts, links
  CHECK(report.repaired == 2);
  CheckReport again = v.Check();
  CHECK(again.errors == 1);
  CHECK(Has(again, "nlink"));
}

TEST_CASE("fsck: a block used twice, a pointer outside, a name of nothing are found", "[fs][fsck][unit]") {
  Damaged v;
  uint64_t at = Damaged::BlockOf(v.large);
  AlignedBuffer good = v.Read(at);
  for (uint64_t start : {Damaged::BlockOf(v.file), uint64_t{3}, v.geometry.volume_blocks + 5}) {
    AlignedBuffer bytes = good.Clone();
    HeaderOf(bytes.span()).version = HeaderOf(v.Read(at).span()).version;
    Node node(bytes.span().subspan(kDataRootOffset, kDataRootBytes));
    REQUIRE(node.count() > 0);
    DiskExtent e = *reinterpret_cast<const DiskExtent*>(node.value(0).data());
    e.start = start;
    REQUIRE(node.Replace(0, {reinterpret_cast<const std::byte*>(&e), sizeof e}));
    v.Write(at, bytes, true);
    CheckReport report = v.Check();
    CHECK((Has(report, "block-shared") || Has(report, "bad-pointer")));
  }
  AlignedBuffer restored = good.Clone();
  v.Write(at, restored, true);
  // An inode of another generation under the old name.
  AlignedBuffer inode = v.Read(at);
  v.InodeIn(inode).generation = 1 + v.InodeIn(inode).generation;
  v.Write(at, inode, true);
  CHECK_FALSE(v.Check().clean());
}

TEST_CASE("fsck: orphans and claims of a dead mount are notes, and are returned", "[fs][fsck][unit]") {
  Damaged v;
  v.rig.Mount();
  Must(v.rig.Run(v.rig.vfs().Open(v.large, {})));
  Must(v.rig.Run(v.rig.vfs().MakeDir(v.dir, "new", 0755, kMe)));
  Must(v.rig.Run(v.rig.vfs().Unlink(v.dir, "file150")));
  Must(v.rig.Run(v.rig.vfs().SyncFs()));
  v.rig.Kill();
  CheckReport through = v.Check();
  CHECK(through.clean());
  CHECK(through.dirty_journals.size() == 1);
  CHECK(Has(through, "orphans-left"));
  CHECK(Has(through, "claims-left"));
  Must(v.rig.Run(ReplayJournal(*v.rig.session, v.geometry, MountNo(0), nullptr)));
  CheckReport repaired = v.Check(true);
  CHECK(repaired.clean());
  CheckReport after = v.Check();
  CHECK(after.clean());
  CHECK(after.notes == 0);
  CHECK(after.counts.names == 202);
  v.rig.Mount();
  CHECK(Must(v.rig.Run(v.rig.vfs().Lookup(v.dir, "file151"))).found());
  CHECK_FALSE(Must(v.rig.Run(v.rig.vfs().Lookup(v.dir, "file150"))).found());
  CHECK(v.rig.Run(v.rig.vfs().GetAttr(v.large)).code() == Errc::kStale);
  v.rig.Unmount();
  CHECK(v.Check().clean());
}

}  // namespace holdfast::fs::test
