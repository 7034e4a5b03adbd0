// Operations of a mount, corner by corner: errors of the write-back, promises, times, dirty pages beside O_TRUNC and fallocate,
// listings. Each case fails without one line that nothing else missed.
#include <catch2/catch.hpp>

#include <sys/stat.h>

#include <map>

#include "tests/fs/vfs_files.h"

namespace holdfast::fs::test {

TEST_CASE("vfs: an error of the write-back is told by the next fsync, once", "[fs][unit]") {
  VolumeRig rig(8, 64);
  rig.knobs.flush_age = rig.knobs.flush_interval = Milliseconds(100);
  rig.Mount();
  uint64_t groups = rig.mount->storage.super.geometry.first_group_block * kBlockSize;
  std::string text = Pattern(40'000, 2);
  KernelInode a = MakeFile(rig, kRootNode, "f", text);
  rig.disk->SetFault([groups](sim::DiskOp op, NodeId, uint64_t offset, uint64_t) -> Status {
    return op == sim::DiskOp::kWrite && offset >= groups ? Status(Errc::kNoSpace) : Status();  // no array says so of ours
  });
  rig.world.RunFor(Seconds(2));
  rig.disk->SetFault({});
  CHECK(rig.Run(rig.vfs().Fsync(a, false)).code() == Errc::kNoSpace);
  CHECK(rig.Run(rig.vfs().Fsync(a, false)).ok());
  CHECK(ReadAll(rig, a) == text);
  rig.Unmount();
}

TEST_CASE("vfs: pages that a truncation or a hole drops give back what was promised to them", "[fs][unit]") {
  VolumeRig rig(9, 64);
  rig.Mount();
  KernelInode a = MakeFile(rig, kRootNode, "f", Pattern(100 * kBlockSize, 3));
  auto promised = [&] { return rig.mount->storage.alloc->pool().data_promised; };
  CHECK(promised() == 100);
  SetAttr set;
  set.which = kSetSize;
  set.size = 60 * kBlockSize;
  Must(rig.Run(rig.vfs().Set(a, set)));
  CHECK(promised() == 60);
  Must(rig.Run(rig.vfs().Fallocate(a, 10 * kBlockSize, 20 * kBlockSize, kFallocPunchHole | kFallocKeepSize)));
  CHECK(promised() == 40);
  Must(rig.Run(rig.vfs().Fsync(a, false)));
  CHECK(promised() == 0);
  rig.Unmount();
}

TEST_CASE("vfs: names that come and go move ctime, O_TRUNC moves mtime, and times outlive a crash", "[fs][unit]") {
  VolumeRig rig(10, 64);
  rig.Mount();
  KernelInode a = MakeFile(rig, kRootNode, "f", "text");
  auto attr = [&] { return Must(rig.Run(rig.vfs().GetAttr(a))); };
  Attr before = attr();
  auto later = [&] {
    before = attr();
    rig.world.RunFor(Milliseconds(50));
  };
  later();
  (void)Must(rig.Run(rig.vfs().Link(a, kRootNode, "g")));
  CHECK(attr().ctime > before.ctime);
  CHECK(attr().mtime == before.mtime);
  CHECK(attr().nlink == 2);
  later();
  (void)Must(rig.Run(rig.vfs().Unlink(kRootNode, "g")));
  CHECK(attr().ctime > before.ctime);
  CHECK(attr().mtime == before.mtime);
  CHECK(attr().nlink == 1);
  later();
  (void)Must(rig.Run(rig.vfs().Open(a, {.write = true, .truncate = true})));
  CHECK(attr().mtime > before.mtime);
  CHECK(attr().size == 0);
  Must(rig.Run(rig.vfs().Release(a)));
  SetAttr set;
  set.which = kSetMtime;
  set.mtime = {1'000'000, 7};
  (void)Must(rig.Run(rig.vfs().Set(a, set)));
  Must(rig.Run(rig.vfs().Fsync(a, false)));
  rig.Kill();
  rig.Mount();
  CHECK(attr().mtime == WallTime{1'000'000, 7});
  rig.Unmount();
}

TEST_CASE("vfs: dirty pages beside O_TRUNC, fallocate and SEEK_DATA", "[fs][unit]") {
  VolumeRig rig(11, 64);
  rig.Mount();
  Vfs& v = rig.vfs();
  KernelInode a = MakeFile(rig, kRootNode, "a", Pattern(50'000, 4));
  (void)Must(rig.Run(v.Open(a, {.write = true, .truncate = true})));
  CHECK(ReadAll(rig, a).empty());
  Must(rig.Run(v.Release(a)));
  KernelInode b = MakeFile(rig, kRootNode, "b", "");
  (void)Must(rig.Run(v.Fallocate(b, 0, 20 * kBlockSize, 0)));
  CHECK(rig.Run(v.SeekData(b, 0)).code() == Errc::kNoData);
  CHECK(Must(rig.Run(v.SeekHole(b, 0))) == 0);
  KernelInode c = MakeFile(rig, kRootNode, "c", Pattern(10 * kBlockSize, 5));
  (void)Must(rig.Run(v.Fallocate(c, 0, 20 * kBlockSize, 0)));
  CHECK(rig.mount->storage.alloc->pool().data_promised == 0);
  for (KernelInode node : {a, b, c}) Must(rig.Run(v.Fsync(node, false)));
  rig.Kill();
  rig.Mount();
  CHECK(ReadAll(rig, a).empty());
  CHECK(ReadAll(rig, b) == std::string(20 * kBlockSize, 0));
  CHECK(ReadAll(rig, c) == Pattern(10 * kBlockSize, 5) + std::string(10 * kBlockSize, 0));
  rig.Unmount();
}

TEST_CASE("vfs: a listing goes on behind a name that has gone; a large directory can be emptied and removed", "[fs][unit]") {
  VolumeRig rig(12, 64);
  rig.Mount();
  Vfs& v = rig.vfs();
  KernelInode d = Must(rig.Run(v.MakeDir(kRootNode, "d", 0755, kMe))).attr.node;
  constexpr int kNames = 300;
  for (int i = 0; i < kNames; ++i) (void)Must(rig.Run(v.MakeNode(d, "name" + std::to_string(i), S_IFREG | 0644, 0, kMe)));
  std::map<std::string, int> seen;
  uint64_t cookie = 0;
  for (int removed = 0;;) {
    DirPage page = Must(rig.Run(v.ReadDir(d, {.cookie = cookie, .bytes_max = 1024})));
    for (const DirEntry& e : page.entries) {
      ++seen[e.name];
      cookie = e.cookie;
    }
    if (page.end) break;
    const std::string last = page.entries.back().name;
    if (last.starts_with("name") && removed++ < 20) (void)Must(rig.Run(v.Unlink(d, last)));
  }
  for (int i = 0; i < kNames; ++i) CHECK(seen["name" + std::to_string(i)] == 1);
  for (int i = 0; i < kNames; ++i) (void)rig.Run(v.Unlink(d, "name" + std::to_string(i)));
  CHECK(rig.Run(v.RemoveDir(kRootNode, "d")).ok());
  rig.Unmount();
}

}  // namespace holdfast::fs::test
