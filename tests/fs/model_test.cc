// Random operations on a mount against a tree in memory: compared while running, after a clean remount, after a kill or
// a power loss behind a sync; the volume is checked (fs/check.h) each time.
#include <catch2/catch.hpp>

#include <map>

#include <sys/stat.h>

#include "fs/check.h"
#include "tests/fs/vfs_rig.h"
#include "tests/sim/seeds.h"

namespace holdfast::fs::test {
namespace {

const Caller kMe{0, 0, 022};

struct Thing {
  FileType type = FileType::kRegular;
  KernelInode node = 0;
  std::string data;  // or the target
  uint32_t nlink = 1;
  std::map<std::string, std::shared_ptr<Thing>> names;
  std::map<std::string, Bytes> xattrs;
};
using ThingPtr = std::shared_ptr<Thing>;

struct Place {
  ThingPtr dir;
  std::string name;
};

class Model {
 public:
  Model(VolumeRig* rig, uint64_t seed) : rig_(rig), random_(seed) {
    root_ = std::make_shared<Thing>();
    root_->type = FileType::kDirectory;
    root_->node = kRootNode;
    root_->nlink = 2;
  }

  void Step() {
    switch (random_.Below(14)) {
      case 0: case 1: return Create();
      case 2: return MakeDir();
      case 3: case 4: case 5: return Write();
      case 6: return Truncate();
      case 7: return Unlink();
      case 8: return RemoveDir();
      case 9: case 10: return Rename();
      case 11: return Link();
      case 12: return Xattr();
      default: return random_.Below(2) ? Punch() : Symlink();
    }
  }

  void Compare() { CompareDir(*root_); }

 private:
  Vfs& vfs() { return rig_->vfs(); }
  template <class T>
  T Run(Task<T> task) {
    return rig_->Run(std::move(task));
  }
  std::string NewName() { return "n" + std::to_string(random_.Below(random_.Below(4) ? 12 : 400)) + std::string(random_.Below(3) * 60, 'y'); }
  std::string Text(size_t most) {
    std::string s(1 + random_.Below(most), 0);
    for (char& c : s) c = static_cast<char>(random_.Next());
    return s;
  }
  ThingPtr RandomDir() {
    ThingPtr at = root_;
    for (;;) {
      std::vector<ThingPtr> below;
      for (auto& [name, t] : at->names)
        if (t->type == FileType::kDirectory) below.push_back(t);
      if (below.empty() || random_.Below(3) == 0) return at;
      at = below[random_.Below(below.size())];
    }
  }
  std::optional<Place> RandomName() {
    ThingPtr dir = RandomDir();
    if (dir->names.empty()) return std::nullopt;
    auto it = std::next(dir->names.begin(), static_cast<ptrdiff_t>(random_.Below(dir->names.size())));
    return Place{dir, it->first};
  }
  ThingPtr RandomFile() {
    for (int i = 0; i < 8; ++i) {
      auto place = RandomName();
      if (place && place->dir->names[place->name]->type == FileType::kRegular) return place->dir->names[place->name];
    }
    return nullptr;
  }
  static bool Below(const ThingPtr& dir, const Thing* what) {
    if (dir.get() == what) return true;
    for (auto& [name, t] : dir->names)
      if (t->type == FileType::kDirectory && Below(t, what)) return true;
    return false;
  }
  void Expect(bool ok, Errc got, Errc wanted, const char* what) {
    HF_CHECK(ok ? got == Errc::kOk : got == wanted, "%s: got %d, wanted %d", what, static_cast<int>(got),
             ok ? 0 : static_cast<int>(wanted));
  }

