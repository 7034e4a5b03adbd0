// IscsiReservations, PrFence and the reconnect guard against a real target (tgt), with the controls that must lose data.

#include <catch2/catch.hpp>

#include <sys/wait.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "base/log.h"
#include "tests/fence/iscsi_fixture.h"
#include "tests/io/reservations_contract.h"

namespace holdfast::fence {

TEST_CASE("iscsi: the Reservations contract on tgt", "[iscsi][pr][system]") {
  Tgt tgt;
  Reactor reactor;
  auto a = Open(&reactor, tgt);
  auto b = Open(&reactor, tgt);
  auto run = [&](auto task) { return reactor.RunTask(std::move(task)); };
  auto state = run(a->Read());
  REQUIRE(state.ok());
  CHECK(state->keys.empty());
  CHECK(!state->reserved);

  CHECK(run(a->Register(kKeyA)).ok());
  CHECK(run(a->Register(kKeyA)).ok());  // repeatable
  CHECK(run(a->Register(kKeyC)).code() == Errc::kConflict);
  CHECK(run(b->Reserve(kKeyB)).code() == Errc::kConflict);  // not registered
  CHECK(run(b->Register(kKeyB)).ok());
  CHECK(run(a->Reserve(kKeyA)).ok());
  CHECK(run(a->Reserve(kKeyA)).ok());
  CHECK(run(b->Reserve(kKeyB)).ok());  // all registrants hold it
  state = run(b->Read());
  REQUIRE(state.ok());
  CHECK(state->keys.size() == 2);
  CHECK(state->reserved);
  CHECK(state->all_registrants_write_exclusive);
  CHECK(WriteText(&reactor, b.get(), "b before").ok());

  CHECK(run(a->Preempt(kKeyA, kKeyB)).ok());
  CHECK(run(a->Preempt(kKeyA, kKeyB)).ok());  // repeatable
  CHECK(run(a->Drain()).ok());
  state = run(a->Read());
  REQUIRE(state.ok());
  CHECK(state->keys == std::vector<ReservationKey>{kKeyA});
  bool told = false;
  b->session().OnFenced([&](const Error&) { told = true; });
  CHECK(WriteText(&reactor, b.get(), "b after").code() == Errc::kConflict);
  CHECK(tgt.TextAt(kPlace) == "b before");
  CHECK(b->session().state() == IscsiState::kFenced);
  reactor.RunTask(Until(&told));
  AlignedBuffer block(kBlockSize);
  CHECK(run(b->Read(0, block.span())).code() == Errc::kConflict);  // all I/O stops
  CHECK(WriteText(&reactor, a.get(), "a after").ok());

  auto capabilities = run(a->Capabilities());
  REQUIRE(capabilities.ok());
  CHECK(!capabilities->preempt_and_abort);           // tgt has neither
  CHECK(!capabilities->persist_through_power_loss);
  CHECK(run(a->Unregister(kKeyA)).ok());
  CHECK(run(a->Unregister(kKeyA)).ok());
  state = run(a->Read());
  REQUIRE(state.ok());
  CHECK(!state->reserved);  // the last registrant has left
  run(a->Close());
  run(b->Close());
}

TEST_CASE("iscsi: the cases that the simulated disk passes too", "[iscsi][pr][system]") {
  Tgt tgt;
  Reactor reactor;
  auto a = Open(&reactor, tgt);
  auto b = Open(&reactor, tgt);
  auto run = [&](auto task) { return reactor.RunTask(std::move(task)); };
  auto write = [&](Reservations* session) {
    return WriteText(&reactor, static_cast<IscsiDevice*>(session), "contract");
  };
  SECTION("reservations") { contract::ReservationsContract(a.get(), b.get(), run, write); }
  SECTION("preempt") { contract::PreemptContract(a.get(), b.get(), run, write); }
  run(a->Close());
  run(b->Close());
}

TEST_CASE("iscsi: a volume that others have reserved can be opened, read and joined", "[iscsi][pr][system]") {
  Tgt tgt;
  Reactor reactor;
  auto run = [&](auto task) { return reactor.RunTask(std::move(task)); };
  auto first = Open(&reactor, tgt);
  REQUIRE(run(first->Register(kKeyA)).ok());
  REQUIRE(run(first->Reserve(kKeyA)).ok());
  REQUIRE(WriteText(&reactor, first.get(), "first").ok());
  auto second = Open(&reactor, tgt);
  CHECK(second->session().state() == IscsiState::kReady);
  AlignedBuffer block(kBlockSize);
  CHECK(run(second->Read(kPlace, block.span())).ok());
  CHECK(std::string(reinterpret_cast<const char*>(block.data())) == "first");
  REQUIRE(run(second->Register(kKeyB)).ok());
  CHECK(WriteText(&reactor, second.get(), "second", WriteFlags::kFua).ok());
  CHECK(run(second->Flush()).ok());
  run(first->Close());
  run(second->Close());
}

TEST_CASE("iscsi: type 7 stands when the one who reserved leaves cleanly", "[iscsi][pr][system]") {
  Tgt tgt;
  Reactor reactor;
  auto run = [&](auto task) { return reactor.RunTask(std::move(task)); };
  auto a = Open(&reactor, tgt);
  auto b = Open(&reactor, tgt);
  auto zombie = Open(&reactor, tgt);
  REQUIRE(run(a->Register(kKeyA)).ok());
  REQUIRE(run(b->Register(kKeyB)).ok());
  REQUIRE(run(zombie->Register(kKeyC)).ok());
  bool type_5 = GENERATE(false, true);
  if (type_5) {  // the control, by a raw command: write exclusive, registrants only
    Bytes parameters(24);
    for (int i = 0; i < 8; i++) parameters[i] = static_cast<std::byte>(kKeyA >> (56 - 8 * i));
    io::ScsiCommand command;
    command.cdb = {0x5f, 1, 5, 0, 0, 0, 0, 0, 24};
    command.cdb_size = 10;
    command.out = parameters;
    command.control = true;
    REQUIRE(run(a->session().Execute(command)).ok());
    command.cdb = {0x5f, 4, 5, 0, 0, 0, 0, 0, 24};
    for (int i = 0; i < 8; i++) parameters[i] = static_cast<std::byte>(kKeyB >> (56 - 8 * i));
    for (int i = 0; i < 8; i++) parameters[8 + i] = static_cast<std::byte>(kKeyC >> (56 - 8 * i));
    REQUIRE(run(b->session().Execute(command)).ok());
  } else {
    REQUIRE(run(a->Reserve(kKeyA)).ok());
    REQUIRE(run(b->Preempt(kKeyB, kKeyC)).ok());
  }
  REQUIRE(run(b->Drain()).ok());
  REQUIRE(run(a->Unregister(kKeyA)).ok());
  Status late = WriteText(&reactor, zombie.get(), "zombie");
  if (type_5) {
    CHECK(late.ok());  // why it is type 7
  } else {
    CHECK(late.code() == Errc::kConflict);
    CHECK(tgt.TextAt(kPlace).empty());
  }
  run(a->Close());
  run(b->Close());
  run(zombie->Close());
}

TEST_CASE("iscsi: after preempt, drain and verify no write of the victim lands", "[iscsi][pr][slow][system]") {
  Tgt tgt({.slow_ms = kSlowMs});
  Reactor reactor;
  auto run = [&](auto task) { return reactor.RunTask(std::move(task)); };
  auto survivor = Open(&reactor, tgt);
  auto victim = Open(&reactor, tgt);
  REQUIRE(run(survivor->Register(kKeyA)).ok());
  REQUIRE(run(victim->Register(kKeyB)).ok());
  REQUIRE(run(survivor->Reserve(kKeyA)).ok());
  Background late;
  StartSlow(&reactor, victim.get(), &late, "SLOWIO from the victim");
  bool drained = GENERATE(true, false);
  io::IscsiReservationSessions sessions(&reactor, "iqn.2026-11.org.holdfast:fencer");
  PrFence fence(&sessions, kFencer);
  if (drained) {
    auto proof = run(fence.Fence(tgt.url(), {kKeyB}, true, nullptr));
    INFO((proof.ok() ? "" : proof.error().ToString()));
    REQUIRE(proof.ok());
    CHECK(!proof->persistent);
  } else {
    REQUIRE(run(survivor->Preempt(kKeyA, kKeyB)).ok());  // the control
  }
  REQUIRE(WriteText(&reactor, survivor.get(), "survivor", WriteFlags::kFua).ok());
  CHECK(tgt.TextAt(kPlace) == "survivor");
  run(Until(&late.done));
  run(SleepFor(Milliseconds(kSlowMs + 300)));  // anything that the target may still hold
  if (drained) {
    CHECK(tgt.TextAt(kPlace) == "survivor");
    CHECK(WriteText(&reactor, victim.get(), "again").code() == Errc::kConflict);
    CHECK(tgt.TextAt(kPlace) == "survivor");
    auto state = run(survivor->Read());
    REQUIRE(state.ok());
    CHECK(state->keys == std::vector<ReservationKey>{kKeyA});  // the fencer took its own key back
  } else {
    CHECK(tgt.TextAt(kPlace) == "SLOWIO from the victim");  // why preempting alone is no fence
  }
  run(survivor->Close());
  run(victim->Close());
}

TEST_CASE("iscsi: the guard stands between a reconnect and the next write", "[iscsi][pr][system]") {
  Tgt tgt;
  Reactor reactor;
  auto run = [&](auto task) { return reactor.RunTask(std::move(task)); };
  auto device = Open(&reactor, tgt);
  auto other = Open(&reactor, tgt);
  REQUIRE(run(device->Register(kKeyA)).ok());
  REQUIRE(run(other->Register(kKeyB)).ok());
  REQUIRE(run(device->Reserve(kKeyA)).ok());
  REQUIRE(WriteText(&reactor, device.get(), "one").ok());
  int asked = 0;
  SECTION("still a member: the key is registered again, I/O goes on") {
    device->session().SetReconnectGuard([&]() {
      asked++;
      return device->Reregister(kKeyA);
    });
    device->session().CutForTest();
    CHECK(WriteText(&reactor, device.get(), "two").ok());
    CHECK(asked == 1);
    CHECK(tgt.TextAt(kPlace) == "two");
  }
  SECTION("preempted meanwhile: no key, no write, fenced") {
    device->session().SetReconnectGuard([&]() {
      asked++;
      return device->Reregister(kKeyA);
    });
    REQUIRE(run(other->Preempt(kKeyB, kKeyA)).ok());
    device->session().CutForTest();
    CHECK(WriteText(&reactor, device.get(), "two").code() == Errc::kConflict);
    CHECK(tgt.TextAt(kPlace) == "one");
    auto state = run(other->Read());
    REQUIRE(state.ok());
    CHECK(state->keys == std::vector<ReservationKey>{kKeyB});
  }
  SECTION("nobody registers by itself: without the guard's doing the write conflicts") {
    device->session().SetReconnectGuard([&]() {
      asked++;
      return Allow();
    });
    device->session().CutForTest();
    CHECK(WriteText(&reactor, device.get(), "two").code() == Errc::kConflict);
    CHECK(asked == 1);
    CHECK(tgt.TextAt(kPlace) == "one");
  }
  run(device->Close());
  run(other->Close());
}

TEST_CASE("iscsi: a target that comes back without keys is told apart from a preemption", "[iscsi][pr][system]") {
  Tgt tgt;
  Reactor reactor;
  auto run = [&](auto task) { return reactor.RunTask(std::move(task)); };
  auto device = Open(&reactor, tgt);
  REQUIRE(run(device->Register(kKeyA)).ok());
  REQUIRE(run(device->Reserve(kKeyA)).ok());
  Errc seen = Errc::kOk;
  bool asked = false;
  std::function<Task<Status>()> guard = [&]() -> Task<Status> { return device->Reregister(kKeyA); };
  auto record = [](std::function<Task<Status>()>* inner, Errc* out, bool* flag) -> Task<Status> {
    auto status = co_await (*inner)();
    *out = status.code();
    *flag = true;
    co_return Status{};
  };
  device->session().SetReconnectGuard([&]() { return record(&guard, &seen, &asked); });
  tgt.Kill();
  tgt.StartAgain();
  run(Until(&asked));
  CHECK(seen == Errc::kStale);
  run(device->Close());
}

TEST_CASE("iscsi: daemons restore their keys after the target lost them, each in its turn", "[iscsi][pr][system]") {
  Tgt tgt;
  Reactor reactor;
  auto run = [&](auto task) { return reactor.RunTask(std::move(task)); };
  auto a = Open(&reactor, tgt);
  auto b = Open(&reactor, tgt);
  for (auto& [device, key] : {std::pair{a.get(), kKeyA}, std::pair{b.get(), kKeyB}}) {
    REQUIRE(run(device->Register(key)).ok());
    REQUIRE(run(device->Reserve(key)).ok());
    device->session().SetReconnectGuard([device = device, key = key]() { return device->Restore(key); });
  }
  REQUIRE(run(a->Read()).ok());
  tgt.Kill();
  tgt.StartAgain();
  CHECK(WriteText(&reactor, a.get(), "a").ok());
  CHECK(WriteText(&reactor, b.get(), "b").ok());  // it sees a's key and not its own: lost, not preempted
  auto state = run(a->Read());
  REQUIRE(state.ok());
  CHECK(state->keys.size() == 2);
  CHECK(state->all_registrants_write_exclusive);
  run(a->Close());
  run(b->Close());
}

TEST_CASE("iscsi: three sessions survive restarts of the target, all at once", "[iscsi][pr][restart][system]") {
  Tgt tgt;
  Reactor reactor;
  auto run = [&](auto task) { return reactor.RunTask(std::move(task)); };
  std::vector<std::unique_ptr<IscsiDevice>> devices;
  const ReservationKey keys[] = {kKeyA, kKeyB, kKeyC};
  for (ReservationKey key : keys) {
    devices.push_back(Open(&reactor, tgt));
    IscsiDevice* device = devices.back().get();
    REQUIRE(run(device->Register(key)).ok());
    REQUIRE(run(device->Reserve(key)).ok());
    device->session().SetReconnectGuard([device, key]() { return device->Restore(key); });
    device->session().OnState([key](IscsiState state, const std::string& why) {
      HF_LOG(LogLevel::kInfo, "test", "state", {{"key", key}, {"state", io::IscsiStateName(state)}, {"why", why}});
    });
  }
  for (int round = 0; round < 5; round++) {
    for (auto& device : devices) REQUIRE(run(device->Read()).ok());  // the generation
    std::vector<Background> writes(devices.size());
    tgt.Kill();
    {
      ExecutorTurn turn(&reactor);
      for (size_t i = 0; i < devices.size(); i++) {
        writes[i].block = Text("round");
        Detach(WriteBehind(devices[i].get(), &writes[i]));
      }
    }
    run(SleepFor(Milliseconds(50)));
    tgt.StartAgain();
    auto all = [](std::vector<Background>* w) -> Task<bool> {
      for (int i = 0; i < 1000; i++) {
        if (std::all_of(w->begin(), w->end(), [](const Background& b) { return b.done; })) co_return true;
        co_await SleepFor(Milliseconds(5));
      }
      co_return false;
    };
    INFO("round " << round);
    bool ended = run(all(&writes));
    for (auto& device : devices) INFO(io::IscsiStateName(device->session().state()));
    REQUIRE(ended);
    for (const Background& write : writes) CHECK(write.status.ok());
  }
  for (auto& device : devices) run(device->Close());
}

namespace {

// Runs the program fence_pr with these lines on its standard input; its exit status.
int RunFencePr(const std::string& lines) {
  const char* program = getenv("FENCE_PR");
  REQUIRE(program);
  FILE* pipe = popen((std::string(program) + " >/dev/null 2>&1").c_str(), "w");
  REQUIRE(pipe);
  fputs(lines.c_str(), pipe);
  int status = pclose(pipe);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace

TEST_CASE("fence_pr: the program, by an administrator's hand", "[iscsi][pr][system]") {
  Tgt tgt;
  Reactor reactor;
  auto run = [&](auto task) { return reactor.RunTask(std::move(task)); };
  auto survivor = Open(&reactor, tgt);
  auto victim = Open(&reactor, tgt);
  REQUIRE(run(survivor->Register(kKeyA)).ok());
  REQUIRE(run(victim->Register(kKeyB)).ok());
  REQUIRE(run(survivor->Reserve(kKeyA)).ok());
  std::string where = "devices=" + tgt.url() + "\n";
  CHECK(RunFencePr("action=metadata\n") == 0);
  CHECK(RunFencePr(where + "action=monitor\n") == 0);
  CHECK(RunFencePr(where + "action=status\nnodeid=2\n") == 0);
  CHECK(RunFencePr(where + "action=off\n") == 1);  // whom?
  CHECK(RunFencePr("devices=iscsi://127.0.0.1:1/iqn.x/1\naction=off\nnodeid=2\n") == 1);
  REQUIRE(WriteText(&reactor, victim.get(), "before").ok());
  CHECK(RunFencePr(where + "action=off\nnodeid=2\n") == 0);
  CHECK(RunFencePr(where + "action=status\nnodeid=2\n") == 2);
  CHECK(WriteText(&reactor, victim.get(), "after").code() == Errc::kConflict);
  CHECK(WriteText(&reactor, survivor.get(), "survivor").ok());
  run(survivor->Close());
  run(victim->Close());
}

// Keys of a node's daemon and mount, made by sessions that die with it.
static void Die(Reactor* reactor, const Tgt& tgt, NodeId node, uint32_t nonce) {
  for (uint16_t process : {0, 1}) {
    auto device = Open(reactor, tgt);
    ReservationKey key = MakeKey(node, nonce, process);
    REQUIRE(reactor->RunTask(device->Register(key)).ok());
    REQUIRE(reactor->RunTask(device->Reserve(key)).ok());
    reactor->RunTask(device->Close());
  }
}

static Task<void> FenceOne(PrFence* fence, std::string volume, ReservationKey key, std::vector<std::string>* failed, int* left) {
  for (int attempt = 0; attempt < 5; ++attempt) {
    std::vector<ReservationKey> keys(1, key);
    auto proof = co_await fence->Fence(volume, std::move(keys), true, nullptr);
    if (proof.ok()) break;
    failed->push_back(proof.error().ToString());
    co_await SleepFor(Milliseconds(20));
  }
  --*left;
}

TEST_CASE("pr fence: two victims, at once or one after the other, by one fencer", "[iscsi][pr][system]") {
  Reactor reactor;
  std::vector<std::string> failed;
  for (int round = 0; round < 12; ++round) {
    Tgt tgt;
    io::IscsiReservationSessions sessions(&reactor, "");
    PrFence fence(&sessions, kFencer);
    if (round % 3 == 0) Die(&reactor, tgt, NodeId(2), 0x22222222);
    auto daemon = Open(&reactor, tgt);
    REQUIRE(reactor.RunTask(daemon->Register(kKeyA)).ok());
    REQUIRE(reactor.RunTask(daemon->Reserve(kKeyA)).ok());
    if (round % 3 != 0) Die(&reactor, tgt, NodeId(2), 0x22222222);
    Die(&reactor, tgt, NodeId(3), 0x33333333);
    int left = 2;
    {
      ExecutorTurn turn(&reactor);
      Detach(FenceOne(&fence, tgt.url(), kKeyB, &failed, &left));
    }
    while (round % 2 == 0 && left > 1) reactor.RunTask(SleepFor(Milliseconds(5)));
    {
      ExecutorTurn turn(&reactor);
      Detach(FenceOne(&fence, tgt.url(), kKeyC, &failed, &left));
    }
    while (left > 0) reactor.RunTask(SleepFor(Milliseconds(5)));
    CHECK(WriteText(&reactor, daemon.get(), "the survivor").ok());
    auto state = reactor.RunTask(daemon->Read());
    REQUIRE(state.ok());
    CHECK(std::count(state->keys.begin(), state->keys.end(), kKeyA) == 1);
    reactor.RunTask(daemon->Close());
  }
  for (const std::string& words : failed) UNSCOPED_INFO(words);
  CHECK(failed.empty());
}

// tests/system/slow_write.cc: without it, tgt's reservation has a holder whose memory another registration gets.
static bool OutlivesItsHolder(Tgt::Options options) {
  Tgt tgt(options);
  Reactor reactor;
  auto run = [&](auto task) { return reactor.RunTask(std::move(task)); };
  auto survivor = Open(&reactor, tgt), holder = Open(&reactor, tgt);
  for (int i = 0; i < 12; ++i) {  // what the allocator keeps aside for this thread is full
    REQUIRE(run(survivor->Register(kKeyA)).ok());
    REQUIRE(run(survivor->Unregister(kKeyA)).ok());
  }
  REQUIRE(run(holder->Register(kKeyB)).ok());
  REQUIRE(run(holder->Reserve(kKeyB)).ok());
  REQUIRE(run(survivor->Register(kKeyA)).ok());
  REQUIRE(run(survivor->Preempt(kKeyA, kKeyB)).ok());
  bool good = true;
  std::vector<std::unique_ptr<IscsiDevice>> others;
  for (uint16_t i = 1; i <= 4; ++i) {
    others.push_back(Open(&reactor, tgt));
    ReservationKey key = MakeKey(NodeId(3), 0x33333333, i);
    good = good && run(others.back()->Register(key)).ok() && run(others.back()->Reserve(key)).ok();
  }
  auto state = run(survivor->Read());
  good = good && state.ok() && state->reserved && state->all_registrants_write_exclusive;
  for (auto& other : others) run(other->Close());
  run(holder->Close());
  run(survivor->Close());
  return good;
}

TEST_CASE("tgt: with the preload a reservation outlives the registration that made it", "[iscsi][pr][system]") {
  Tgt::Options options;
  options.slow_ms = 1;
  CHECK(OutlivesItsHolder(options));
  if (OutlivesItsHolder({})) WARN("this tgt does it by itself");
}

}  // namespace holdfast::fence
