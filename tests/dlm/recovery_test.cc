// Recovery and routing, step by step, on cores joined by wires without delay.
#include <catch2/catch.hpp>

#include "tests/dlm/core_net.h"
#include "tests/dlm/scenarios.h"

namespace holdfast::dlm {
namespace {

void Die(CoreNet& net, uint32_t node, bool fenced = true) {
  net.Kill(node);
  net.reg.Evict(CoreNet::IdOf(node));
  if (fenced) net.reg.SetFenced(CoreNet::IdOf(node));
  net.Feed();
}

TEST_CASE("dlm: the first user masters; a lock used by one member alone costs no messages", "[dlm][unit]") {
  CoreNet net(3);
  LockId l = net.Create(1, "mine");
  CHECK(net.Result(net.Lock(1, l, Mode::kEX)) == Errc::kOk);
  uint64_t sent = net.At(1).counters().sent;
  for (int i = 0; i < 10; ++i) {
    CHECK(net.Result(net.Lock(1, l, Mode::kPR)) == Errc::kOk);
    CHECK(net.Result(net.Lock(1, l, Mode::kEX)) == Errc::kOk);
  }
  net.Unlock(1, l);
  CHECK(net.Result(net.Lock(1, l, Mode::kPR)) == Errc::kOk);
  CHECK(net.At(1).counters().sent == sent);
}

TEST_CASE("dlm: a holder on another member is called back and the waiter is granted", "[dlm][unit]") {
  CoreNet net(3);
  LockId a = net.Create(1, "r"), b = net.Create(2, "r");
  net.Lock(1, a, Mode::kEX);
  auto waits = net.Lock(2, b, Mode::kPR);
  CHECK(!net.Result(waits));
  REQUIRE(net.blocked.size() == 1);
  CHECK(net.blocked[0] == std::make_pair(CoreNet::IdOf(1), Mode::kPR));
  net.Lock(1, a, Mode::kPR);
  CHECK(net.Result(waits) == Errc::kOk);
}

TEST_CASE("dlm: what a dead member mastered for itself alone is frozen until its journal is replayed", "[dlm][unit]") {
  CoreNet net(3);
  net.Lock(2, net.Create(2, "r"), Mode::kEX);
  LockId mine = net.Create(1, "open");
  net.Lock(1, mine, Mode::kPR);
  Die(net, 2);
  CHECK(net.Frozen(1, "r") == true);
  CHECK(net.Frozen(3, "never-used") == true);
  CHECK(net.Frozen(3, "open") == false);
  auto waits = net.Lock(1, net.Create(1, "r"), Mode::kPR);
  CHECK(!net.Result(waits));
  CHECK(net.Result(net.Lock(3, net.Create(3, "r"), Mode::kEX, Flags::kNoQueue)) == Errc::kWouldBlock);
  // PR among survivors goes on where the dead cannot have been writing; a writer waits for the second gate where it read.
  CHECK(net.Result(net.Lock(3, net.Create(3, "open"), Mode::kPR)) == Errc::kOk);
  net.reg.SetReplayed(CoreNet::IdOf(2));
  net.Feed();
  CHECK(net.Result(waits) == Errc::kOk);
  CHECK(net.Frozen(3, "r") == false);
}

TEST_CASE("dlm: a dead reader's resource is open to readers at once, to writers when its readers have ended", "[dlm][unit]") {
  CoreNet net(3);
  LockId a = net.Create(1, "r");
  net.Lock(1, a, Mode::kNL);  // 1 masters it
  net.Lock(2, net.Create(2, "r"), Mode::kPR);
  Die(net, 2);
  CHECK(net.Frozen(1, "r") == false);
  CHECK(net.Result(net.Lock(1, a, Mode::kPR)) == Errc::kOk);
  auto writer = net.Lock(1, a, Mode::kEX);
  CHECK(!net.Result(writer));
  net.reg.SetReplayed(CoreNet::IdOf(2));
  net.Feed();
  CHECK(!net.Result(writer));
  net.reg.SetReadersEnded(CoreNet::IdOf(2));
  net.Feed();
  CHECK(net.Result(writer) == Errc::kOk);
}

TEST_CASE("dlm: nothing is granted before the victim is fenced", "[dlm][unit]") {
  CoreNet net(3);
  net.Lock(2, net.Create(2, "r"), Mode::kPR);
  Die(net, 2, false);
  auto waits = net.Lock(1, net.Create(1, "x"), Mode::kNL);
  CHECK(!net.At(1).running());
  CHECK(!net.Result(waits));
  net.reg.SetFenced(CoreNet::IdOf(2));
  net.reg.SetReplayed(CoreNet::IdOf(2));
  net.Feed();
  CHECK(net.Result(waits) == Errc::kOk);
}

TEST_CASE("dlm: survivors keep their locks when the master dies", "[dlm][unit]") {
  CoreNet net(4);
  net.Lock(2, net.Create(2, "r"), Mode::kNL);  // 2 masters it
  LockId a = net.Create(1, "r"), b = net.Create(3, "r");
  CHECK(net.Result(net.Lock(1, a, Mode::kPR)) == Errc::kOk);
  CHECK(net.Result(net.Lock(3, b, Mode::kPR)) == Errc::kOk);
  auto waits = net.Lock(3, b, Mode::kEX);
  Die(net, 2);
  net.reg.SetReplayed(CoreNet::IdOf(2));
  net.reg.SetReadersEnded(CoreNet::IdOf(2));
  net.Feed();
  CHECK(net.At(1).requester().GrantedMode(a) == Mode::kPR);
  CHECK(!net.Result(waits));
  net.Unlock(1, a);
  CHECK(net.Result(waits) == Errc::kOk);
}

TEST_CASE("dlm: a clean leave and a join freeze nothing and lose nothing", "[dlm][unit]") {
  CoreNet net(3);
  net.Lock(2, net.Create(2, "r"), Mode::kNL);
  LockId a = net.Create(1, "r");
  net.Lock(1, a, Mode::kEX);
  LockId two = LockId(1);
  net.Unlock(2, two);
  net.reg.Leave(CoreNet::IdOf(2));
  net.Feed();
  CHECK(net.At(2).withdrawn());
  net.Kill(2);
  CHECK(net.Frozen(3, "r") == false);
  net.reg.Join(net.Add(5));
  net.Feed();
  CHECK(net.At(5).running());
  auto waits = net.Lock(5, net.Create(5, "r"), Mode::kPR);
  CHECK(!net.Result(waits));
  net.Unlock(1, a);
  CHECK(net.Result(waits) == Errc::kOk);
}

TEST_CASE("dlm: a member that slept through a death and a rebirth drops the old life's locks", "[dlm][unit]") {
  CoreNet net(3);
  LockId a = net.Create(1, "r");
  net.Lock(1, a, Mode::kNL);
  net.Lock(2, net.Create(2, "r"), Mode::kEX);
  net.Kill(2);
  net.reg.Evict(CoreNet::IdOf(2));
  net.reg.SetFenced(CoreNet::IdOf(2));
  net.reg.SetReplayed(CoreNet::IdOf(2));
  net.reg.SetReadersEnded(CoreNet::IdOf(2));
  net.reg.Join(net.Add(2, 2));
  net.Feed();  // one view for all of that
  CHECK(net.Result(net.Lock(1, a, Mode::kEX)) == Errc::kOk);
}

TEST_CASE("dlm: a dead member's ranges stand until its journal is replayed", "[dlm][unit]") {
  CoreNet net(3);
  net.Lock(1, net.Create(1, "f"), Mode::kNL);
  RangeArgs all;
  all.type = RangeType::kExclusive;
  auto set = [&](uint32_t node, bool wait) {
    RangeArgs r = all;
    r.wait = wait;
    auto op = net.At(node).requester().RangeSet(ResourceName("f"), r, 1);
    net.At(node).Settle();
    net.Pump();
    return CoreNet::Op{CoreNet::IdOf(node), *op};
  };
  CHECK(net.Result(set(2, false)) == Errc::kOk);
  CHECK(net.Result(set(3, false)) == Errc::kWouldBlock);
  auto waits = set(3, true);
  Die(net, 2);
  CHECK(!net.Result(waits));
  net.reg.SetReplayed(CoreNet::IdOf(2));
  net.Feed();
  CHECK(net.Result(waits) == Errc::kOk);
}

TEST_CASE("dlm: a lock granted under RECOVERY proves nothing when its master dies", "[dlm][unit]") {
  CHECK(RecoveryGrantScenario() == "");
}

// A member that says what no honest one can: whoever notices ends, without a word and without a grant on that ground.
TEST_CASE("dlm: who finds a contradiction between members withdraws and grants nothing on that ground", "[dlm][unit]") {
  CoreNet net(3);
  LockId mine = net.Create(1, "mine");
  net.Lock(1, mine, Mode::kPR);
  Message lie(Kind::kRequest, ResourceName("lie"));
  lie.generation = net.At(1).view().generation;
  SECTION("a name becomes ours twice") {
    lie.kind = Kind::kMakeMaster;
    lie.name = ResourceName("mine");
    net.At(1).Step(CoreNet::IdOf(2), std::move(lie));
  }
  SECTION("a forward for a name that is not ours") {
    lie.forwarded = true;
    lie.asker = CoreNet::IdOf(3);
    net.At(1).Step(CoreNet::IdOf(2), std::move(lie));
  }
  SECTION("two report locks that exclude each other") {
    net.Kill(2);
    net.Kill(3);
    net.reg.Join(net.Add(4));
    net.At(1).SetView(net.reg.view());
    auto report = [&](uint32_t from) {
      for (Kind kind : {Kind::kSync, Kind::kReport, Kind::kReportEnd, Kind::kReady}) {
        Message m(kind, {});
        m.generation = net.reg.view().generation;
        ReportEntry entry;
        entry.name = ResourceName("lie");
        entry.lock = LockId(from);
        entry.granted = Mode::kEX;
        if (kind == Kind::kReport) m.report.push_back(std::move(entry));
        net.At(1).Step(CoreNet::IdOf(from), std::move(m));
      }
    };
    for (uint32_t from : {2, 3, 4}) report(from);
  }
  CHECK(net.At(1).withdrawn());
  CHECK(!net.At(1).broken().empty());
  CHECK(net.At(1).TakeMessages().empty());
  CHECK(!net.At(1).running());
}

}  // namespace
}  // namespace holdfast::dlm