  void Create() {
    ThingPtr dir = RandomDir();
    std::string name = NewName();
    auto made = Run(vfs().Create(dir->node, name, 0644, true, kMe, {.write = true}));
    Expect(!dir->names.contains(name), made.code(), Errc::kExists, "create");
    if (!made.ok()) return;
    auto t = std::make_shared<Thing>();
    t->node = made->attr.node;
    dir->names[name] = t;
    Must(Run(vfs().Release(t->node)));
  }
  void MakeDir() {
    ThingPtr dir = RandomDir();
    std::string name = NewName();
    auto made = Run(vfs().MakeDir(dir->node, name, 0755, kMe));
    Expect(!dir->names.contains(name), made.code(), Errc::kExists, "mkdir");
    if (!made.ok()) return;
    auto t = std::make_shared<Thing>();
    t->type = FileType::kDirectory;
    t->nlink = 2;
    t->node = made->attr.node;
    dir->names[name] = t;
    ++dir->nlink;
  }
  void Symlink() {
    ThingPtr dir = RandomDir();
    std::string name = NewName(), target(1 + random_.Below(4000), 't');
    auto made = Run(vfs().Symlink(dir->node, name, target, kMe));
    Expect(!dir->names.contains(name), made.code(), Errc::kExists, "symlink");
    if (!made.ok()) return;
    auto t = std::make_shared<Thing>();
    t->type = FileType::kSymlink;
    t->data = target;
    t->node = made->attr.node;
    dir->names[name] = t;
  }
  void Write() {
    ThingPtr f = RandomFile();
    if (!f) return;
    uint64_t at = random_.Below(3) ? random_.Below(f->data.size() + 1) : random_.Below(200'000);
    std::string text = Text(random_.Below(4) ? 3000 : 60'000);
    auto wrote = Must(Run(vfs().Write(f->node, at, AsBytes(text), {})));
    HF_CHECK(wrote.bytes == text.size(), "a short write");
    if (f->data.size() < at + text.size()) f->data.resize(at + text.size(), 0);
    f->data.replace(at, text.size(), text);
  }
  void Truncate() {
    ThingPtr f = RandomFile();
    if (!f) return;
    uint64_t size = random_.Below(3) ? random_.Below(f->data.size() + 1) : random_.Below(300'000);
    (void)Must(Run(vfs().Set(f->node, {.which = kSetSize, .size = size})));
    f->data.resize(size, 0);
  }
  void Punch() {
    ThingPtr f = RandomFile();
    if (!f) return;
    uint64_t at = random_.Below(f->data.size() + 1), length = 1 + random_.Below(50'000);
    const uint32_t kinds[] = {kFallocPunchHole | kFallocKeepSize, kFallocZeroRange, 0};
    uint32_t flags = kinds[random_.Below(3)];
    (void)Must(Run(vfs().Fallocate(f->node, at, length, flags)));
    if ((flags & kFallocKeepSize) == 0 && f->data.size() < at + length) f->data.resize(at + length, 0);
    if (flags != 0 && at < f->data.size()) {
      size_t n = std::min<size_t>(length, f->data.size() - at);
      f->data.replace(at, n, n, 0);
    }
  }
  void Unlink() {
    auto p = RandomName();
    if (!p) return;
    ThingPtr t = p->dir->names[p->name];
    auto removed = Run(vfs().Unlink(p->dir->node, p->name));
    Expect(t->type != FileType::kDirectory, removed.code(), Errc::kIsDirectory, "unlink");
    if (!removed.ok()) return;
    --t->nlink;
    p->dir->names.erase(p->name);
  }
  void RemoveDir() {
    auto p = RandomName();
    if (!p) return;
    ThingPtr t = p->dir->names[p->name];
    auto removed = Run(vfs().RemoveDir(p->dir->node, p->name));
    if (t->type != FileType::kDirectory) return Expect(false, removed.code(), Errc::kNotDirectory, "rmdir");
    Expect(t->names.empty(), removed.code(), Errc::kNotEmpty, "rmdir");
    if (!removed.ok()) return;
    --p->dir->nlink;
    p->dir->names.erase(p->name);
  }
  void Link() {
    ThingPtr f = RandomFile(), dir = RandomDir();
    if (!f) return;
    std::string name = NewName();
    auto linked = Run(vfs().Link(f->node, dir->node, name));
    Expect(!dir->names.contains(name), linked.code(), Errc::kExists, "link");
    if (!linked.ok()) return;
    ++f->nlink;
    dir->names[name] = f;
  }
  void Xattr() {
    auto p = RandomName();
    if (!p) return;
    ThingPtr t = p->dir->names[p->name];
    std::string name = "user." + std::to_string(random_.Below(6));
    if (random_.Below(3) == 0) {
      auto removed = Run(vfs().RemoveXattr(t->node, name));
      Expect(t->xattrs.contains(name), removed.code(), Errc::kNoData, "removexattr");
      t->xattrs.erase(name);
      return;
    }
    Bytes value(random_.Below(4) ? random_.Below(100) : random_.Below(65536), static_cast<std::byte>(random_.Next()));
    Must(Run(vfs().SetXattr(t->node, name, value, XattrMode::kSet)));
    t->xattrs[name] = value;
  }
  void Rename() {
    auto p = RandomName();
    if (!p) return;
    ThingPtr to = random_.Below(2) ? RandomDir() : p->dir;
    std::string name = NewName();
    ThingPtr t = p->dir->names[p->name];
    auto it = to->names.find(name);
    ThingPtr old = it == to->names.end() ? nullptr : it->second;
    bool exchange = old != nullptr && random_.Below(2) != 0;
    auto renamed = Run(vfs().Rename(p->dir->node, p->name, to->node, name, exchange ? uint32_t{kRenameExchange} : 0u));
    bool dir = t->type == FileType::kDirectory;
    bool loop = dir && Below(t, to.get());
    bool old_dir = old && old->type == FileType::kDirectory;
    bool old_loop = old_dir && Below(old, p->dir.get());
    if (loop) return Expect(false, renamed.code(), Errc::kInvalid, "rename into itself");
    if (old_loop) return Expect(false, renamed.code(), exchange ? Errc::kInvalid : Errc::kNotEmpty, "rename over an ancestor");
    if (old == t) return Expect(true, renamed.code(), Errc::kOk, "rename to itself");
    if (old && !exchange) {
      if (dir && !old_dir) return Expect(false, renamed.code(), Errc::kNotDirectory, "rename");
      if (!dir && old_dir) return Expect(false, renamed.code(), Errc::kIsDirectory, "rename");
      if (old_dir && !old->names.empty()) return Expect(false, renamed.code(), Errc::kNotEmpty, "rename");
    }
    Expect(true, renamed.code(), Errc::kOk, "rename");
    if (dir) --p->dir->nlink, ++to->nlink;
    if (exchange) {
      if (old_dir) --to->nlink, ++p->dir->nlink;
      p->dir->names[p->name] = old;
    } else {
      if (old_dir) --to->nlink;
      if (old) --old->nlink;
      p->dir->names.erase(p->name);
    }
    to->names[name] = t;
  }

  void CompareDir(const Thing& dir) {
    std::map<std::string, KernelInode> listed;
    for (uint64_t cookie = 0;;) {
      DirPage page = Must(Run(vfs().ReadDir(dir.node, {.cookie = cookie, .bytes_max = 2000})));
      for (const DirEntry& e : page.entries) {
        if (e.cookie > 2) HF_CHECK(listed.emplace(e.name, e.node).second, "%s listed twice", e.name.c_str());
        cookie = e.cookie;
      }
      if (page.end) break;
    }
    HF_CHECK(listed.size() == dir.names.size(), "a directory lists %zu names instead of %zu", listed.size(),
             dir.names.size());
    for (const auto& [name, t] : dir.names) {
      HF_CHECK(listed.contains(name) && listed[name] == t->node, "%s is missing or another inode", name.c_str());
      CompareThing(dir, name, *t);
    }
    HF_CHECK(Must(Run(vfs().GetAttr(dir.node))).nlink == dir.nlink, "links of a directory");
  }
  void CompareThing(const Thing& dir, const std::string& name, const Thing& t) {
    Entry e = Must(Run(vfs().Lookup(dir.node, name)));
    HF_CHECK(e.attr.node == t.node && e.attr.type() == t.type, "%s is another inode", name.c_str());
    HF_CHECK(Must(Run(vfs().ListXattr(t.node))).size() == t.xattrs.size(), "xattrs of %s", name.c_str());
    for (const auto& [n, v] : t.xattrs)
      HF_CHECK(Must(Run(vfs().GetXattr(t.node, n))) == v, "xattr %s of %s", n.c_str(), name.c_str());
    if (t.type == FileType::kDirectory) return CompareDir(t);
    HF_CHECK(e.attr.nlink == t.nlink, "%s has %u links instead of %u", name.c_str(), e.attr.nlink, t.nlink);
    if (t.type == FileType::kSymlink) {
      HF_CHECK(Must(Run(vfs().ReadLink(t.node))) == t.data, "the target of %s", name.c_str());
      return;
    }
    HF_CHECK(e.attr.size == t.data.size(), "%s has %llu bytes instead of %zu", name.c_str(),
             static_cast<unsigned long long>(e.attr.size), t.data.size());
    AlignedBuffer buffer(t.data.size() + 1);
    ReadResult r = Must(Run(vfs().Read(t.node, 0, buffer.span(), {})));
    HF_CHECK(r.bytes == t.data.size() && AsText(std::as_const(buffer).span().first(r.bytes)) == t.data,
             "the bytes of %s", name.c_str());
  }

  VolumeRig* rig_;
  sim::SimRandom random_;
  ThingPtr root_;
};

void CheckClean(VolumeRig* rig, bool tidy) {
  auto report = Must(rig->Run(CheckVolume(*rig->session, {})));
  std::string text;
  for (const Finding& f : report.findings) text += f.code + ": " + f.text + "; ";
  HF_CHECK(report.clean(), "seed %llu: the check finds: %s", static_cast<unsigned long long>(rig->world.seed()),
           text.c_str());
  HF_CHECK(!tidy || report.notes == 0, "seed %llu: after a clean end: %s",
           static_cast<unsigned long long>(rig->world.seed()), text.c_str());
}

std::string RunModel(uint64_t seed) {
  VolumeRig rig(seed, 48);
  rig.disk->knobs().crash_late = 0;
  sim::SimRandom& random = rig.world.random();
  rig.knobs.inodes_max = 8 + random.Below(50);
  rig.knobs.reap_batch = 1 + random.Below(20);
  rig.knobs.free_extents_max = 1 + random.Below(8);
  rig.knobs.inode_dirty_bytes_max = (1 + random.Below(20)) * 8192;
  rig.knobs.flush_age = Milliseconds(static_cast<int64_t>(1 + random.Below(2000)));
  rig.knobs.flush_interval = Milliseconds(100);
  rig.Mount();
  Model model(&rig, seed * 31);
  for (int round = 0; round < 4; ++round) {
    for (int i = 0; i < 120; ++i) {
      model.Step();
      if (random.Below(30) == 0) rig.world.RunFor(Milliseconds(static_cast<int64_t>(random.Below(3000))));
    }
    switch (random.Below(4)) {
      case 0:
        model.Compare();
        break;
      case 1:
        rig.Unmount();
        CheckClean(&rig, true);
        rig.Mount();
        model.Compare();
        break;
      case 2:
        Must(rig.Run(rig.vfs().SyncFs()));
        rig.Kill();
        if (random.Below(2)) {
          rig.disk->PowerLoss();
          rig.NewProcess();
        }
        CheckClean(&rig, false);
        rig.Mount();
        model.Compare();
        break;
      default:
        if (round < 3) break;
        rig.Kill();
        rig.disk->PowerLoss();
        rig.NewProcess();
        CheckClean(&rig, false);
        rig.Mount();
        rig.world.RunFor(Seconds(2));
        rig.Unmount();
        CheckClean(&rig, true);
        return "";
    }
  }
  model.Compare();
  rig.Unmount();
  CheckClean(&rig, true);
  return "";
}

}  // namespace

TEST_CASE("vfs: random operations match a tree in memory, through remounts and crashes; fsck finds nothing", "[fs][sim]") {
  auto report = sim::RunSeeds({.count = 60, .batch = 10}, RunModel);
  INFO(report.ToString());
  CHECK(report.ok());
}

}  // namespace holdfast::fs::test
