// RecoveryDriver with a made-up cluster: whose journal it touches, and when. Each refusal is a rule of I1.
#include <catch2/catch.hpp>

#include "base/log.h"
#include "dlm/standalone.h"
#include "fs/recovery_driver.h"
#include "tests/fs/toy_objects.h"

namespace holdfast::fs::test {
namespace {

struct Register final : dlm::ClusterLink {
  Errc answer = Errc::kOk;
  std::vector<MemberId> claimed, done;
  Task<Result<dlm::Joined>> Join(dlm::JoinRequest) override { co_return Errc::kInvalid; }
  Task<Result<dlm::ReplayClaim>> ClaimReplay(MemberId victim) override {
    claimed.push_back(victim);
    if (answer != Errc::kOk) co_return answer;
    co_return dlm::ReplayClaim{victim, MountNo(1), RegisterVersion(5), "power"};
  }
  Task<Status> ReplayDone(MemberId victim) override {
    done.push_back(victim);
    co_return Status();
  }
  Task<Status> Leave() override { co_return Status(); }
  Task<void> Withdrawn(std::string) override { co_return; }
  void ReportStep(MemberId, dlm::RecoveryStep, std::string) override {}
};

// A dirty journal 1, left by n2.1/4d; the driver is that of mount 0.
struct Burial {
  sim::World world;
  sim::SimDisk disk;
  sim::SimExecutor* p;
  std::unique_ptr<sim::SimDiskSession> session;
  std::unique_ptr<dlm::LockSpace> space;
  std::unique_ptr<RecoveryDriver> driver;
  Register link;
  Superblock super;
  const MemberId self{NodeId(1), Incarnation(3), 33}, owner{NodeId(2), Incarnation(1), 77};

  Burial() : world(4), disk(&world, 24 << 20) {
    SetLogLevel(LogLevel::kOff);
    sim::SimExecutor& dead = world.Start(NodeId(2));
    auto its = disk.Open(dead);
    super = world.Run(dead, MakeToyVolume(its.get(), &world.random(), 2));
    auto rig = std::make_unique<StorageRig>(its.get(), nullptr, MountNo(1));
    auto work = [](StorageRig* mount) -> Task<Status> {
      HF_CO_TRY(co_await mount->Start(true));
      auto claim = co_await mount->alloc->Reserve({.meta = 2, .data = 5});
      if (!claim.ok()) co_return claim.error();
      auto done = co_await mount->journal->Commit();
      co_return done;
    };
    REQUIRE(world.Run(dead, work(rig.get())).ok());
    dead.Crash();
    world.Abandon(std::move(rig));
    world.Abandon(std::move(its));
    world.RunFor(Seconds(10));
    p = &world.Start(NodeId(1));
    session = disk.Open(*p);
    space = dlm::MakeStandaloneLockSpace(*p, self);
    RecoveryDriver::Parts parts;
    parts.device = session.get();
    parts.space = space.get();
    parts.link = &link;
    parts.executor = p;
    parts.geometry = super.geometry;
    parts.self = OwnerStamp{self.node, self.incarnation, self.nonce, MountNo(0)};
    driver = std::make_unique<RecoveryDriver>(std::move(parts));
    REQUIRE(State() == JournalState::kDirty);
  }
  ~Burial() {
    p->Crash();
    world.Abandon(std::move(driver));
    world.Abandon(std::move(space));
    world.Abandon(std::move(session));
  }
  JournalState State() {
    sim::SimExecutor& reader = world.Start(NodeId(9));
    auto device = disk.Open(reader);
    auto header = world.Run(reader, ReadJournalHeader(*device, super.geometry, MountNo(1)));
    reader.Crash();
    world.Abandon(std::move(device));
    REQUIRE(header.ok());
    return header->state;
  }
  void View(uint64_t version, MemberId victim, bool fenced) {
    dlm::View view;
    view.version = RegisterVersion(version);
    view.generation = Generation(1);
    view.members.push_back({self, MountNo(0), Endpoint{self.node, "", ""}});
    view.victims.push_back({victim, MountNo(1), fenced, false, false, {}});
    p->Post([this, view] { driver->OnView(view); });
    world.RunFor(Seconds(3));
  }
};

TEST_CASE("recovery: the journal of the one whom the fence token names is replayed", "[fs][recovery][unit]") {
  Burial b;
  b.View(10, b.owner, true);
  CHECK(b.State() == JournalState::kClean);
  CHECK(b.link.done == std::vector{b.owner});
}

TEST_CASE("recovery: a journal that another owner has stamped is not touched", "[fs][recovery][unit]") {
  Burial b;
  MemberId victim = b.owner;
  SECTION("another mount of that node") { victim.nonce = 78; }
  SECTION("another life of that node") { victim.incarnation = Incarnation(2); }
  SECTION("another node") { victim.node = NodeId(3); }
  b.View(10, victim, true);
  CHECK(b.State() == JournalState::kDirty);
  CHECK(b.link.done.empty());
  CHECK(!b.driver->Waits().empty());
}

TEST_CASE("recovery: nothing is claimed before the fencing, nothing replayed without the claim", "[fs][recovery][unit]") {
  Burial b;
  b.View(10, b.owner, false);
  CHECK(b.link.claimed.empty());
  CHECK(b.State() == JournalState::kDirty);
  b.link.answer = Errc::kBusy;  // another living member replays it
  b.View(11, b.owner, true);
  CHECK(b.link.claimed.size() == 1);
  CHECK(b.State() == JournalState::kDirty);
  CHECK(b.link.done.empty());
  b.link.answer = Errc::kOk;  // that one has died in its turn
  b.View(12, b.owner, true);
  CHECK(b.State() == JournalState::kClean);
  CHECK(b.link.done.size() == 1);
}

}  // namespace
}  // namespace holdfast::fs::test
