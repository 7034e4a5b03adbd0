// The order of fencing: methods, devices, retries, what is a proof and what is not.

#include <catch2/catch.hpp>

#include <algorithm>
#include <map>

#include "fence/domain.h"
#include "fence/history.h"
#include "tests/fence/fakes.h"
#include "tests/sim/kv_store.h"
#include "tests/sim/world.h"

namespace holdfast::fence {
namespace {

using Attributes = std::map<std::string, std::string>;

FenceDevice Power(const std::string& name, Attributes more = {}) {
  more["ip"] = name;
  return {name, "fence_power", more};
}
FenceDevice Port(const std::string& port) { return {"switch", "fence_switch", {{"ip", "switch"}, {"port", port}}}; }

struct Fixture {
  sim::World world{42};
  sim::SimExecutor& process = world.Start(NodeId(1));
  Rack rack;
  FakeStorage storage;
  FakeLocal local{&process};
  FencePolicy policy;
  std::unique_ptr<Domain> domain;
  std::vector<FenceStep> steps;

  Domain& Make(History* history = nullptr) {
    policy.device_timeout = Seconds(5);
    domain = std::make_unique<Domain>(FenceSeams{&process, &rack, &storage, &local, history}, policy);
    return *domain;
  }
  ~Fixture() {
    if (!domain) return;
    world.Run(process, domain->Close(), Seconds(300));
  }
  static Victim OnImage() {
    Victim v;
    v.node = NodeId(2);
    v.name = "n2";
    v.incarnation = Incarnation(7);
    v.volumes = {{"/image", {MountNo(1)}, true}};
    return v;
  }
  static Victim OnArray() {
    Victim v = OnImage();
    v.volumes[0].volume = "iscsi://10.0.0.1/iqn.x:y/1";
    v.keys = {MakeKey(NodeId(2), 1, 0), MakeKey(NodeId(2), 1, 2)};
    return v;
  }
  // The run after up to `limit`; proven or not.
  std::shared_ptr<FenceRun> Start(Victim victim, std::vector<FenceMethod> methods, Duration limit = Seconds(30)) {
    std::shared_ptr<FenceRun> run;
    process.Post([&] { run = domain->Fence(victim, methods, [this](const FenceStep& s) { steps.push_back(s); }); });
    world.RunUntil([&] { return run && (run->proven() || run->ended()); }, limit);
    return run;
  }
  size_t CountCalls(const std::string& call) const { return static_cast<size_t>(std::count(rack.calls.begin(), rack.calls.end(), call)); }
  bool StepSaid(const std::string& words) const {
    return std::any_of(steps.begin(), steps.end(), [&](const FenceStep& s) { return s.details.find(words) != std::string::npos; });
  }
};

ProofKind KindOf(const FenceRun& run) {
  for (const FenceProof& p : run.proofs()) {
    if (p.sufficient) return p.kind;
  }
  return ProofKind::kRebooted;
}

}  // namespace

TEST_CASE_METHOD(Fixture, "fence: power off confirmed OFF is the proof, and ends cached readers", "[fence][unit]") {
  Make();
  rack.outlets["bmc/"] = {};
  auto run = Start(OnImage(), {{"power", {Power("bmc", {{"action", "off"}})}}});
  REQUIRE(run->proven());
  REQUIRE(run->proofs().size() == 1);
  CHECK(run->proofs()[0].kind == ProofKind::kPower);
  CHECK(run->proofs()[0].readers_ended);
  CHECK(rack.calls == std::vector<std::string>{"bmc/ off", "bmc/ status"});
  CHECK(local.locked == 2);  // the barrier on the image: the daemon's byte and the mount's
  auto proofs = world.Run(process, run->AwaitProof());
  CHECK(proofs.ok());
}

TEST_CASE_METHOD(Fixture, "fence: 'off' that says done but leaves the node on is no proof", "[fence][unit]") {
  Make();
  rack.outlets["bmc/"] = {.stuck = true};
  auto run = Start(OnImage(), {{"power", {Power("bmc", {{"action", "off"}})}}});
  CHECK(!run->proven());
  CHECK(StepSaid("status ON"));
  rack.outlets["bmc/"].stuck = false;
  world.RunUntil([&] { return run->proven(); }, Seconds(200));
  CHECK(run->proven());  // it goes on until it works
}

TEST_CASE_METHOD(Fixture, "fence: a timeout is not fenced, the next method is tried", "[fence][unit]") {
  Make();
  rack.outlets["dead/"] = {.hangs = true};
  rack.outlets["good/"] = {};
  policy.device_retries = 1;
  domain->SetPolicy(policy);
  auto run = Start(OnImage(), {{"first", {Power("dead")}}, {"second", {Power("good", {{"action", "off"}})}}});
  REQUIRE(run->proven());
  CHECK(run->proofs()[0].method == "second");
  CHECK(CountCalls("dead/ off") == 2);  // one retry
  bool timed_out = std::any_of(steps.begin(), steps.end(), [](const FenceStep& s) { return s.outcome == StepOutcome::kTimedOut; });
  CHECK(timed_out);
}

TEST_CASE_METHOD(Fixture, "fence: nothing works: waits, never proves, is cancelled", "[fence][unit]") {
  Make();
  rack.outlets["dead/"] = {.hangs = true};
  rack.outlets["denied/"] = {.denies = true};
  auto run = Start(OnImage(), {{"first", {Power("dead")}}, {"second", {Power("denied", {{"passwd", "hunter22"}})}}}, Seconds(300));
  CHECK(!run->proven());
  CHECK(!run->ended());
  CHECK(CountCalls("denied/ off") > 3);  // cycled
  for (const FenceStep& s : steps) CHECK(s.details.find("hunter22") == std::string::npos);
  process.Post([&] { run->Cancel("another node has taken over"); });
  auto proofs = world.Run(process, run->AwaitProof());
  CHECK(proofs.code() == Errc::kCancelled);
  world.Run(process, run->AwaitEnd());
  size_t calls = rack.calls.size();
  world.RunFor(Seconds(100));
  CHECK(rack.calls.size() == calls);
}

TEST_CASE_METHOD(Fixture, "fence: retries of one device are counted by its own attribute", "[fence][unit]") {
  Make();
  rack.outlets["bmc/"] = {.fails_first = 4};
  auto run = Start(OnImage(), {{"power", {Power("bmc", {{"action", "off"}, {"agent_retries", "4"}, {"agent_retry_wait", "0.1"}})}}});
  REQUIRE(run->proven());
  CHECK(CountCalls("bmc/ off") == 5);
  bool again = std::any_of(steps.begin(), steps.end(), [](const FenceStep& s) { return s.round > 1; });
  CHECK(!again);
  for (const std::string& input : rack.inputs) CHECK(input.find("agent_retr") == std::string::npos);
}

TEST_CASE_METHOD(Fixture, "fence: two power supplies: off, off, then the proof, then on, on", "[fence][unit]") {
  Make();
  rack.outlets["psu/1"] = {};
  rack.outlets["psu/2"] = {};
  auto psu = [](const std::string& port, const std::string& action) {
    Attributes attributes = {{"ip", "psu"}, {"port", port}, {"action", action}};
    return FenceDevice{"psu", "fence_power", attributes};
  };
  bool both_off = false;
  rack.on_call = [&](const std::string& call) {
    if (call.ends_with(" on")) both_off = both_off || (!rack.outlets["psu/1"].on && !rack.outlets["psu/2"].on && call == "psu/1 on");
  };
  SECTION("as RHCS writes it") {
    auto run = Start(OnImage(), {{"power", {psu("1", "off"), psu("2", "off"), psu("1", "on"), psu("2", "on")}}});
    REQUIRE(run->proven());
    world.Run(process, run->AwaitEnd());
    CHECK(both_off);
    CHECK(rack.outlets["psu/1"].on);
    CHECK(rack.outlets["psu/2"].on);
  }
  SECTION("reboot, reboot is done as off, off, on, on") {
    auto run = Start(OnImage(), {{"power", {psu("1", "reboot"), psu("2", "reboot")}}});
    REQUIRE(run->proven());
    world.Run(process, run->AwaitEnd());
    CHECK(both_off);
    CHECK(rack.outlets["psu/2"].on);
    CHECK(CountCalls("psu/1 reboot") == 0);
  }
  SECTION("off, on, off, on never has both off: no proof") {
    auto run = Start(OnImage(), {{"power", {psu("1", "off"), psu("1", "on"), psu("2", "off"), psu("2", "on")}}});
    CHECK(!run->proven());
  }
  SECTION("one supply that cannot be cut: no proof") {
    rack.outlets["psu/2"].denies = true;
    auto run = Start(OnImage(), {{"power", {psu("1", "off"), psu("2", "off")}}});
    CHECK(!run->proven());
  }
}

TEST_CASE_METHOD(Fixture, "fence: a port that does not exist reads OFF and is no proof", "[fence][unit]") {
  Make();
  rack.outlets["switch/3"] = {};
  auto run = Start(OnImage(), {{"switch", {Port("99")}}});
  CHECK(!run->proven());
  CHECK(StepSaid("never seen ON"));
  CHECK(CountCalls("switch/99 off") == 0);
  auto check = world.Run(process, domain->Check("n2", {{"switch", {Port("99"), Port("3")}}}));
  REQUIRE(check.size() == 2);
  CHECK(!check[0].ok);
  CHECK(check[0].details.find("not in the agent's list") != std::string::npos);
  CHECK(check[1].ok);
}

TEST_CASE_METHOD(Fixture, "fence: a port seen ON at the check counts when it is OFF later", "[fence][unit]") {
  sim::SimKvMedium medium(&world);
  sim::SimKvStore store(&process, &medium);
  History history(&store);
  Make(&history);
  rack.outlets["switch/3"] = {};
  CHECK(world.Run(process, domain->Check("n2", {{"switch", {Port("3")}}}))[0].ok);
  rack.outlets["switch/3"].on = false;
  // Another life of this daemon: what was seen is in the store.
  History later(&store);
  REQUIRE(world.Run(process, later.Load()).ok());
  Domain second(FenceSeams{&process, &rack, &storage, &local, &later}, policy);
  std::shared_ptr<FenceRun> run;
  process.Post([&] { run = second.Fence(OnImage(), {{"switch", {Port("3")}}}, nullptr); });
  world.RunUntil([&] { return run && run->proven(); }, Seconds(20));
  REQUIRE(run->proven());
  CHECK(KindOf(*run) == ProofKind::kPort);
  CHECK(!run->proofs()[0].readers_ended);
  world.Run(process, second.Close());
}

TEST_CASE_METHOD(Fixture, "fence: the storage step starts with the methods; a persistent one is sufficient first", "[fence][unit]") {
  Make();
  rack.outlets["bmc/"] = {.takes = Seconds(3)};
  auto run = Start(OnArray(), {{"power", {Power("bmc")}}});
  REQUIRE(run->proven());
  REQUIRE(run->proofs().size() == 1);
  CHECK(run->proofs()[0].kind == ProofKind::kStorage);
  CHECK(!run->proofs()[0].readers_ended);
  CHECK(!run->ended());
  world.Run(process, run->AwaitEnd());
  REQUIRE(run->proofs().size() == 2);  // power went on behind
  CHECK(run->proofs()[1].kind == ProofKind::kPower);
  CHECK(rack.outlets["bmc/"].on);      // reboot: on again
  bool behind = std::any_of(steps.begin(), steps.end(), [](const FenceStep& s) { return s.behind && s.action == "off"; });
  CHECK(behind);
}

TEST_CASE_METHOD(Fixture, "fence: every volume of the victim goes through the storage step, and the weakest decides", "[fence][unit]") {
  Make();
  Victim v = OnArray();
  v.volumes.push_back(v.volumes[0]);
  v.volumes[1].volume = "iscsi://10.0.0.1/iqn.x:y/2";
  std::vector<FenceMethod> methods = {{"storage", {{"pr", "fence_pr", {}}}}};
  SECTION("both keep their reservation") {
    auto run = Start(v, methods);
    CHECK(run->proven());
    CHECK(storage.volumes == std::vector<std::string>{v.volumes[0].volume, v.volumes[1].volume});
  }
  SECTION("the first forgets it with its power") {
    storage.forgets = v.volumes[0].volume;
    auto run = Start(v, methods, Seconds(5));
    CHECK_FALSE(run->proven());
    process.Post([&] { run->Cancel("test"); });
    world.RunUntil([&] { return run->ended(); }, Seconds(100));
  }
}

TEST_CASE_METHOD(Fixture, "fence: a reservation that does not survive power loss needs a second proof, or the admin's word", "[fence][unit]") {
  storage.persistent = false;
  FenceDevice pr{"reservation", "fence_pr", {}};
  SECTION("alone it is not enough") {
    Make();
    auto run = Start(OnArray(), {{"storage", {pr}}});
    CHECK(!run->proven());
    CHECK(run->proofs().size() == 1);
    CHECK(StepSaid("does not survive"));
  }
  SECTION("accepted by the device's attribute") {
    Make();
    pr.attributes["accept_volatile"] = "1";
    auto run = Start(OnArray(), {{"storage", {pr}}});
    REQUIRE(run->proven());
    CHECK(run->proofs()[0].details.find("accepted by configuration") != std::string::npos);
  }
  SECTION("accepted by the policy") {
    policy.accept_storage_alone = true;
    Make();
    CHECK(Start(OnArray(), {})->proven());
  }
  SECTION("power beside it") {
    Make();
    rack.outlets["bmc/"] = {};
    auto run = Start(OnArray(), {{"power", {Power("bmc")}}});
    REQUIRE(run->proven());
    CHECK(KindOf(*run) == ProofKind::kPower);
    CHECK(storage.drained >= 1);  // what the array had accepted before the power cut has landed
  }
}

TEST_CASE_METHOD(Fixture, "fence: power off while the array cannot be drained is not enough to replay", "[fence][unit]") {
  Make();
  rack.outlets["bmc/"] = {};
  storage.reachable = false;
  auto run = Start(OnArray(), {{"power", {Power("bmc")}}});
  CHECK(!run->proven());
  CHECK(!rack.outlets["bmc/"].on);
  storage.reachable = true;
  world.RunUntil([&] { return run->proven(); }, Seconds(100));
  CHECK(run->proven());
}

TEST_CASE_METHOD(Fixture, "fence: a held byte of the victim holds the proof back", "[fence][unit]") {
  Make();
  FenceDevice device{"local", "fence_local", {{"cgroup", "/x"}}};
  local.bytes_free = false;
  auto run = Start(OnImage(), {{"isolate", {device}}}, Seconds(100));
  CHECK(!run->proven());
  CHECK(local.isolated == 1);
  local.bytes_free = true;
  world.RunUntil([&] { return run->proven(); }, Seconds(100));
  REQUIRE(run->proven());
  CHECK(KindOf(*run) == ProofKind::kLocal);
  CHECK(run->proofs()[0].readers_ended);
}

TEST_CASE_METHOD(Fixture, "fence: a second call for the same incarnation joins the run", "[fence][unit]") {
  Make();
  rack.outlets["bmc/"] = {};
  std::vector<FenceMethod> methods = {{"power", {Power("bmc", {{"action", "off"}})}}};
  auto one = Start(OnImage(), methods);
  auto two = Start(OnImage(), methods);
  CHECK(one == two);
  CHECK(CountCalls("bmc/ off") == 1);
  Victim newer = OnImage();
  newer.incarnation = Incarnation(8);
  CHECK(Start(newer, methods) != one);
}

TEST_CASE_METHOD(Fixture, "fence: a human's word is a proof of its own kind", "[fence][unit]") {
  Make();
  auto run = Start(OnImage(), {});
  CHECK(!run->proven());
  CHECK(domain->Acknowledge(NodeId(3), Incarnation(1), "root").code() == Errc::kNotFound);
  process.Post([&] { CHECK(domain->Acknowledge(NodeId(2), Incarnation(7), "root").ok()); });
  world.RunUntil([&] { return run->proven(); }, Seconds(10));
  REQUIRE(run->proven());
  CHECK(run->proofs()[0].kind == ProofKind::kManual);
  CHECK(run->proofs()[0].details.find("root") != std::string::npos);
}

TEST_CASE_METHOD(Fixture, "fence: our own former life is fenced without agents", "[fence][unit]") {
  Make();
  rack.outlets["bmc/"] = {};
  SECTION("image: the bytes") {
    Victim v = OnImage();
    v.own_former_life = true;
    auto run = Start(v, {{"power", {Power("bmc")}}});
    CHECK(run->proven());
    CHECK(local.locked == 2);
    CHECK(!run->proofs()[0].readers_ended);
  }
  SECTION("array: the storage step") {
    Victim v = OnArray();
    v.own_former_life = true;
    storage.persistent = false;
    auto run = Start(v, {{"power", {Power("bmc")}}});
    CHECK(run->proven());
    CHECK(storage.fenced == 1);
  }
  CHECK(rack.calls.empty());
}

TEST_CASE_METHOD(Fixture, "fence: configuration that cannot fence is told, not obeyed", "[fence][unit]") {
  Make();
  rack.outlets["bmc/"] = {};
  auto run = Start(OnImage(), {{"a", {Power("bmc", {{"action", "status"}})}},
                               {"b", {Power("bmc", {{"action", "on"}})}},
                               {"c", {FenceDevice{"odd", "fence_odd", {{"ip", "bmc"}}}}},
                               {"d", {FenceDevice{"evil", "fence power; rm", {{"ip", "bmc"}}}}},
                               {"e", {Power("bmc", {{"login", "x\naction=on"}})}}}, Seconds(20));
  CHECK(!run->proven());
  CHECK(rack.calls.empty());
}

TEST_CASE("fence: an agent gets its parameters on standard input, secrets nowhere else", "[fence][unit]") {
  FenceDevice device{"bmc", "fence_ipmilan", {{"ipaddr", "10.0.0.9"}, {"login", "admin"}, {"passwd", "geheim"}, {"action", "reboot"},
                                               {"accept_volatile", "1"}}};
  auto input = AgentInput(device, "n2", "off");
  REQUIRE(input.ok());
  CHECK(*input == "action=off\nnodename=n2\nipaddr=10.0.0.9\nlogin=admin\npasswd=geheim\n");
  auto shown = Redacted(device.attributes);
  CHECK(shown["passwd"] == "***");
  CHECK(shown["ipaddr"] == "10.0.0.9");
  CHECK(Redacted({{"passwd_script", "/etc/pw"}})["passwd_script"] == "/etc/pw");
  CHECK(RedactedUrl("iscsi://user%pass@host:1/iqn/1") == "iscsi://user@host:1/iqn/1");
  CHECK(RedactedUrl("iscsi://host/iqn.a%3Ab/1") == "iscsi://host/iqn.a%3Ab/1");
}

TEST_CASE("fence: history keeps order, is bounded and survives a restart", "[fence][unit]") {
  sim::World world(3);
  auto& process = world.Start(NodeId(1));
  sim::SimKvMedium medium(&world);
  sim::SimKvStore store(&process, &medium);
  {
    History history(&store, 10);
    REQUIRE(world.Run(process, history.Load()).ok());
    for (int i = 0; i < 25; i++) {
      HistoryRecord r;
      r.at.seconds = i;
      r.node = NodeId(2);
      r.incarnation = Incarnation(9);
      r.phase = "fence";
      r.what = "a\tb\\c\n" + std::to_string(i);
      REQUIRE(world.Run(process, history.Append(r)).ok());
    }
  }
  History history(&store, 10);
  REQUIRE(world.Run(process, history.Load()).ok());
  auto all = world.Run(process, history.Newest(100));
  REQUIRE(all.ok());
  REQUIRE(all->size() == 10);
  CHECK(all->front().what == "a\tb\\c\n15");
  CHECK(all->back().at.seconds == 24);
  CHECK(all->back().number == 25);
  CHECK(world.Run(process, history.Newest(3))->size() == 3);
  CHECK(DecodeRecord("garbage").code() == Errc::kCorrupt);
}

}  // namespace holdfast::fence
