// Operations of a mount: facts of names, attributes, data, orphans, space.
#include <catch2/catch.hpp>

#include <sys/stat.h>

#include <cstring>
#include <map>
#include <set>

#include "tests/fs/vfs_files.h"

namespace holdfast::fs::test {
namespace {

uint64_t FreeBlocks(VolumeRig& rig) { return Must(rig.Run(rig.vfs().GetStatFs())).free; }

}  // namespace

TEST_CASE("vfs: files, directories, links and special files live through a remount", "[fs][unit]") {
  VolumeRig rig(1, 64);
  rig.Mount();
  Vfs* vfs = &rig.vfs();
  Entry d = Must(rig.Run(vfs->MakeDir(kRootNode, "dir", 0755, kMe)));
  CHECK(d.attr.nlink == 2);
  CHECK(d.attr.uid == 1000);
  CHECK((d.attr.mode & 07777) == 0755);
  KernelInode small = MakeFile(rig, d.attr.node, "small", "hello");
  std::string text = Pattern(1'000'000, 7);
  KernelInode big = MakeFile(rig, d.attr.node, "big", text);
  (void)Must(rig.Run(vfs->Symlink(kRootNode, "link", "dir/small", kMe)));
  std::string long_target(4000, 'x');
  (void)Must(rig.Run(vfs->Symlink(kRootNode, "long", long_target, kMe)));
  (void)Must(rig.Run(vfs->MakeNode(kRootNode, "fifo", 0600 | S_IFIFO, 0, kMe)));
  (void)Must(rig.Run(vfs->MakeNode(kRootNode, "dev", 0600 | S_IFBLK, uint64_t{8} << 32 | 1, kMe)));
  Entry l = Must(rig.Run(vfs->Link(small, kRootNode, "hard")));
  CHECK(l.attr.nlink == 2);
  CHECK(rig.Run(vfs->MakeDir(kRootNode, "dir", 0755, kMe)).code() == Errc::kExists);
  CHECK(rig.Run(vfs->Link(d.attr.node, kRootNode, "dirlink")).code() == Errc::kPermission);
  CHECK(Must(rig.Run(vfs->GetAttr(kRootNode))).nlink == 3);

  for (int round = 0; round < 2; ++round) {
    CHECK(ReadAll(rig, small) == "hello");
    CHECK(ReadAll(rig, big) == text);
    vfs = &rig.vfs();
    Entry hard = Must(rig.Run(vfs->Lookup(kRootNode, "hard")));
    CHECK(hard.attr.node == small);
    CHECK(!Must(rig.Run(vfs->Lookup(kRootNode, "none"))).found());
    Entry up = Must(rig.Run(vfs->Lookup(d.attr.node, "..")));
    CHECK(up.attr.node == kRootNode);
    Entry link = Must(rig.Run(vfs->Lookup(kRootNode, "link")));
    CHECK(Must(rig.Run(vfs->ReadLink(link.attr.node))) == "dir/small");
    Entry longer = Must(rig.Run(vfs->Lookup(kRootNode, "long")));
    CHECK(Must(rig.Run(vfs->ReadLink(longer.attr.node))) == long_target);
    CHECK(Must(rig.Run(vfs->Lookup(kRootNode, "dev"))).attr.rdev == (uint64_t{8} << 32 | 1));
    CHECK(rig.Run(vfs->RemoveDir(kRootNode, "dir")).code() == Errc::kNotEmpty);
    if (round == 0) {
      rig.Unmount();
      rig.Mount();
    }
  }
  rig.Unmount();
}

TEST_CASE("vfs: what fsync acknowledged is there after kill -9 and replay", "[fs][unit]") {
  VolumeRig rig(2, 64);
  rig.Mount();
  std::string text = Pattern(300'000, 1);
  KernelInode a = MakeFile(rig, kRootNode, "synced", text);
  Must(rig.Run(rig.vfs().Fsync(a, false)));
  Must(rig.Run(rig.vfs().Fsync(kRootNode, false)));
  (void)MakeFile(rig, kRootNode, "unsynced", "lost perhaps");
  rig.Kill();
  rig.Mount();
  CHECK(ReadAll(rig, Must(rig.Run(rig.vfs().Lookup(kRootNode, "synced"))).attr.node) == text);
  rig.Unmount();
}

TEST_CASE("vfs: an unlinked open file lives until its last close, then its space comes back", "[fs][unit]") {
  VolumeRig rig(3, 64);
  rig.Mount();
  rig.world.RunFor(Seconds(1));
  uint64_t before = FreeBlocks(rig);
  Entry e = Must(rig.Run(rig.vfs().Create(kRootNode, "f", 0644, true, kMe, {.write = true})));
  std::string text = Pattern(2'000'000, 3);
  (void)Must(rig.Run(rig.vfs().Write(e.attr.node, 0, Text(text), {})));
  Must(rig.Run(rig.vfs().Fsync(e.attr.node, false)));
  RemoveResult r = Must(rig.Run(rig.vfs().Unlink(kRootNode, "f")));
  CHECK(r.nlink == 0);
  rig.world.RunFor(Seconds(20));
  CHECK(ReadAll(rig, e.attr.node) == text);
  Must(rig.Run(rig.vfs().Release(e.attr.node)));
  rig.world.RunFor(Seconds(20));
  CHECK(rig.Run(rig.vfs().GetAttr(e.attr.node)).code() == Errc::kStale);
  CHECK(rig.mount->vfs->core().orphans->empty());
  Must(rig.Run(rig.vfs().SyncFs()));
  CHECK(FreeBlocks(rig) + 3 >= before);
  rig.Unmount();
  rig.Mount();
  CHECK(rig.Run(rig.vfs().GetAttr(e.attr.node)).code() == Errc::kStale);
  rig.Unmount();
}

TEST_CASE("vfs: an orphan of a killed mount is freed by the next one", "[fs][unit]") {
  VolumeRig rig(4, 64);
  rig.Mount();
  std::vector<KernelInode> nodes;
  for (int i = 0; i < 5; ++i) {
    std::string name = "f" + std::to_string(i);
    Entry e = Must(rig.Run(rig.vfs().Create(kRootNode, name, 0644, true, kMe, {.write = true})));
    (void)Must(rig.Run(rig.vfs().Write(e.attr.node, 0, Text(Pattern(100'000, 3)), {})));
    (void)Must(rig.Run(rig.vfs().Unlink(kRootNode, name)));
    nodes.push_back(e.attr.node);
  }
  Must(rig.Run(rig.vfs().SyncFs()));
  rig.Kill();
  rig.Mount();
  CHECK(rig.mount->vfs->core().orphans->size() == 5);
  rig.world.RunFor(Seconds(10));
  CHECK(rig.mount->vfs->core().orphans->empty());
  for (KernelInode node : nodes) CHECK(rig.Run(rig.vfs().GetAttr(node)).code() == Errc::kStale);
  rig.Unmount();
}

TEST_CASE("vfs: a tmpfile gets a name by link", "[fs][unit]") {
  VolumeRig rig(5, 64);
  rig.Mount();
  Entry e = Must(rig.Run(rig.vfs().TmpFile(kRootNode, 0600, kMe)));
  CHECK(e.attr.nlink == 0);
  (void)Must(rig.Run(rig.vfs().Write(e.attr.node, 0, Text("tmp"), {})));
  (void)Must(rig.Run(rig.vfs().Link(e.attr.node, kRootNode, "named")));
  Must(rig.Run(rig.vfs().Release(e.attr.node)));
  rig.world.RunFor(Seconds(10));
  CHECK(rig.mount->vfs->core().orphans->empty());
  CHECK(ReadAll(rig, Must(rig.Run(rig.vfs().Lookup(kRootNode, "named"))).attr.node) == "tmp");
  rig.Unmount();
}

TEST_CASE("vfs: rename moves, replaces, exchanges, and refuses loops", "[fs][unit]") {
  VolumeRig rig(6, 64);
  rig.Mount();
  Vfs& v = rig.vfs();
  Entry a = Must(rig.Run(v.MakeDir(kRootNode, "a", 0755, kMe)));
  Entry b = Must(rig.Run(v.MakeDir(a.attr.node, "b", 0755, kMe)));
  Entry c = Must(rig.Run(v.MakeDir(kRootNode, "c", 0755, kMe)));
  KernelInode f = MakeFile(rig, b.attr.node, "f", "one");
  KernelInode g = MakeFile(rig, c.attr.node, "g", "two");
  CHECK(rig.Run(v.Rename(kRootNode, "a", b.attr.node, "x", 0)).code() == Errc::kInvalid);
  CHECK(rig.Run(v.Rename(kRootNode, "a", a.attr.node, "x", 0)).code() == Errc::kInvalid);
  CHECK(rig.Run(v.Rename(b.attr.node, "f", kRootNode, "a", 0)).code() == Errc::kNotEmpty);  // as Linux: an ancestor
  CHECK(rig.Run(v.Rename(a.attr.node, "b", kRootNode, "c", 0)).code() == Errc::kNotEmpty);
  CHECK(rig.Run(v.Rename(b.attr.node, "f", c.attr.node, "g", kRenameNoReplace)).code() == Errc::kExists);
  CHECK(rig.Run(v.Rename(b.attr.node, "f", c.attr.node, "g", kRenameWhiteout)).code() == Errc::kInvalid);
  (void)Must(rig.Run(v.Rename(b.attr.node, "f", c.attr.node, "g", kRenameExchange)));
  CHECK(Must(rig.Run(v.Lookup(c.attr.node, "g"))).attr.node == f);
  CHECK(Must(rig.Run(v.Lookup(b.attr.node, "f"))).attr.node == g);
  RenameResult over = Must(rig.Run(v.Rename(b.attr.node, "f", c.attr.node, "g", 0)));
  CHECK(over.replaced == f);
  CHECK(over.replaced_gone);
  (void)Must(rig.Run(v.Rename(a.attr.node, "b", c.attr.node, "b2", 0)));
  CHECK(Must(rig.Run(v.GetAttr(a.attr.node))).nlink == 2);
  CHECK(Must(rig.Run(v.GetAttr(c.attr.node))).nlink == 3);
  CHECK(Must(rig.Run(v.Lookup(b.attr.node, ".."))).attr.node == c.attr.node);
  (void)Must(rig.Run(v.Rename(kRootNode, "a", kRootNode, "a-longer-name", 0)));
  (void)Must(rig.Run(v.RemoveDir(kRootNode, "a-longer-name")));
  (void)Must(rig.Run(v.RemoveDir(c.attr.node, "b2")));
  CHECK(rig.Run(v.MakeDir(b.attr.node, "dead", 0755, kMe)).code() == Errc::kNotFound);
  CHECK(Must(rig.Run(v.GetAttr(kRootNode))).nlink == 3);
  rig.Unmount();
}

TEST_CASE("vfs: setgid directories, suid on write and chown", "[fs][unit]") {
  VolumeRig rig(7, 64);
  rig.Mount();
  Vfs& v = rig.vfs();
  Entry d = Must(rig.Run(v.MakeDir(kRootNode, "d", 0755, {1000, 100, 0})));
  SetAttr set{.which = kSetMode | kSetGid, .mode = 02775, .gid = 55};
  (void)Must(rig.Run(v.Set(d.attr.node, set)));
  Entry sub = Must(rig.Run(v.MakeDir(d.attr.node, "sub", 0755, kMe)));
  CHECK(sub.attr.gid == 55);
  CHECK((sub.attr.mode & S_ISGID) != 0);
  KernelInode f = MakeFile(rig, d.attr.node, "f", "x");
  CHECK(Must(rig.Run(v.GetAttr(f))).gid == 55);
  (void)Must(rig.Run(v.Set(f, {.which = kSetMode, .mode = 06755})));
  (void)Must(rig.Run(v.Write(f, 0, Text("y"), {.kill_privileges = true})));
  CHECK((Must(rig.Run(v.GetAttr(f))).mode & 07777) == 0755);
  (void)Must(rig.Run(v.Set(f, {.which = kSetMode, .mode = 06755})));
  (void)Must(rig.Run(v.Set(f, {.which = kSetUid, .uid = 5})));
  CHECK((Must(rig.Run(v.GetAttr(f))).mode & 07777) == 0755);
  // fallocate is a change of the data; a change of nothing counts when root or the owner asks for it.
  (void)Must(rig.Run(v.Set(f, {.which = kSetMode, .mode = 06755})));
  (void)Must(rig.Run(v.Fallocate(f, 0, 10, 0)));
  CHECK((Must(rig.Run(v.GetAttr(f))).mode & 07777) == 06755);
  (void)Must(rig.Run(v.Fallocate(f, 0, 10, kFallocKillPrivileges)));
  CHECK((Must(rig.Run(v.GetAttr(f))).mode & 07777) == 0755);
  for (auto [caller, mode] : {std::pair<uint32_t, uint32_t>{0, 0755}, {5, 0755}, {6, 06755}}) {
    (void)Must(rig.Run(v.Set(f, {.which = kSetMode, .mode = 06755})));
    Attr before = Must(rig.Run(v.GetAttr(f)));
    rig.world.RunFor(Milliseconds(10));
    (void)Must(rig.Run(v.Set(f, {.caller = caller})));
    Attr after = Must(rig.Run(v.GetAttr(f)));
    CHECK((after.mode & 07777) == mode);
    CHECK((after.ctime == before.ctime) == (caller == 6));
  }
  rig.Unmount();
}

TEST_CASE("vfs: holes, unwritten space, punching and zeroing read as they should", "[fs][unit]") {
  VolumeRig rig(8, 64);
  rig.Mount();
  Vfs& v = rig.vfs();
  KernelInode f = MakeFile(rig, kRootNode, "f", "");
  std::string model;
  auto write = [&](uint64_t at, size_t size, uint64_t seed) {
    std::string text = Pattern(size, seed);
    (void)Must(rig.Run(v.Write(f, at, Text(text), {})));
    if (model.size() < at + size) model.resize(at + size, 0);
    model.replace(at, size, text);
  };
  write(10, 20, 1);
  write(100'000, 5000, 2);
  CHECK(ReadAll(rig, f) == model);
  CHECK(Must(rig.Run(v.SeekData(f, 8192))) == 98304);
  CHECK(Must(rig.Run(v.SeekHole(f, 0))) == 4096);
  CHECK(rig.Run(v.SeekData(f, 105'000)).code() == Errc::kNoData);
  (void)Must(rig.Run(v.Fallocate(f, 20'000, 200'000, 0)));
  model.resize(220'000, 0);
  CHECK(ReadAll(rig, f) == model);
  write(30'000, 10'000, 3);
  CHECK(ReadAll(rig, f) == model);
  (void)Must(rig.Run(v.Fallocate(f, 33'000, 70'000, kFallocPunchHole | kFallocKeepSize)));
  model.replace(33'000, 70'000, 70'000, 0);
  CHECK(ReadAll(rig, f) == model);
  write(0, 50'000, 4);
  (void)Must(rig.Run(v.Fallocate(f, 1'000, 30'000, kFallocZeroRange)));
  model.replace(1'000, 30'000, 30'000, 0);
  CHECK(ReadAll(rig, f) == model);
  (void)Must(rig.Run(v.Set(f, {.which = kSetSize, .size = 41'234})));
  (void)Must(rig.Run(v.Set(f, {.which = kSetSize, .size = 90'000})));
  model.resize(41'234);
  model.resize(90'000, 0);
  CHECK(ReadAll(rig, f) == model);
  Must(rig.Run(v.Fsync(f, false)));
  CHECK(ReadAll(rig, f) == model);
  (void)Must(rig.Run(v.Set(f, {.which = kSetSize, .size = 0})));
  CHECK(Must(rig.Run(v.GetAttr(f))).blocks == 0);
  rig.Unmount();
}

TEST_CASE("vfs: the memory of large writes is kept instead of copied, and given back when it is on disk", "[fs][unit]") {
  VolumeRig rig(21, 256);
  rig.Mount();
  KernelInode file = MakeFile(rig, kRootNode, "kept", "");
  auto write = [&](uint64_t offset, const std::string& text) {
    auto memory = std::make_shared<AlignedBuffer>(text.size());
    std::memcpy(memory->data(), text.data(), text.size());
    WriteOptions options;
    options.memory = memory;
    (void)Must(rig.Run(rig.vfs().Write(file, offset, std::as_const(*memory).span().first(text.size()), options)));
    options.memory.reset();
    return std::weak_ptr<AlignedBuffer>(memory);
  };
  std::string model = Pattern(1 << 20, 1);
  auto kept = write(0, model);
  CHECK_FALSE(kept.expired());
  // Parts of kept pages are overwritten, by kept memory and by copies.
  std::string small = Pattern(5000, 2), large = Pattern(1 << 20, 3);
  auto copied = write(100'000, small);
  model.replace(100'000, small.size(), small);
  auto over = write(1 << 19, large);
  model.resize((1 << 19) + (1 << 20));
  model.replace(1 << 19, large.size(), large);
  CHECK_FALSE(over.expired());
  auto unaligned = write((1 << 19) + 100, large);
  model.resize(std::max<size_t>(model.size(), (1 << 19) + 100 + large.size()));
  model.replace((1 << 19) + 100, large.size(), large);
  CHECK((ReadAll(rig, file) == model));
  CHECK(copied.expired());
  CHECK(unaligned.expired());
  Must(rig.Run(rig.vfs().Fsync(file, false)));
  CHECK(kept.expired());
  CHECK(over.expired());
  CHECK((ReadAll(rig, file) == model));
  // Anything in any order, through remounts.
  sim::SimRandom random(77);
  for (int i = 0; i < 300; ++i) {
    uint64_t at = random.Below(4 << 20);
    switch (random.Below(8)) {
      case 0:
      case 1:
      case 2: at = at / kBlockSize * kBlockSize; [[fallthrough]];
      case 3: {
        bool whole = random.Below(2) == 0;
        std::string text = Pattern(whole ? (1 + random.Below(2)) << 19 : 1 + random.Below(700'000), i);
        (void)write(at, text);
        if (model.size() < at + text.size()) model.resize(at + text.size());
        model.replace(at, text.size(), text);
        break;
      }
      case 4: {
        SetAttr set;
        set.which = kSetSize;
        set.size = at;
        (void)Must(rig.Run(rig.vfs().Set(file, set)));
        model.resize(at);
        break;
      }
      case 5: {
        uint64_t length = 1 + random.Below(1 << 20);
        (void)Must(rig.Run(rig.vfs().Fallocate(file, at, length, kFallocPunchHole | kFallocKeepSize)));
        for (uint64_t k = at; k < std::min<uint64_t>(at + length, model.size()); ++k) model[k] = 0;
        break;
      }
      case 6: Must(rig.Run(rig.vfs().Fsync(file, false))); break;
      default:
        CHECK((ReadAll(rig, file) == model));
        if (random.Below(6) == 0) {
          rig.Unmount();
          rig.Mount();
        }
    }
  }
  CHECK((ReadAll(rig, file) == model));
  rig.Unmount();
}

TEST_CASE("vfs: append goes to the end, whatever the offset", "[fs][unit]") {
  VolumeRig rig(9, 64);
  rig.Mount();
  KernelInode f = MakeFile(rig, kRootNode, "f", "12345");
  WriteResult w = Must(rig.Run(rig.vfs().Write(f, 0, Text("678"), {.append = true})));
  CHECK(w.offset == 5);
  CHECK(ReadAll(rig, f) == "12345678");
  rig.Unmount();
}

TEST_CASE("vfs: readdir cookies stay valid while names come and go", "[fs][unit]") {
  VolumeRig rig(10, 128);
  rig.Mount();
  Vfs& v = rig.vfs();
  Entry d = Must(rig.Run(v.MakeDir(kRootNode, "d", 0755, kMe)));
  std::set<std::string> stay;
  for (int i = 0; i < 2000; ++i) {
    std::string name = "stay" + std::to_string(i);
    (void)Must(rig.Run(v.MakeNode(d.attr.node, name, S_IFREG | 0644, 0, kMe)));
    stay.insert(name);
  }
  std::map<std::string, int> seen;
  uint64_t cookie = 0;
  int extra = 0;
  for (;;) {
    DirPage page = Must(rig.Run(v.ReadDir(d.attr.node, {.cookie = cookie, .bytes_max = 4096})));
    for (const DirEntry& e : page.entries) {
      ++seen[e.name];
      cookie = e.cookie;
    }
    if (page.end) break;
    for (int i = 0; i < 10; ++i)
      (void)Must(rig.Run(v.MakeNode(d.attr.node, "new" + std::to_string(extra++), S_IFREG | 0644, 0, kMe)));
    if (extra > 100) (void)Must(rig.Run(v.Unlink(d.attr.node, "new" + std::to_string(extra - 100))));
  }
  for (const std::string& name : stay) REQUIRE(seen[name] == 1);
  CHECK(seen["."] == 1);
  CHECK(seen[".."] == 1);
  DirPage plus = Must(rig.Run(v.ReadDir(d.attr.node, {.bytes_max = 4096, .plus = true})));
  CHECK(plus.entries[2].has_attr);
  rig.Unmount();
}

TEST_CASE("vfs: xattrs of 64 KiB, their space freed with the inode", "[fs][unit]") {
  VolumeRig rig(11, 64);
  rig.Mount();
  Vfs& v = rig.vfs();
  KernelInode f = MakeFile(rig, kRootNode, "f", "x");
  Bytes big(65536, std::byte{7});
  Must(rig.Run(v.SetXattr(f, "user.big", big, XattrMode::kSet)));
  Must(rig.Run(v.SetXattr(f, "user.small", Bytes(10), XattrMode::kCreate)));
  CHECK(rig.Run(v.SetXattr(f, "user.small", Bytes(10), XattrMode::kCreate)).code() == Errc::kExists);
  CHECK(rig.Run(v.SetXattr(f, "user.no", Bytes(10), XattrMode::kReplace)).code() == Errc::kNoData);
  CHECK(rig.Run(v.SetXattr(f, "user.huge", Bytes(65537), XattrMode::kSet)).code() == Errc::kRange);
  rig.Unmount();
  rig.Mount();
  CHECK(Must(rig.Run(rig.vfs().GetXattr(f, "user.big"))) == big);
  CHECK(Must(rig.Run(rig.vfs().ListXattr(f))).size() == 2);
  Must(rig.Run(rig.vfs().RemoveXattr(f, "user.big")));
  CHECK(rig.Run(rig.vfs().GetXattr(f, "user.big")).code() == Errc::kNoData);
  (void)Must(rig.Run(rig.vfs().Unlink(kRootNode, "f")));
  rig.Unmount();
}

TEST_CASE("vfs: a full volume says so, nothing is half done, and unlink and truncate work", "[fs][unit]") {
  VolumeRig rig(12, 16);
  rig.Mount();
  Vfs& v = rig.vfs();
  std::string text = Pattern(200'000, 5);
  int made = 0;
  Errc code = Errc::kOk;
  while (code == Errc::kOk) {
    auto e = rig.Run(v.Create(kRootNode, "f" + std::to_string(made), 0644, true, kMe, {.write = true}));
    code = e.code();
    if (!e.ok()) break;
    auto w = rig.Run(v.Write(e->attr.node, 0, Text(text), {}));
    Must(rig.Run(v.Release(e->attr.node)));
    code = w.code();
    ++made;
    REQUIRE(made < 200);
  }
  CHECK(code == Errc::kNoSpace);
  CHECK(made > 20);
  Must(rig.Run(v.SyncFs()));
  CHECK(ReadAll(rig, Must(rig.Run(v.Lookup(kRootNode, "f3"))).attr.node) == text);
  (void)Must(rig.Run(v.Set(Must(rig.Run(v.Lookup(kRootNode, "f4"))).attr.node, {.which = kSetSize, .size = 10})));
  for (int i = 0; i < made; i += 2) (void)Must(rig.Run(v.Unlink(kRootNode, "f" + std::to_string(i))));
  rig.world.RunFor(Seconds(10));
  Must(rig.Run(v.SyncFs()));
  (void)MakeFile(rig, kRootNode, "again", text);
  rig.Unmount();
  rig.Mount();
  CHECK(ReadAll(rig, Must(rig.Run(rig.vfs().Lookup(kRootNode, "again"))).attr.node) == text);
  rig.Unmount();
}

}  // namespace holdfast::fs::test
