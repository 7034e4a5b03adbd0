// Two mounts fill a volume at the same moment. What is short of space asks the other to give unused claims back and to
// checkpoint its journal; neither may wait for a lock or a refill of the one who asks: both must hear "no space" at once.
#include <catch2/catch.hpp>

#include "base/log.h"
#include "tests/fs/model_locks.h"
#include "tests/fs/vfs_rig.h"
#include "tests/sim/seeds.h"

namespace holdfast::fs::test {
namespace {

const Caller kMe{0, 0, 022};
constexpr Duration kPatience = Seconds(10);  // as AppMessages has it

struct Member {
  sim::SimExecutor* process = nullptr;
  std::unique_ptr<sim::SimDiskSession> session;
  std::unique_ptr<ModelLocks::Port> port;
  std::unique_ptr<VfsRig> rig;
  Errc code = Errc::kOk;
  bool done = false;
};

using Favour = Task<Status> (*)(Member*);
using Answer = Completion<Errc>;

Task<Status> Checkpoint(Member* m) {
  auto done = co_await m->rig->storage.journal->Checkpoint();
  co_return done;
}
Task<Status> Shrink(Member* m) {
  auto done = co_await m->rig->storage.alloc->ShrinkPool();
  co_return done;
}

Task<void> DoIt(Member* other, Favour favour, std::shared_ptr<Answer> answer) {
  Status done = co_await favour(other);
  if (!answer->done()) answer->Set(done.ok() ? Errc::kOk : done.code());
}

Task<Status> Ask(Member* other, Favour favour) {
  auto answer = std::make_shared<Answer>();
  Executor::Current().PostAt(Executor::Current().clock().Now() + kPatience, [answer] {
    if (!answer->done()) answer->Set(Errc::kTimeout);
  });
  other->process->Post([other, favour, answer] { Detach(DoIt(other, favour, answer)); });
  Answer& awaited = *answer;
  Errc code = co_await awaited;
  if (code != Errc::kOk) co_return code;
  co_return Status();
}

Task<void> AskToShrink(Member* other) { co_await Ask(other, &Shrink); }

// Metadata that comes and goes leaves blocks that only metadata may use until all journals are past it.
Task<void> MakeAndRemove(Member* m, std::string name) {
  constexpr int kFiles = 600;
  Vfs* vfs = m->rig->vfs.get();
  std::vector<KernelInode> nodes;
  for (int i = 0; i < kFiles; ++i) {
    auto made = Must(co_await vfs->Create(kRootNode, name + std::to_string(i), 0644, true, kMe, {.write = true}));
    Must(co_await vfs->Release(made.attr.node));
    nodes.push_back(made.attr.node);
  }
  for (int i = 0; i < kFiles; ++i) {
    Must(co_await vfs->Unlink(kRootNode, name + std::to_string(i)));
    vfs->Forget(nodes[static_cast<size_t>(i)]);
  }
  co_await SleepFor(Seconds(5));  // the reaper comes by
  Must(co_await vfs->Fsync(kRootNode, false));
}

Task<void> Fill(Member* m, std::string name) {
  Vfs* vfs = m->rig->vfs.get();
  std::string data(16 * kBlockSize, 'f');
  auto made = Must(co_await vfs->Create(kRootNode, name, 0644, true, kMe, {.write = true}));
  uint64_t at = 0;
  while (m->code == Errc::kOk) {
    auto written = co_await vfs->Write(made.attr.node, at, AsBytes(data), {});
    if (!written.ok()) m->code = written.code();
    at += data.size();
  }
  m->done = true;
}

Task<void> FillBoth(Member* self, Member* other) {
  other->process->Post([other] { Detach(Fill(other, "b")); });
  co_await Fill(self, "a");
  while (!other->done) co_await SleepFor(Milliseconds(10));
}

std::string FillRun(uint64_t seed) {
  SetLogLevel(LogLevel::kOff);
  VolumeRig volume(seed, 24);
  sim::World& world = volume.world;
  ModelLocks model(&world);
  std::vector<Member> members(2);
  for (uint32_t i = 0; i < 2; ++i) {
    Member& m = members[i];
    m.process = &world.Start(NodeId(10 + i));
    m.session = volume.disk->Open(*m.process);
    m.port = model.Join(m.process);
    m.rig = std::make_unique<VfsRig>(m.session.get(), m.port.get(), MountNo(i));
    m.rig->storage.alone = false;
    m.rig->storage.alloc_knobs.meta_pool = 16;
    m.rig->storage.alloc_knobs.emergency_meta = 8;
    Must(world.Run(*m.process, m.rig->Start()));
    Member* other = &members[1 - i];
    m.rig->storage.alloc->SetCheckpointOthers([other] { return Ask(other, &Checkpoint); });
    m.rig->storage.alloc->SetShrinkOthers([other] { return AskToShrink(other); });
  }
  for (Member& m : members) world.Run(*m.process, MakeAndRemove(&m, m.process == members[0].process ? "x" : "y"));
  Instant begun = members[0].process->clock().Now();
  world.Run(*members[0].process, FillBoth(&members[0], &members[1]));
  Duration took = members[0].process->clock().Now() - begun;
  std::string wrong;
  for (Member& m : members) {
    if (m.code != Errc::kNoSpace) wrong += "a writer got error " + std::to_string(static_cast<int>(m.code)) + "; ";
    if (!m.rig->fatal.empty()) wrong += m.rig->fatal + "; ";
  }
  if (took >= kPatience) wrong += "it took " + std::to_string(took.ms()) + " ms";
  for (Member& m : members) {
    m.process->Crash();
    world.Abandon(std::move(m.rig));
    world.Abandon(std::move(m.port));
    world.Abandon(std::move(m.session));
  }
  return wrong;
}

}  // namespace

TEST_CASE("two mounts fill a volume at once: both get 'no space' soon", "[fs][sim]") {
  auto report = sim::RunSeeds({.count = 12, .batch = 4}, FillRun);
  INFO(report.ToString());
  CHECK(report.ok());
}

}  // namespace holdfast::fs::test
