// The public interface with one member (nolock): everything works without a transport.
#include <catch2/catch.hpp>

#include "dlm/standalone.h"
#include "tests/sim/world.h"

namespace holdfast::dlm {
namespace {

const MemberId kSelf{NodeId(1), Incarnation(1), 42};

struct Fixture {
  sim::World world{1};
  sim::SimExecutor& ex = world.Start(NodeId(1));
  std::unique_ptr<LockSpace> space = Make();
  std::vector<std::pair<LockId, Mode>> blocked;

  std::unique_ptr<LockSpace> Make() { return MakeStandaloneLockSpace(ex, kSelf); }
  LockId Lock(const char* name) {
    return space->Create(ResourceName(name), [this](LockId l, Mode m) { blocked.emplace_back(l, m); });
  }
};

Task<Status> Ask(LockSpace* space, LockId lock, Mode mode, Flags flags = Flags::kNone, RequestOptions options = {}) {
  auto status = co_await space->Request(lock, mode, flags, options);
  co_return status;
}
Task<void> AskInto(LockSpace* space, LockId lock, Mode mode, Flags flags, RequestOptions options, std::optional<Errc>* out) {
  auto status = co_await space->Request(lock, mode, flags, options);
  *out = status.code();
}
Task<Status> Release(LockSpace* space, LockId lock, std::optional<ValueBytes> value = std::nullopt) {
  auto status = co_await space->Unlock(lock, value);
  co_return status;
}
Task<void> RangeInto(LockSpace* space, RangeRequest r, std::optional<Errc>* out) {
  auto status = co_await space->RangeSet(r);
  *out = status.code();
}

TEST_CASE("dlm: standalone grants, converts and unlocks without a message", "[dlm][unit]") {
  Fixture f;
  LockId a = f.Lock("r");
  CHECK(f.space->GrantedMode(a) == Mode::kIV);
  CHECK(f.world.Run(f.ex, Ask(f.space.get(), a, Mode::kEX)).ok());
  CHECK(f.space->GrantedMode(a) == Mode::kEX);
  CHECK(f.world.Run(f.ex, Ask(f.space.get(), a, Mode::kPR)).ok());
  CHECK(f.space->GrantedMode(a) == Mode::kPR);
  CHECK(f.world.Run(f.ex, Ask(f.space.get(), a, Mode::kEX)).ok());
  CHECK(f.world.Run(f.ex, Release(f.space.get(), a)).ok());
  CHECK(f.space->GrantedMode(a) == Mode::kIV);
  CHECK(f.space->counters().sent == 0);
  f.space->Destroy(a);
}

TEST_CASE("dlm: a holder in the way is called back; NOQUEUE fails at once", "[dlm][unit]") {
  Fixture f;
  LockId a = f.Lock("r"), b = f.Lock("r");
  CHECK(f.world.Run(f.ex, Ask(f.space.get(), a, Mode::kEX)).ok());
  CHECK(f.world.Run(f.ex, Ask(f.space.get(), b, Mode::kPR, Flags::kNoQueue)).code() == Errc::kWouldBlock);
  f.world.RunFor(Milliseconds(1));
  CHECK(f.blocked.empty());
  CHECK(f.world.Run(f.ex, Ask(f.space.get(), b, Mode::kEX, Flags::kNoQueue | Flags::kNoQueueBast)).code() == Errc::kWouldBlock);
  f.world.RunFor(Milliseconds(1));
  REQUIRE(f.blocked.size() == 1);
  std::optional<Errc> done;
  f.ex.Spawn(AskInto(f.space.get(), b, Mode::kPR, Flags::kNone, {}, &done));
  f.world.RunFor(Milliseconds(1));
  CHECK(!done);
  CHECK(f.world.Run(f.ex, Ask(f.space.get(), a, Mode::kPR)).ok());
  f.world.RunFor(Milliseconds(1));
  CHECK(done == Errc::kOk);
  CHECK(f.blocked.back() == std::make_pair(a, f.blocked.back().second));
}

TEST_CASE("dlm: timeout, cancel and conversion deadlock leave the granted mode", "[dlm][unit]") {
  Fixture f;
  LockId a = f.Lock("r"), b = f.Lock("r");
  CHECK(f.world.Run(f.ex, Ask(f.space.get(), a, Mode::kPR)).ok());
  CHECK(f.world.Run(f.ex, Ask(f.space.get(), b, Mode::kPR)).ok());
  RequestOptions options;
  options.timeout = Milliseconds(50);
  CHECK(f.world.Run(f.ex, Ask(f.space.get(), b, Mode::kEX, Flags::kTimeout, options)).code() == Errc::kTimeout);
  CHECK(f.space->GrantedMode(b) == Mode::kPR);
  std::optional<Errc> done;
  f.ex.Spawn(AskInto(f.space.get(), b, Mode::kEX, Flags::kNone, {}, &done));
  f.world.RunFor(Milliseconds(1));
  CHECK(f.world.Run(f.ex, Ask(f.space.get(), a, Mode::kEX)).code() == Errc::kDeadlock);
  CHECK(!done);
  f.space->Cancel(b);
  f.world.RunFor(Milliseconds(1));
  CHECK(done == Errc::kCancelled);
  CHECK(f.world.Run(f.ex, Release(f.space.get(), b)).ok());
  CHECK(f.world.Run(f.ex, Ask(f.space.get(), a, Mode::kEX)).ok());
}

TEST_CASE("dlm: the value block is written on the way down and read on the way up", "[dlm][unit]") {
  Fixture f;
  LockId a = f.Lock("r"), b = f.Lock("r");
  CHECK(f.world.Run(f.ex, Ask(f.space.get(), a, Mode::kEX)).ok());
  CHECK(!f.space->Value(a).valid);
  ValueBytes bytes{};
  bytes[0] = std::byte{7};
  RequestOptions options;
  options.value = bytes;
  CHECK(f.world.Run(f.ex, Ask(f.space.get(), a, Mode::kNL, Flags::kNone, options)).ok());
  CHECK(f.world.Run(f.ex, Ask(f.space.get(), b, Mode::kPR)).ok());
  CHECK(f.space->Value(b) == ValueBlock{bytes, 1, true});
}

TEST_CASE("dlm: range locks wait, are granted, tested, interrupted and dropped by handle", "[dlm][unit]") {
  Fixture f;
  RangeRequest r;
  r.name = ResourceName("file");
  r.owner.key = 1, r.handle = 11, r.pid = 100;
  r.start = 0, r.end = 9, r.type = RangeType::kExclusive;
  std::optional<Errc> first, second, third;
  f.ex.Spawn(RangeInto(f.space.get(), r, &first));
  f.world.RunFor(Milliseconds(1));
  CHECK(first == Errc::kOk);
  CHECK(f.space->HoldsRanges(r.name));
  RangeRequest other = r;
  other.owner.key = 2, other.handle = 22, other.start = 5, other.end = 20;
  f.ex.Spawn(RangeInto(f.space.get(), other, &second));
  f.world.RunFor(Milliseconds(1));
  CHECK(second == Errc::kWouldBlock);
  auto conflict = f.world.Run(f.ex, f.space->RangeTest(other));
  REQUIRE((conflict.ok() && conflict->has_value()));
  CHECK((*conflict)->pid == 100);
  other.wait = true, other.token = 5;
  second.reset();
  f.ex.Spawn(RangeInto(f.space.get(), other, &second));
  f.world.RunFor(Milliseconds(1));
  CHECK(!second);
  f.space->RangeCancel(5);
  f.world.RunFor(Milliseconds(1));
  CHECK(second == Errc::kInterrupted);
  f.ex.Spawn(RangeInto(f.space.get(), other, &third));
  f.world.RunFor(Milliseconds(1));
  CHECK(f.world.Run(f.ex, f.space->RangeDropHandle(r.name, 11)).ok());
  f.world.RunFor(Milliseconds(1));
  CHECK(third == Errc::kOk);
  CHECK(f.world.Run(f.ex, f.space->RangeDropOwner(r.name, RangeSpace::kFcntl, {2, false})).ok());
  CHECK(!f.space->HoldsRanges(r.name));
}

TEST_CASE("dlm: nothing is frozen without victims; withdraw ends what waits", "[dlm][unit]") {
  Fixture f;
  auto frozen = f.world.Run(f.ex, f.space->Frozen(ResourceName("x")));
  CHECK((frozen.ok() && !*frozen));
  LockId a = f.Lock("r"), b = f.Lock("r");
  CHECK(f.world.Run(f.ex, Ask(f.space.get(), a, Mode::kEX)).ok());
  std::optional<Errc> done;
  f.ex.Spawn(AskInto(f.space.get(), b, Mode::kPR, Flags::kNone, {}, &done));
  f.world.RunFor(Milliseconds(1));
  f.space->Withdraw("test");
  f.world.RunFor(Milliseconds(1));
  CHECK(done == Errc::kFenced);
  CHECK(f.world.Run(f.ex, Ask(f.space.get(), b, Mode::kPR)).code() == Errc::kFenced);
}

TEST_CASE("dlm: an unused resource is forgotten after its time", "[dlm][unit]") {
  Fixture f;
  LockId a = f.Lock("r");
  CHECK(f.world.Run(f.ex, Ask(f.space.get(), a, Mode::kEX)).ok());
  CHECK(f.world.Run(f.ex, Release(f.space.get(), a)).ok());
  CHECK(f.space->Dump().resources.size() == 1);
  f.world.RunFor(Seconds(30));
  CHECK(f.space->Dump().resources.empty());
  CHECK(f.space->Dump().directory_entries == 0);
  CHECK(f.world.Run(f.ex, Ask(f.space.get(), a, Mode::kPR)).ok());
}

TEST_CASE("dlm: leaving gives up everything that is held", "[dlm][unit]") {
  Fixture f;
  LockId a = f.Lock("r");
  CHECK(f.world.Run(f.ex, Ask(f.space.get(), a, Mode::kEX)).ok());
  CHECK(f.world.Run(f.ex, f.space->Leave()).ok());
  CHECK(f.space->GrantedMode(a) == Mode::kIV);
}

}  // namespace
}  // namespace holdfast::dlm
