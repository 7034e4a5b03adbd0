// What the crash cuts of files share: a workload with its promises, and the check of what a cut left: replay, fsck finds
// nothing, everything that fsync acknowledged is there, what was synced away is gone, and no file shows a byte (other
// than 0) that was never written to it.
#pragma once

#include <cstring>

#include "base/log.h"
#include "fs/check.h"
#include "tests/fs/vfs_rig.h"

namespace holdfast::fs::test {

inline const Caller kMe{0, 0, 022};

struct Promise {
  std::map<std::string, std::string> there;  // name -> content, synced
  std::set<std::string> gone;                // removed, and synced since
  std::map<std::string, std::vector<std::string>> states;  // everything that a file of that name ever held
};

// Writes, renames, removes, syncs in two directories; one step after the other, each on one of the mounts.
// Names are dir/name.
class Workload {
 public:
  Workload(std::vector<Vfs*> mounts, sim::SimRandom* random) : mounts_(std::move(mounts)), vfs_(mounts_[0]), random_(random) {}
  const Promise& promise() const { return promise_; }
  // The mount of the following steps.
  void Use(size_t mount) { vfs_ = mounts_[mount]; }

  Task<Status> Begin() {
    for (const char* name : {"a", "b"}) {
      std::string text = name;
      auto made = co_await vfs_->MakeDir(kRootNode, text, 0755, kMe);
      if (!made.ok()) co_return made.error();
      dirs_[text] = made->attr.node;
    }
    auto done = co_await vfs_->Fsync(kRootNode, false);
    co_return done;
  }
  Task<Status> Step(int i) {
    switch (random_->Below(8)) {
      case 0: case 1: case 2: HF_CO_TRY(co_await Create()); break;
      case 3: HF_CO_TRY(co_await Append()); break;
      case 4: HF_CO_TRY(co_await Remove()); break;
      case 5: HF_CO_TRY(co_await Rename()); break;
      case 6: HF_CO_TRY(co_await Truncate()); break;
      default: HF_CO_TRY(co_await Sync()); break;
    }
    if (i % 7 == 6) co_await SleepFor(Milliseconds(static_cast<int64_t>(random_->Below(3000))));
    co_return Status();
  }
  // After a step of Sync() that chose the whole filesystem: each mount syncs in its own process, then Synced().
  bool wants_all() const { return wants_all_; }
  void Synced() {
    for (auto& [name, data] : files_) promise_.there[name] = data;
    for (auto& name : removed_) {
      if (!files_.contains(name)) promise_.gone.insert(name);
    }
    removed_.clear();
    wants_all_ = false;
  }

 private:
  std::string Dir(const std::string& path) { return path.substr(0, 1); }
  std::string Leaf(const std::string& path) { return path.substr(2); }
  KernelInode DirNode(const std::string& path) { return dirs_.at(Dir(path)); }
  std::string Bytes(size_t n) {
    std::string s(n, 0);
    for (char& c : s) c = static_cast<char>(random_->Next());
    return s;
  }
  std::string Some() {
    if (files_.empty()) return "";
    auto it = files_.begin();
    std::advance(it, static_cast<ptrdiff_t>(random_->Below(files_.size())));
    return it->first;
  }
  void Doubt(const std::string& path) {
    promise_.there.erase(path);
    promise_.gone.erase(path);
  }

