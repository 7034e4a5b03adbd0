// What passes from one mount to another, step by step: fsync of what another mount has written, unwritten space that becomes
// readable, the orphans of the dead. handover_blocks_test.cc has the blocks below.
#include <cstring>

#include <catch2/catch.hpp>

#include "fs/check.h"
#include "tests/fs/crash_files.h"
#include "tests/fs/two_mounts.h"

namespace holdfast::fs::test {
namespace {

// ---- fsync -------------------------------------------------------------------------------------------------------------------

std::string Content(size_t n, char c) { return std::string(n, c); }

struct File {
  KernelInode node = 0;
  std::string content;
};

// Both mounts and the array lose power; what a mount finds afterwards.
std::string ReadBack(sim::DiskImage image, const std::string& name, std::string* content) {
  sim::World world(99);
  sim::SimDisk disk(&world, std::move(image));
  sim::SimExecutor& p = world.Start(NodeId(1));
  auto session = disk.Open(p);
  auto rig = std::make_unique<VfsRig>(session.get());
  auto work = [](VfsRig* mount, std::string wanted, std::string* out) -> Task<std::string> {
    auto started = co_await mount->Start();
    if (!started.ok()) co_return "mount: " + started.error().ToString();
    auto entry = co_await mount->vfs->Lookup(kRootNode, wanted);
    if (!entry.ok()) co_return "lookup: " + entry.error().ToString();
    if (!entry->found()) co_return wanted + " is gone";
    AlignedBuffer bytes(entry->attr.size + 1);
    auto read = co_await mount->vfs->Read(entry->attr.node, 0, bytes.span(), {});
    if (!read.ok()) co_return "read: " + read.error().ToString();
    *out = std::string(AsText(std::as_const(bytes).span().first(read->bytes)));
    co_return "";
  };
  std::string wrong = world.Run(p, work(rig.get(), name, content));
  p.Crash();
  world.Abandon(std::move(rig));
  world.Abandon(std::move(session));
  return wrong;
}

Task<File> Make(Vfs* vfs, std::string name, std::string content, bool sync) {
  auto made = Must(co_await vfs->Create(kRootNode, name, 0644, true, kMe, {.write = true}));
  Must(co_await vfs->Write(made.attr.node, 0, AsBytes(content), {}));
  if (sync) Must(co_await vfs->Fsync(made.attr.node, false));
  co_return File{made.attr.node, content};
}

Task<void> Write(Vfs* vfs, File* file, uint64_t at, std::string bytes) {
  Must(co_await vfs->Write(file->node, at, AsBytes(bytes), {}));
  if (file->content.size() < at + bytes.size()) file->content.resize(at + bytes.size());
  file->content.replace(at, bytes.size(), bytes);
}

}  // namespace

TEST_CASE("hand-over: fsync makes durable what another mount has written and not synced", "[fs][crash][sim]") {
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    for (std::string what : {"new file", "overwritten in place", "appended", "written back already"}) {
      Two<VfsRig> two(seed);
      for (auto& member : two.m) member.rig->knobs.flush_age = member.rig->knobs.flush_interval = Milliseconds(100);
      for (int i : {0, 1}) Must(two.Run(i, two.m[i].rig->Start()));
      Vfs *a = two.m[0].rig->vfs.get(), *b = two.m[1].rig->vfs.get();
      File file;
      if (what == "new file") {
        file = two.Run(0, Make(a, "f", Content(50'000, 'n'), false));
      } else {
        file = two.Run(0, Make(a, "f", Content(40'000, 'o'), true));
        uint64_t at = what == "appended" ? 40'000 : 8192;
        two.Run(0, Write(a, &file, at, Content(12'288, 'w')));
      }
      // What its own write-back has sent and nobody has flushed, the hand-over must.
      if (what == "written back already") two.world.RunFor(Seconds(2));
      Must(two.Run(1, b->Fsync(file.node, false)));
      std::string found, wrong = ReadBack(two.disk->DurableImage(), "f", &found);
      INFO(what << ", seed " << seed);
      CHECK(wrong == "");
      CHECK(found == file.content);
    }
  }
}

TEST_CASE("hand-over: fsync of a directory makes durable what another mount has named in it", "[fs][crash][sim]") {
  Two<VfsRig> two(3);
  for (int i : {0, 1}) Must(two.Run(i, two.m[i].rig->Start()));
  two.Run(0, Make(two.m[0].rig->vfs.get(), "named", "", false));
  Must(two.Run(1, two.m[1].rig->vfs->Fsync(kRootNode, false)));
  std::string found;
  CHECK(ReadBack(two.disk->DurableImage(), "named", &found) == "");
}

// ---- unwritten space ---------------------------------------------------------------------------------------------------------

TEST_CASE("crash: unwritten space becomes readable after its data, at every cut", "[fs][crash][sim]") {
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    SetLogLevel(LogLevel::kOff);
    VolumeRig volume(seed, 24, Calm());
    FillFreeSpace(&volume);
    volume.Mount();
    auto prepare = [](Vfs* vfs) -> Task<KernelInode> {
      auto made = Must(co_await vfs->Create(kRootNode, "f", 0644, true, kMe, {.write = true}));
      Must(co_await vfs->Fallocate(made.attr.node, 0, 400'000, 0));
      Must(co_await vfs->SyncFs());
      co_return made.attr.node;
    };
    KernelInode node = volume.Run(prepare(&volume.vfs()));
    std::string wrong;
    size_t cuts = 0;
    sim::SimRandom outcome(seed * 31 + 7);
    volume.disk->OnWrite([&](const sim::DiskWrite&) {
      for (int luck = 0; luck < 3 && wrong.empty(); ++luck) {
        std::string found, bad = ReadBack(volume.disk->CrashImage(outcome), "f", &found);
        size_t foreign = found.find('\xa5');
        if (bad.empty() && foreign != std::string::npos) bad = "bytes of another file show at " + std::to_string(foreign);
        if (!bad.empty()) wrong = "cut " + std::to_string(cuts) + ": " + bad;
      }
      ++cuts;
    });
    auto write = [](Vfs* vfs, KernelInode file) -> Task<void> {
      for (uint64_t at : {uint64_t{0}, uint64_t{65'536}, uint64_t{200'000}}) {
        std::string data = Content(40'000, 'd');
        Must(co_await vfs->Write(file, at, AsBytes(data), {}));
        Must(co_await vfs->Fsync(file, false));
      }
    };
    volume.Run(write(&volume.vfs(), node));
    volume.disk->OnWrite(nullptr);
    INFO("seed " << seed);
    CHECK(wrong == "");
    CHECK(cuts >= 6);
    volume.Kill();
  }
}

// ---- orphans -----------------------------------------------------------------------------------------------------------------

// A file that is open here and has no name any more.
static Task<KernelInode> MakeOrphan(Vfs* vfs, std::string name) {
  File file = co_await Make(vfs, name, Content(60'000, 'x'), true);
  Must(co_await vfs->Unlink(kRootNode, name));
  Must(co_await vfs->SyncFs());
  co_return file.node;
}

TEST_CASE("hand-over: a dead mount's orphans come in front of ours, all of them and once", "[fs][crash][sim]") {
  Two<VfsRig> two(7);
  for (int i : {0, 1}) Must(two.Run(i, two.m[i].rig->Start()));
  for (const char* name : {"b1", "b2"}) (void)two.Run(1, MakeOrphan(two.m[1].rig->vfs.get(), name));
  for (const char* name : {"a1", "a2"}) (void)two.Run(0, MakeOrphan(two.m[0].rig->vfs.get(), name));
  two.m[1].process->Crash();
  two.locks.Died(two.m[1].port.get());
  auto adopt = [](VfsRig* rig) -> Task<size_t> {
    Must(co_await Replay(&rig->storage, MountNo(1)));
    Must(co_await rig->storage.alloc->ReturnClaims(MountNo(1)));
    Must(co_await rig->vfs->core().orphans->Adopt(MountNo(1), nullptr));
    Must(co_await rig->vfs->SyncFs());
    co_return rig->vfs->core().orphans->size();
  };
  CHECK(two.Run(0, adopt(two.m[0].rig.get())) >= 2);
  // It dies in its turn. The next ones of both journals find every orphan in one of them.
  sim::World world(8);
  sim::SimDisk disk(&world, two.disk->DurableImage());
  sim::SimExecutor& p = world.Start(NodeId(1));
  auto session = disk.Open(p);
  size_t orphans = 0;
  for (uint32_t number : {0u, 1u}) {
    auto rig = std::make_unique<VfsRig>(session.get(), nullptr, MountNo(number));
    Must(world.Run(p, rig->Start()));
    orphans += rig->vfs->core().orphans->size();
    world.RunFor(Seconds(5));
    CHECK(rig->vfs->core().orphans->empty());
    Must(world.Run(p, rig->Stop()));
    CHECK(rig->fatal == "");
  }
  CHECK(orphans >= 2);
  CHECK(Findings(world.Run(p, CheckVolume(*session, CheckOptions{})), true) == "");
}

}  // namespace holdfast::fs::test
