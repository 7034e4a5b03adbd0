#include "tests/fuzz/mounted_volume.h"

#include <sys/stat.h>

#include "base/log.h"
#include "dlm/standalone.h"
#include "fs/replay.h"

namespace holdfast::fuzz {
namespace {

const fs::Caller kMe{0, 0, 022};
constexpr size_t kVisitsMax = 3000;  // hostile trees can name much

bool SaysDamage(const Error& error) {
  return error.code == Errc::kCorrupt || error.code == Errc::kIo || error.code == Errc::kFenced;
}

}  // namespace

MountedVolume::MountedVolume(sim::DiskImage image) : process_(world_.Start(NodeId(1))), device_(std::move(image)) {
  SetLogLevel(LogLevel::kOff);
}

MountedVolume::~MountedVolume() {
  if (mount_) Withdraw();
}

Status MountedVolume::Mount() {
  fatal_.clear();
  visits_ = 0;
  MemberId self{NodeId(1), Incarnation(1), 77};
  space_ = dlm::MakeStandaloneLockSpace(process_, self);
  fs::MountOptions options;
  options.device = &device_;
  options.executor = &process_;
  options.space = space_.get();
  options.owner = {self.node, self.incarnation, self.nonce, MountNo(0)};
  mount_ = std::make_unique<fs::Mount>(options);
  mount_->SetOnFatal([this](Error why) { fatal_ = why.ToString(); });
  Status started = Run(mount_->Start());
  if (started.ok()) device_.Guard(mount_->superblock().geometry, MountNo(0));
  if (!started.ok()) Withdraw();
  return started;
}

Status MountedVolume::Unmount() {
  Status stopped = Run(mount_->Stop());
  if (!stopped.ok()) {
    Withdraw();
    return stopped;
  }
  Settle();
  return stopped;
}

void MountedVolume::Withdraw() {
  world_.Run(process_, mount_->Withdraw(Error(Errc::kCancelled, "the test ends")));
  Settle();
}

// What was posted runs to its end before its objects go.
void MountedVolume::Settle() {
  world_.RunFor(Seconds(30));
  mount_.reset();
  space_.reset();
  device_.Unguard();
}

std::vector<std::string> MountedVolume::Walk() {
  std::vector<std::string> wrong;
  WalkDirectory(fs::kRootNode, "", 0, &wrong);
  auto space = Run(vfs().GetStatFs());
  if (!space.ok()) wrong.push_back("statfs: " + space.error().ToString());
  return wrong;
}

void MountedVolume::WalkDirectory(KernelInode node, std::string path, int depth, std::vector<std::string>* wrong) {
  uint64_t cookie = 0;
  for (;;) {
    if (++visits_ > kVisitsMax || depth > 20) return;
    auto page = Run(vfs().ReadDir(node, {.cookie = cookie, .plus = true}));
    if (!page.ok()) {
      wrong->push_back("readdir " + path + "/: " + page.error().ToString());
      return;
    }
    for (const fs::DirEntry& entry : page->entries) {
      if (entry.cookie <= cookie && cookie != 0) wrong->push_back("readdir " + path + "/: cookies do not grow");
      cookie = entry.cookie;
      if (entry.name == "." || entry.name == "..") continue;
      if (++visits_ > kVisitsMax) return;
      std::string name = path + "/" + entry.name;
      auto found = Run(vfs().Lookup(node, entry.name));
      if (!found.ok() || !found->found()) {
        wrong->push_back("lookup " + name + ": " + (found.ok() ? "not found" : found.error().ToString()));
        continue;
      }
      if (found->attr.type() != entry.type) wrong->push_back("lookup " + name + ": another type than readdir says");
      if (entry.type == fs::FileType::kDirectory) {
        WalkDirectory(found->attr.node, name, depth + 1, wrong);
      } else {
        WalkFile(entry, name, wrong);
      }
    }
    if (page->end || page->entries.empty()) return;
  }
}

void MountedVolume::WalkFile(const fs::DirEntry& entry, const std::string& path, std::vector<std::string>* wrong) {
  auto say = [&](const char* what, const Error& error) { wrong->push_back(std::string(what) + " " + path + ": " + error.ToString()); };
  auto attr = Run(vfs().GetAttr(entry.node));
  if (!attr.ok()) return say("getattr", attr.error());
  AlignedBuffer buffer(64 << 10);
  if (attr->type() == fs::FileType::kRegular) {
    for (uint64_t at : {uint64_t{0}, uint64_t{1} << 20, uint64_t{2} << 20, attr->size > 65536 ? (attr->size - 65536) & ~uint64_t{4095} : 0}) {
      if (at >= attr->size && at != 0) continue;
      auto read = Run(vfs().Read(entry.node, at, buffer.span(), {}));
      if (!read.ok()) return say("read", read.error());
    }
    auto data = Run(vfs().SeekData(entry.node, 0));
    if (!data.ok() && data.code() != Errc::kNoData) say("seek", data.error());
  }
  if (attr->type() == fs::FileType::kSymlink) {
    auto target = Run(vfs().ReadLink(entry.node));
    if (!target.ok()) say("readlink", target.error());
  }
  auto names = Run(vfs().ListXattr(entry.node));
  if (!names.ok()) return say("listxattr", names.error());
  for (const std::string& name : *names) {
    auto value = Run(vfs().GetXattr(entry.node, name));
    if (!value.ok()) say("getxattr", value.error());
  }
}

std::vector<std::string> MountedVolume::Change() {
  std::vector<std::string> wrong;
  fs::Vfs& v = vfs();
  auto look = [&](const char* what, const auto& result) {
    if (!result.ok() && SaysDamage(result.error())) wrong.push_back(std::string(what) + ": " + result.error().ToString());
    return result.ok();
  };
  auto find = [&](KernelInode parent, const char* name) -> KernelInode {
    auto entry = Run(v.Lookup(parent, name));
    return look("lookup", entry) ? entry->attr.node : 0;
  };
  Bytes data(30'000, std::byte{'n'});
  for (const char* name : {"inline", "some", "large", "attrs", "renamed"}) {
    KernelInode node = find(fs::kRootNode, name);
    if (node == 0) continue;
    look("write", Run(v.Write(node, 50, data, {})));
    look("write far", Run(v.Write(node, 3 << 20, data, {})));
    look("punch", Run(v.Fallocate(node, 4096, 8192, fs::kFallocPunchHole | fs::kFallocKeepSize)));
    look("setxattr", Run(v.SetXattr(node, "user.small", Bytes(700, std::byte{3}), fs::XattrMode::kSet)));
    look("removexattr", Run(v.RemoveXattr(node, "user.large")));
    look("fsync", Run(v.Fsync(node, false)));
    look("truncate", Run(v.Set(node, {.which = fs::kSetSize, .size = 5000})));
  }
  KernelInode names = find(fs::kRootNode, "names"), sub = find(fs::kRootNode, "sub");
  if (names != 0) {
    for (int i = 0; i < 180; i += 3) look("unlink", Run(v.Unlink(names, "a-name-that-takes-some-room-" + std::to_string(i))));
    for (int i = 0; i < 30; ++i) look("mknod", Run(v.MakeNode(names, "new" + std::to_string(i), S_IFREG | 0644, 0, kMe)));
  }
  if (sub != 0) {
    look("mkdir", Run(v.MakeDir(sub, "made", 0755, kMe)));
    look("rename", Run(v.Rename(sub, "deep", fs::kRootNode, "moved", 0)));
    look("rmdir", Run(v.RemoveDir(sub, "made")));
    look("unlink", Run(v.Unlink(sub, "pipe")));
  }
  look("unlink", Run(v.Unlink(fs::kRootNode, "long")));
  look("unlink", Run(v.Unlink(fs::kRootNode, "large")));
  look("symlink", Run(v.Symlink(fs::kRootNode, "new", std::string(3500, 'n'), kMe)));
  look("sync", Run(v.SyncFs()));
  world_.RunFor(Seconds(7));  // the reaper and the flusher
  return wrong;
}

Result<fs::CheckReport> MountedVolume::Check(bool repair) {
  fs::CheckOptions options;
  if (repair) {
    // As tools/fsck_main.cc does.
    auto super = Run(fs::ReadSuperblock(device_));
    if (!super.ok()) return super.error();
    for (uint32_t j = 0; j < super->geometry.journal_count; ++j) {
      auto header = Run(fs::ReadJournalHeader(device_, super->geometry, MountNo(j)));
      if (!header.ok() || header->state == fs::JournalState::kClean) continue;
      auto replayed = Run(fs::ReplayJournal(device_, super->geometry, MountNo(j), nullptr));
      if (!replayed.ok()) return replayed.error();
    }
    options.repair_safe = options.repair_all = true;
  }
  return Run(fs::CheckVolume(device_, std::move(options)));
}

std::string MountedVolume::Outrage() const {
  return device_.outrage().empty() ? "" : "a request that may never be made: " + device_.outrage();
}

std::string Words(const fs::CheckReport& report) {
  std::string text = std::to_string(report.errors) + " errors, " + std::to_string(report.repaired) + " repaired";
  for (const fs::Finding& f : report.findings)
    if (f.level == fs::Finding::Level::kError && text.size() < 2000) text += "\n  [" + f.code + "] " + f.text + (f.repaired ? " (repaired)" : "");
  return text;
}

namespace {

std::string Join(const std::vector<std::string>& lines) {
  std::string text;
  for (size_t i = 0; i < lines.size() && i < 10; ++i) text += "\n  " + lines[i];
  return text;
}

// A volume that fsck calls clean: mount it, use it, check it.
std::string UseClean(MountedVolume& volume) {
  Status mounted = volume.Mount();
  if (!mounted.ok()) return "fsck says clean, mount says: " + mounted.error().ToString();
  auto wrong = volume.Walk();
  if (wrong.empty()) wrong = volume.Change();
  if (wrong.empty() && !volume.fatal().empty()) wrong.push_back("withdrew: " + volume.fatal());
  Status ended = volume.Unmount();
  if (wrong.empty() && !ended.ok()) wrong.push_back("unmount: " + ended.error().ToString());
  if (!wrong.empty()) return "fsck says clean, using it says:" + Join(wrong);
  auto after = volume.Check(false);
  if (!after.ok()) return "clean before use, after it: " + after.error().ToString();
  if (!after->clean()) return "clean before use, after it: " + Words(*after);
  return volume.Outrage();
}

}  // namespace

std::string TryMount(const sim::DiskImage& image) {
  MountedVolume volume(image);
  if (!volume.Mount().ok()) return volume.Outrage();
  (void)volume.Walk();
  (void)volume.Change();
  (void)volume.Unmount();
  return volume.Outrage();
}

std::string TryCheck(const sim::DiskImage& image) {
  MountedVolume volume(image);
  auto report = volume.Check(false);
  if (!report.ok() || !report->clean() || report->super.read_only()) return volume.Outrage();
  return UseClean(volume);
}

std::string TryRepair(const sim::DiskImage& image) {
  MountedVolume volume(image);
  auto report = volume.Check(true);
  if (!report.ok() || report->errors > report->repaired || report->super.read_only()) return volume.Outrage();
  auto again = volume.Check(false);
  if (!again.ok()) return "fsck -y says whole, checked again: " + again.error().ToString();
  if (!again->clean()) return "fsck -y says whole (" + Words(*report) + "), checked again: " + Words(*again);
  std::string used = UseClean(volume);
  return used.empty() ? used : "after fsck -y (" + Words(*report) + "): " + used;
}

}  // namespace holdfast::fuzz
