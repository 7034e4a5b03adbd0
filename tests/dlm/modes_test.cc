// The mode tables over all pairs, and the queues of one resource.
#include <catch2/catch.hpp>

#include "dlm/resource.h"

namespace holdfast::dlm {
namespace {

TEST_CASE("dlm: compatibility is symmetric and is the classic matrix", "[dlm][unit]") {
  constexpr const char* kMatrix[] = {"111111", "111110", "111000", "110100", "110000", "100000"};
  for (Mode a : kAllModes)
    for (Mode b : kAllModes) {
      INFO(ModeName(a) << " " << ModeName(b));
      CHECK(Compatible(a, b) == Compatible(b, a));
      CHECK(Compatible(a, b) == (kMatrix[static_cast<int>(a)][static_cast<int>(b)] == '1'));
      CHECK(Compatible(a, Mode::kIV));
    }
}

TEST_CASE("dlm: a covering mode excludes all that the covered one excludes", "[dlm][unit]") {
  for (Mode a : kAllModes)
    for (Mode b : kAllModes) {
      INFO(ModeName(a) << " " << ModeName(b));
      if (Covers(a, b)) {
        for (Mode c : kAllModes) CHECK((!Compatible(a, c) || Compatible(b, c)));
      }
      Mode lesser = Lesser(a, b);
      CHECK((Covers(a, lesser) && Covers(b, lesser)));
      if (Covers(a, b)) CHECK(lesser == b);
    }
  CHECK(!Covers(Mode::kPR, Mode::kCW));
  CHECK(!Covers(Mode::kCW, Mode::kPR));
  CHECK(Lesser(Mode::kPR, Mode::kCW) == Mode::kCR);
}

TEST_CASE("dlm: what proves that nobody wrote excludes every writing mode", "[dlm][unit]") {
  for (Mode held : kAllModes)
    for (Mode dead : kAllModes) {
      if (ProvesNoWriter(held) && MayWrite(dead)) CHECK(!Compatible(held, dead));
      if (KeepsValue(held) && WritesValue(dead)) CHECK(!Compatible(held, dead));
    }
}

Resource Make(std::vector<std::pair<Mode, Mode>> locks) {
  Resource r;
  uint64_t id = 0;
  for (auto [granted, requested] : locks) {
    MasterLock l;
    l.owner = {NodeId(1), Incarnation(1), 1};
    l.id = LockId(++id);
    l.granted = granted;
    l.requested = requested;
    r.locks.push_back(l);
  }
  return r;
}

TEST_CASE("dlm: convert PR->EX waits for other PR holders", "[dlm][unit]") {
  Resource r = Make({{Mode::kPR, Mode::kIV}, {Mode::kPR, Mode::kEX}});
  CHECK(!r.MayGrant(1));
  r.locks[0].granted = Mode::kNL;
  CHECK(r.MayGrant(1));
}

TEST_CASE("dlm: two PR holders that both want EX are a conversion deadlock", "[dlm][unit]") {
  Resource r = Make({{Mode::kPR, Mode::kEX}, {Mode::kPR, Mode::kEX}});
  CHECK(r.ConversionDeadlock(1));
  Resource one = Make({{Mode::kPR, Mode::kIV}, {Mode::kPR, Mode::kEX}});
  CHECK(!one.ConversionDeadlock(1));
}

TEST_CASE("dlm: conversions go before new requests, new requests in their order", "[dlm][unit]") {
  Resource r = Make({{Mode::kPR, Mode::kEX}, {Mode::kPR, Mode::kIV}, {Mode::kIV, Mode::kPR}, {Mode::kIV, Mode::kPR}});
  CHECK(!r.MayGrant(2));
  r.locks[0].requested = Mode::kIV;
  CHECK(r.MayGrant(2));
  CHECK(!r.MayGrant(3));
  r.locks[3].flags = Flags::kRecovery;
  CHECK(r.MayGrant(3));
}

TEST_CASE("dlm: QUECVT waits behind other conversions, EXPEDITE NL behind nobody", "[dlm][unit]") {
  Resource r = Make({{Mode::kCR, Mode::kEX}, {Mode::kCR, Mode::kPR}, {Mode::kIV, Mode::kNL}});
  CHECK(r.MayGrant(1));
  r.locks[1].flags = Flags::kQueCvt;
  CHECK(!r.MayGrant(1));
  CHECK(!r.MayGrant(2));
  r.locks[2].flags = Flags::kExpedite;
  CHECK(r.MayGrant(2));
}

}  // namespace
}  // namespace holdfast::dlm
