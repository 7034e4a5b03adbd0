// Corners of the lock manager that storms hardly meet: repeated messages, second callbacks, queues of ranges, lost value blocks,
// answers of an earlier term. Each case fails without the one line that it is about.
#include <algorithm>
#include <initializer_list>
#include <iterator>

#include <catch2/catch.hpp>

#include "tests/dlm/core_net.h"

namespace holdfast::dlm {
namespace {

const DumpResource* Mastered(CoreNet& net, uint32_t node, const char* name, LockSpaceDump* dump) {
  *dump = net.At(node).Dump();
  for (const DumpResource& r : dump->resources)
    if (r.name == ResourceName(name)) return &r;
  return nullptr;
}

RangeArgs Range(uint64_t start, uint64_t end, RangeType type, bool wait) {
  RangeArgs r;
  r.start = start;
  r.end = end;
  r.type = type;
  r.wait = wait;
  return r;
}

CoreNet::Op Set(CoreNet& net, uint32_t node, RangeArgs range) {
  static uint64_t token = 100;
  auto op = net.At(node).requester().RangeSet(ResourceName("f"), range, ++token);
  net.At(node).Settle();
  net.Pump();
  return {CoreNet::IdOf(node), *op};
}

size_t Told(const CoreNet& net, uint32_t node, Mode mode) {
  return static_cast<size_t>(std::count(net.blocked.begin(), net.blocked.end(), std::pair(CoreNet::IdOf(node), mode)));
}

TEST_CASE("dlm: who lowers a lock and is still in the way is told again", "[dlm][unit]") {
  CoreNet net(2);
  LockId a = net.Create(1, "r"), b = net.Create(2, "r");
  net.Lock(1, a, Mode::kEX);
  auto waits = net.Lock(2, b, Mode::kEX);
  CHECK(Told(net, 1, Mode::kEX) == 1);
  net.Lock(1, a, Mode::kPR);
  CHECK(!net.Result(waits));
  CHECK(Told(net, 1, Mode::kEX) == 2);
  net.Unlock(1, a);
  CHECK(net.Result(waits) == Errc::kOk);
}

TEST_CASE("dlm: a request that comes twice stands in the queue once", "[dlm][unit]") {
  CoreNet net(3);
  LockId a = net.Create(1, "r");
  net.Lock(1, a, Mode::kEX);  // 1 masters it
  auto ask = [&] {
    Message m(Kind::kRequest, ResourceName("r"));
    m.generation = net.At(1).view().generation;
    m.asker = CoreNet::IdOf(2);
    m.guessed = true;
    m.op = 50;
    m.lock = LockId(9);
    m.mode = Mode::kPR;
    net.At(1).Step(CoreNet::IdOf(2), std::move(m));
  };
  ask();
  ask();
  LockSpaceDump dump;
  const DumpResource* r = Mastered(net, 1, "r", &dump);
  REQUIRE(r);
  CHECK(r->waiting.size() == 1);
}

TEST_CASE("dlm: a holder is called back while its own conversion waits", "[dlm][unit]") {
  CoreNet net(3);
  LockId a = net.Create(1, "r"), b = net.Create(2, "r"), c = net.Create(3, "r");
  net.Lock(1, a, Mode::kPR);
  net.Lock(2, b, Mode::kPR);
  auto converts = net.Lock(2, b, Mode::kEX);
  CHECK(!net.Result(converts));
  net.Lock(3, c, Mode::kEX);
  CHECK(Told(net, 2, Mode::kEX) == 1);
}

TEST_CASE("dlm: a range that becomes shared lets in who has waited longer", "[dlm][unit]") {
  CoreNet net(3);
  net.Lock(1, net.Create(1, "f"), Mode::kNL);
  CHECK(net.Result(Set(net, 1, Range(0, 4, RangeType::kExclusive, false))) == Errc::kOk);
  CHECK(net.Result(Set(net, 3, Range(5, 9, RangeType::kExclusive, false))) == Errc::kOk);
  auto reader = Set(net, 2, Range(0, 4, RangeType::kShared, true));
  CHECK(!net.Result(reader));
  auto softens = Set(net, 1, Range(0, 9, RangeType::kShared, true));
  CHECK(!net.Result(softens));
  Set(net, 3, Range(5, 9, RangeType::kUnlock, false));
  CHECK(net.Result(softens) == Errc::kOk);
  CHECK(net.Result(reader) == Errc::kOk);
}

TEST_CASE("dlm: a value block that is lost with its master keeps its number", "[dlm][unit]") {
  CoreNet net(3);
  net.Lock(2, net.Create(2, "r"), Mode::kNL);  // 2 masters it
  LockId a = net.Create(1, "r"), b = net.Create(3, "r");
  RequestOptions with;
  with.value = ValueBytes{};
  for (int i = 0; i < 3; ++i) {
    net.Lock(1, a, Mode::kEX);
    auto down = net.At(1).requester().Request(a, Mode::kNL, Flags::kNone, with);
    REQUIRE(down.ok());
    net.At(1).Settle();
    net.Pump();
  }
  net.Lock(3, b, Mode::kCR);
  CHECK(net.At(3).requester().Value(b).number == 3);
  net.Kill(2);
  net.reg.Evict(CoreNet::IdOf(2));
  net.reg.SetFenced(CoreNet::IdOf(2));
  net.reg.SetReplayed(CoreNet::IdOf(2));
  net.reg.SetReadersEnded(CoreNet::IdOf(2));
  net.Feed();
  bool found = false;
  for (uint32_t node : {1u, 3u}) {
    LockSpaceDump dump;
    const DumpResource* r = Mastered(net, node, "r", &dump);
    if (!r) continue;
    found = true;
    CHECK(!r->value_valid);
    CHECK(r->value_number == 3);
  }
  CHECK(found);
  // Whoever writes it next is newer than every copy that is still about.
  net.Lock(3, b, Mode::kNL);
  net.Lock(1, a, Mode::kEX);
  CHECK(!net.At(1).requester().Value(a).valid);
  REQUIRE(net.At(1).requester().Request(a, Mode::kNL, Flags::kNone, with).ok());
  net.At(1).Settle();
  net.Pump();
  net.Lock(3, b, Mode::kPR);
  CHECK(net.At(3).requester().Value(b).valid);
  CHECK(net.At(3).requester().Value(b).number == 4);
}

TEST_CASE("dlm: an answer to an earlier REMOVE forgets nothing", "[dlm][unit]") {
  CoreNet net(2);
  const char* names[] = {"a", "b", "c", "d", "e", "f", "g", "h"};
  for (const char* name : names) {
    LockId a = net.Create(1, name);
    net.Lock(1, a, Mode::kEX);
    net.Unlock(1, a);
  }
  net.At(1).SetNow(Instant{Seconds(3600).ns});
  net.At(1).Tick();  // unused for long: it asks their directories to be rid of them; its own has answered already
  size_t asked = 0;
  LockSpaceDump dump;
  for (const char* name : names) {
    if (!Mastered(net, 1, name, &dump)) continue;
    ++asked;
    Message late(Kind::kRemoveOk, ResourceName(name));
    late.generation = net.At(1).view().generation;
    late.term = UINT64_MAX;
    net.At(1).Step(CoreNet::IdOf(2), std::move(late));
    CHECK(Mastered(net, 1, name, &dump) != nullptr);
  }
  CHECK(asked > 0);
  net.Pump();
  for (const char* name : names) CHECK(Mastered(net, 1, name, &dump) == nullptr);
}

// The directory let somebody else become master after our REMOVE, and died before we heard of it.
TEST_CASE("dlm: a name whose REMOVE has no answer is not ours in the next generation", "[dlm][unit]") {
  CoreNet net(4);
  const char* names[] = {"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"};
  for (const char* name : names) {
    LockId a = net.Create(1, name);
    net.Lock(1, a, Mode::kEX);
    net.Unlock(1, a);
  }
  net.At(1).SetNow(Instant{Seconds(3600).ns});
  net.At(1).Tick();
  for (Outgoing& out : net.At(1).TakeMessages())
    if (out.to == CoreNet::IdOf(2)) net.At(2).Step(CoreNet::IdOf(1), std::move(out.message));
  (void)net.At(2).TakeMessages();  // its answers are lost with it
  std::vector<std::pair<const char*, CoreNet::Op>> others;
  for (const char* name : names) {
    LockSpaceDump dump;
    if (!Mastered(net, 1, name, &dump)) continue;
    auto op = net.Lock(3, net.Create(3, name), Mode::kEX);
    if (net.Result(op) == Errc::kOk && Mastered(net, 3, name, &dump)) others.emplace_back(name, op);
  }
  REQUIRE(!others.empty());
  net.Kill(2);
  net.reg.Evict(CoreNet::IdOf(2));
  net.reg.SetFenced(CoreNet::IdOf(2));
  net.reg.SetReplayed(CoreNet::IdOf(2));
  net.reg.SetReadersEnded(CoreNet::IdOf(2));
  net.Feed();
  for (auto& [name, op] : others) {
    LockSpaceDump dump;
    CHECK(Mastered(net, 1, name, &dump) == nullptr);
    CHECK(!net.Result(net.Lock(1, net.Create(1, name), Mode::kPR)));
    CHECK(!net.Result(net.Lock(4, net.Create(4, name), Mode::kPR)));
  }
  for (uint32_t node : {1u, 3u, 4u}) CHECK(!net.At(node).withdrawn());
}

void Bury(CoreNet& net, uint32_t node) {
  net.Kill(node);
  net.reg.Evict(CoreNet::IdOf(node));
  net.reg.SetFenced(CoreNet::IdOf(node));
  net.reg.SetReplayed(CoreNet::IdOf(node));
  net.reg.SetReadersEnded(CoreNet::IdOf(node));
  net.Feed();
}

// What a member has to say arrives at those named; the rest is lost.
void Deliver(CoreNet& net, uint32_t from, std::initializer_list<uint32_t> to) {
  for (Outgoing& out : net.At(from).TakeMessages())
    if (std::find(to.begin(), to.end(), out.to.node.v) != to.end())
      net.cores.at(out.to)->Step(CoreNet::IdOf(from), std::move(out.message));
}

// The master did an unlock, forgot the name, saw another become its master, and died before its answer came.
TEST_CASE("dlm: a lock that is being given up is nobody's claim on a name that has a new master", "[dlm][unit]") {
  CoreNet net(4);
  const char* names[] = {"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"};
  std::vector<LockId> ours;
  for (const char* name : names) {
    LockId first = net.Create(2, name);
    net.Lock(2, first, Mode::kNL);
    ours.push_back(net.Create(1, name));
    net.Lock(1, ours.back(), Mode::kEX);
    net.Unlock(2, first);
  }
  for (LockId lock : ours) REQUIRE(net.At(1).requester().Unlock(lock, std::nullopt).ok());
  Deliver(net, 1, {2});
  (void)net.At(2).TakeMessages();  // the answers
  net.At(2).SetNow(Instant{Seconds(3600).ns});
  net.At(2).Tick();
  Deliver(net, 2, {3, 4});  // REMOVE, to the directories that live on
  for (uint32_t directory : {3u, 4u}) Deliver(net, directory, {2});
  size_t taken = 0;
  for (const char* name : names) {
    LockSpaceDump dump;
    if (Mastered(net, 2, name, &dump)) continue;
    taken += net.Result(net.Lock(3, net.Create(3, name), Mode::kEX)) == Errc::kOk && Mastered(net, 3, name, &dump) != nullptr;
  }
  REQUIRE(taken > 0);
  Bury(net, 2);
  for (uint32_t node : {1u, 3u, 4u}) {
    CHECK(!net.At(node).withdrawn());
    CHECK(net.At(node).running());
  }
  for (LockId lock : ours) CHECK(net.At(1).requester().GrantedMode(lock) == Mode::kIV);
}

TEST_CASE("dlm: a range that was about to become shared is reported as shared", "[dlm][unit]") {
  CoreNet net(3);
  net.Lock(2, net.Create(2, "f"), Mode::kNL);  // 2 masters it
  CHECK(net.Result(Set(net, 1, Range(0, 4, RangeType::kExclusive, false))) == Errc::kOk);
  auto reader = Set(net, 3, Range(0, 4, RangeType::kShared, true));
  CHECK(!net.Result(reader));
  // More than it holds: what it holds of that may be shared by now, the rest may not be ours.
  REQUIRE(net.At(1).requester().RangeSet(ResourceName("f"), Range(0, 9, RangeType::kShared, false), 7).ok());
  Deliver(net, 1, {2});
  Deliver(net, 2, {3});  // 3 is let in; the answer to 1 is lost
  net.Pump();
  CHECK(net.Result(reader) == Errc::kOk);
  Bury(net, 2);
  for (uint32_t node : {1u, 3u}) {
    CHECK(!net.At(node).withdrawn());
    CHECK(net.At(node).running());
  }
}

TEST_CASE("dlm: while a journal is owed no name is forgotten", "[dlm][unit]") {
  CoreNet net(3);
  const char* names[] = {"a", "b", "c", "d", "e", "f"};
  for (const char* name : names) {
    LockId a = net.Create(1, name);
    net.Lock(1, a, Mode::kEX);
    net.Unlock(1, a);
  }
  net.Kill(2);
  net.reg.Evict(CoreNet::IdOf(2));
  net.reg.SetFenced(CoreNet::IdOf(2));
  net.Feed();
  net.At(1).SetNow(Instant{Seconds(3600).ns});
  net.At(1).Tick();
  net.Pump();
  LockSpaceDump dump;
  for (const char* name : names) {
    if (!Mastered(net, 1, name, &dump)) continue;  // its directory died: known to nobody before the death
    CHECK(net.Frozen(1, name) == false);
  }
  size_t kept = 0;
  for (const char* name : names) kept += Mastered(net, 1, name, &dump) != nullptr;
  CHECK(kept == std::size(names));
}

TEST_CASE("dlm: a value block that comes late does not overwrite a newer one", "[dlm][unit]") {
  CoreNet net(2);
  net.Lock(2, net.Create(2, "r"), Mode::kNL);  // 2 masters it
  LockId a = net.Create(1, "r");
  RequestOptions with;
  with.value = ValueBytes{};
  for (int i = 0; i < 3; ++i) {
    net.Lock(1, a, Mode::kEX);
    REQUIRE(net.At(1).requester().Request(a, Mode::kNL, Flags::kNone, with).ok());
    net.At(1).Settle();
    net.Pump();
  }
  net.Lock(1, a, Mode::kEX);
  Message late(Kind::kConvert, ResourceName("r"));
  late.generation = net.At(2).view().generation;
  late.asker = CoreNet::IdOf(1);
  late.op = 999;
  late.lock = a;
  late.mode = Mode::kNL;
  late.value = std::make_unique<ValueBlock>();
  late.value->number = 2;
  late.value->valid = true;
  net.At(2).Step(CoreNet::IdOf(1), std::move(late));
  LockSpaceDump dump;
  const DumpResource* r = Mastered(net, 2, "r", &dump);
  REQUIRE(r);
  CHECK(r->value_number == 3);
}

}  // namespace
}  // namespace holdfast::dlm
