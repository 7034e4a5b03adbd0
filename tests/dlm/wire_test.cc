// The wire format: round trips, and hostile bytes that must be refused or decoded within bounds.
#include <catch2/catch.hpp>

#include "dlm/wire.h"
#include "tests/sim/world.h"

namespace holdfast::dlm {
namespace {

Message Full() {
  Message m(Kind::kRequest, ResourceName("name"));
  m.asker = {NodeId(3), Incarnation(9), 0xfeed};
  m.op = 77, m.lock = LockId(5), m.mode = Mode::kPW, m.flags = Flags::kNoQueue | Flags::kRecovery;
  m.status = Errc::kDeadlock;
  m.guessed = m.forwarded = m.under_recovery = true;
  m.term = 4, m.count = 12;
  m.value = std::make_unique<ValueBlock>();
  m.value->number = 8, m.value->valid = true, m.value->bytes[63] = std::byte{1};
  m.range = std::make_unique<RangeArgs>();
  m.range->start = 5, m.range->end = UINT64_MAX, m.range->owner = {9, true}, m.range->type = RangeType::kExclusive;
  m.conflict = std::make_unique<RangeConflict>();
  m.conflict->pid = 4;
  ReportEntry e;
  e.name = ResourceName("other"), e.granted = Mode::kCW, e.value = *m.value, e.under_recovery = true;
  m.report.push_back(e);
  e.what = ReportEntry::What::kRange, e.granted = Mode::kIV, e.range = *m.range, e.value.reset();
  m.report.push_back(e);
  m.mastered.push_back({ResourceName("third"), 9});
  m.payload = Bytes(3, std::byte{9});
  return m;
}

TEST_CASE("dlm: a message survives the wire", "[dlm][unit]") {
  Message m = Full();
  Bytes bytes = Encode(m);
  auto got = Decode(static_cast<uint32_t>(m.kind), bytes);
  REQUIRE(got.ok());
  CHECK(Encode(*got) == bytes);
  CHECK(got->asker == m.asker);
  CHECK(got->mode == m.mode);
  CHECK(*got->value == *m.value);
  CHECK(*got->conflict == *m.conflict);
  CHECK(got->range->end == UINT64_MAX);
  REQUIRE(got->report.size() == 2);
  CHECK(got->report[0].granted == Mode::kCW);
  CHECK(got->report[1].range.type == RangeType::kExclusive);
  REQUIRE(got->mastered.size() == 1);
  CHECK(got->mastered[0].term == 9);
  CHECK(got->payload == m.payload);
}

TEST_CASE("dlm: damaged messages are refused or decoded within bounds, never fatal", "[dlm][unit]") {
  Bytes good = Encode(Full());
  sim::SimRandom random(5);
  int refused = 0;
  for (int i = 0; i < 20000; ++i) {
    Bytes bad = good;
    for (uint64_t k = random.Between(1, 4); k > 0; --k) bad[random.Below(bad.size())] = std::byte(random.Below(256));
    if (random.Chance(200000)) bad.resize(random.Below(bad.size()));
    auto got = Decode(static_cast<uint32_t>(random.Below(24)), bad);
    if (!got.ok()) {
      ++refused;
      continue;
    }
    CHECK(static_cast<int>(got->mode) < kModes);
    CHECK(got->name.bytes().size() <= kMaxNameBytes);
    if (got->range) CHECK(got->range->start <= got->range->end);
  }
  CHECK(refused > 1000);
}

}  // namespace
}  // namespace holdfast::dlm