  Task<Status> Create() {
    std::string path = std::string(random_->Below(2) ? "a" : "b") + "/n" + std::to_string(random_->Below(60)) + std::string(random_->Below(100), 'x');
    if (files_.contains(path)) co_return Status();
    Doubt(path);
    auto made = co_await vfs_->Create(DirNode(path), Leaf(path), 0644, true, kMe, {.write = true});
    if (!made.ok()) co_return made.error();
    KernelInode node = made->attr.node;
    std::string data = Bytes(random_->Below(3) ? random_->Below(3000) : random_->Below(60'000));
    promise_.states[path].push_back(data);
    auto written = co_await vfs_->Write(node, 0, AsBytes(data), {});
    if (!written.ok()) co_return written.error();
    HF_CO_TRY(co_await vfs_->Release(node));
    nodes_[path] = node;
    files_[path] = data;
    co_return Status();
  }
  Task<Status> Append() {
    std::string path = Some();
    if (path.empty()) co_return Status();
    Doubt(path);
    std::string data = Bytes(1 + random_->Below(10'000));
    promise_.states[path].push_back(files_[path] + data);
    auto written = co_await vfs_->Write(nodes_[path], files_[path].size(), AsBytes(data), {});
    if (!written.ok()) co_return written.error();
    files_[path] += data;
    co_return Status();
  }
  Task<Status> Truncate() {
    std::string path = Some();
    if (path.empty()) co_return Status();
    Doubt(path);
    SetAttr set;
    set.which = kSetSize;
    set.size = random_->Below(files_[path].size() + 1);
    auto done = co_await vfs_->Set(nodes_[path], set);
    if (!done.ok()) co_return done.error();
    files_[path].resize(set.size);
    co_return Status();
  }
  Task<Status> Remove() {
    std::string path = Some();
    if (path.empty()) co_return Status();
    Doubt(path);
    auto done = co_await vfs_->Unlink(DirNode(path), Leaf(path));
    if (!done.ok()) co_return done.error();
    vfs_->Forget(nodes_[path]);
    files_.erase(path);
    nodes_.erase(path);
    removed_.insert(path);
    co_return Status();
  }
  Task<Status> Rename() {
    std::string from = Some();
    if (from.empty()) co_return Status();
    std::string to = std::string(random_->Below(2) ? "a" : "b") + "/r" + std::to_string(random_->Below(30));
    if (to == from) co_return Status();
    Doubt(from);
    Doubt(to);
    for (auto& state : std::vector<std::string>(promise_.states[from])) promise_.states[to].push_back(state);
    auto done = co_await vfs_->Rename(DirNode(from), Leaf(from), DirNode(to), Leaf(to), 0);
    if (!done.ok()) co_return done.error();
    files_[to] = files_[from];
    nodes_[to] = nodes_[from];
    files_.erase(from);
    nodes_.erase(from);
    removed_.insert(from);
    removed_.erase(to);
    co_return Status();
  }
  // One file, or the whole filesystem.
  Task<Status> Sync() {
    std::string path = Some();
    if (path.empty() || random_->Below(3) == 0) {
      wants_all_ = true;
      co_return Status();
    }
    HF_CO_TRY(co_await vfs_->Fsync(nodes_[path], false));
    promise_.there[path] = files_[path];
    co_return Status();
  }

  std::vector<Vfs*> mounts_;
  Vfs* vfs_;
  sim::SimRandom* random_;
  bool wants_all_ = false;
  std::map<std::string, KernelInode> dirs_;
  std::map<std::string, std::string> files_;
  std::map<std::string, KernelInode> nodes_;
  std::set<std::string> removed_;
  Promise promise_;
};

inline Task<std::string> Keeps(Vfs* vfs, Promise promise) {
  std::map<std::string, KernelInode> dirs;
  for (auto& [path, data] : promise.there) {
    std::string dir = path.substr(0, 1), leaf = path.substr(2);
    auto in = co_await vfs->Lookup(kRootNode, dir);
    if (!in.ok() || !in->found()) co_return "directory " + dir + " is gone";
    auto entry = co_await vfs->Lookup(in->attr.node, leaf);
    if (!entry.ok()) co_return path + ": " + entry.error().ToString();
    if (!entry->found()) co_return "synced file " + path + " is gone";
    AlignedBuffer out(data.size() + 1);
    auto read = co_await vfs->Read(entry->attr.node, 0, out.span(), {});
    if (!read.ok()) co_return path + ": " + read.error().ToString();
    if (read->bytes != data.size() || AsText(std::as_const(out).span().first(read->bytes)) != data)
      co_return "synced file " + path + " does not hold what was synced";
  }
  for (auto& path : promise.gone) {
    std::string dir = path.substr(0, 1), leaf = path.substr(2);
    auto in = co_await vfs->Lookup(kRootNode, dir);
    if (!in.ok() || !in->found()) co_return "directory " + dir + " is gone";
    auto entry = co_await vfs->Lookup(in->attr.node, leaf);
    if (!entry.ok()) co_return path + ": " + entry.error().ToString();
    if (entry->found()) co_return "removed and synced file " + path + " is back";
  }
  co_return "";
}

// Is every byte of every file there one that was written at that place?
inline Task<std::string> NothingStale(Vfs* vfs, const Promise* promise) {
  for (const char* dir : {"a", "b"}) {
    std::string text = dir;
    auto in = co_await vfs->Lookup(kRootNode, text);
    if (!in.ok()) co_return in.error().ToString();
    if (!in->found()) continue;
    for (auto& [path, states] : promise->states) {
      if (path[0] != dir[0]) continue;
      std::string leaf = path.substr(2);
      auto entry = co_await vfs->Lookup(in->attr.node, leaf);
      if (!entry.ok()) co_return path + ": " + entry.error().ToString();
      if (!entry->found() || entry->attr.size == 0) continue;
      AlignedBuffer out(entry->attr.size);
      auto read = co_await vfs->Read(entry->attr.node, 0, out.span().first(entry->attr.size), {});
      if (!read.ok()) co_return path + ": " + read.error().ToString();
      for (size_t i = 0; i < read->bytes; ++i) {
        bool known = out.data()[i] == std::byte{0};  // a truncation under way
        for (auto& state : states) known |= i < state.size() && static_cast<std::byte>(state[i]) == out.data()[i];
        if (!known) co_return path + " shows bytes that were never written to it, from " + std::to_string(i);
      }
    }
  }
  co_return "";
}

inline std::string Findings(const Result<CheckReport>& report, bool tidy) {
  if (!report.ok()) return "fsck: " + report.error().ToString();
  std::string text;
  for (const Finding& f : report->findings) {
    if (f.level == Finding::Level::kError || tidy) text += "fsck: " + f.text + "; ";
  }
  return text;
}

// Looks through the journal; every `deep`th cut is mounted, compared, unmounted and checked again.
inline std::string Verify(uint64_t seed, sim::DiskImage image, const Promise& promise, bool deep, bool replay, uint32_t mounts = 1) {
  sim::World world(seed);
  sim::SimDisk disk(&world, std::move(image));
  sim::SimExecutor& p = world.Start(NodeId(1));
  auto session = disk.Open(p);
  if (!replay) {
    auto forget = [](BlockDevice* device) -> Task<Status> {
      auto super = co_await ReadSuperblock(*device);
      if (!super.ok()) co_return super.error();
      for (uint32_t i = 0; i < super->geometry.journal_count; ++i) {
        auto header = co_await ReadJournalHeader(*device, super->geometry, MountNo(i));
        if (!header.ok()) co_return header.error();
        header->state = JournalState::kClean;
        HF_CO_TRY(co_await WriteJournalHeader(*device, super->geometry, &*header));
      }
      co_return Status();
    };
    Must(world.Run(p, forget(session.get())));
  }
  std::string wrong = Findings(world.Run(p, CheckVolume(*session, CheckOptions{})), false);
  if (!wrong.empty() || !deep || !replay) return wrong;
  auto rig = std::make_unique<VfsRig>(session.get());
  auto started = world.Run(p, rig->Start());
  if (!started.ok()) world.Abandon(std::move(rig));
  if (!started.ok()) return "mount: " + started.error().ToString();
  wrong = world.Run(p, Keeps(rig->vfs.get(), promise));
  if (wrong.empty()) wrong = world.Run(p, NothingStale(rig->vfs.get(), &promise));
  if (!wrong.empty()) {
    world.Abandon(std::move(rig));
    return wrong;
  }
  // Each journal's next owner takes over its orphans and claims.
  for (uint32_t next = 1;; ++next) {
    world.RunFor(Seconds(3));
    auto stopped = world.Run(p, rig->Stop());
    if (!stopped.ok()) world.Abandon(std::move(rig));
    if (!stopped.ok()) return "unmount: " + stopped.error().ToString();
    if (!rig->fatal.empty()) return "fatal: " + rig->fatal;
    if (next == mounts) break;
    rig = std::make_unique<VfsRig>(session.get(), nullptr, MountNo(next));
    started = world.Run(p, rig->Start());
    if (!started.ok()) world.Abandon(std::move(rig));
    if (!started.ok()) return "mount " + std::to_string(next) + ": " + started.error().ToString();
  }
  return Findings(world.Run(p, CheckVolume(*session, CheckOptions{})), true);
}

// Free space that has seen other files: data that a crash lost shows as these bytes.
inline void FillFreeSpace(VolumeRig* rig) {
  uint64_t first = Must(rig->Run(ReadSuperblock(*rig->session))).geometry.first_group_block + 16;
  uint64_t end = rig->session->info().size_bytes / kBlockSize - 1;
  constexpr uint64_t kRun = 256;
  AlignedBuffer junk(kRun * kBlockSize);
  std::memset(junk.data(), 0xa5, junk.size());
  for (uint64_t at = first; at < end; at += kRun) {
    uint64_t n = std::min(kRun, end - at);
    Must(rig->Run(rig->session->Write(at * kBlockSize, std::as_const(junk).span().first(n * kBlockSize), WriteFlags::kNone)));
  }
  Must(rig->Run(rig->session->Flush()));
}

// Runs one step on a mount, and the syncs of all mounts if it asks for them. `processes`: one per mount.
inline Status RunStep(sim::World* world, const std::vector<sim::SimExecutor*>& processes, const std::vector<Vfs*>& mounts, Workload* work,
                      size_t at, int step) {
  work->Use(at);
  Status done = world->Run(*processes[at], work->Step(step));
  if (!done.ok() || !work->wants_all()) return done;
  for (size_t i = 0; i < mounts.size(); ++i) {
    Status synced = world->Run(*processes[i], mounts[i]->SyncFs());
    if (!synced.ok()) return synced;
  }
  work->Synced();
  return Status();
}

}  // namespace holdfast::fs::test
