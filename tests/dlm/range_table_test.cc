// Range locks against a model that keeps one cell per byte.
#include <catch2/catch.hpp>

#include <cstring>

#include "dlm/range_table.h"
#include "tests/sim/world.h"

namespace holdfast::dlm {
namespace {

constexpr int kBytes = 24;
constexpr int kOwners = 3;

MemberId MemberOf(int owner) { return {NodeId(static_cast<uint32_t>(owner / 2 + 1)), Incarnation(1), 7}; }

TEST_CASE("dlm: random range operations agree with one cell per byte", "[dlm][unit]") {
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    sim::SimRandom random(seed);
    RangeTable table;
    RangeType model[kOwners][kBytes] = {};
    for (int step = 0; step < 60; ++step) {
      int owner = static_cast<int>(random.Below(kOwners));
      RangeArgs r;
      r.owner.key = static_cast<uint64_t>(owner);
      r.start = random.Below(kBytes);
      r.end = random.Between(r.start, kBytes - 1);
      r.type = static_cast<RangeType>(random.Below(3));
      bool conflict = false;
      for (int o = 0; o < kOwners; ++o)
        for (uint64_t b = r.start; o != owner && b <= r.end; ++b) {
          if (r.type == RangeType::kUnlock || model[o][b] == RangeType::kUnlock) continue;
          conflict |= r.type == RangeType::kExclusive || model[o][b] == RangeType::kExclusive;
        }
      INFO("seed " << seed << " step " << step);
      REQUIRE(table.FindConflict(MemberOf(owner), r).has_value() == conflict);
      bool all = true;
      for (uint64_t b = r.start; b <= r.end; ++b) all &= model[owner][b] != RangeType::kUnlock;
      REQUIRE(table.HoldsAll(MemberOf(owner), r) == all);
      if (conflict) continue;
      table.Apply(MemberOf(owner), r);
      for (uint64_t b = r.start; b <= r.end; ++b) model[owner][b] = r.type;
      RangeType got[kOwners][kBytes] = {};
      for (const HeldRange& h : table.held())
        for (uint64_t b = h.start; b <= h.end; ++b) {
          REQUIRE(got[h.owner.key][b] == RangeType::kUnlock);
          got[h.owner.key][b] = h.type;
        }
      REQUIRE(memcmp(got, model, sizeof model) == 0);
    }
  }
}

TEST_CASE("dlm: adjacent ranges merge, a hole splits, the end of the file is the end", "[dlm][unit]") {
  RangeTable t;
  RangeArgs r;
  r.type = RangeType::kExclusive;
  r.start = 0, r.end = 9;
  t.Apply(MemberOf(0), r);
  r.start = 10, r.end = UINT64_MAX;
  t.Apply(MemberOf(0), r);
  REQUIRE(t.held().size() == 1);
  CHECK(t.held()[0].end == UINT64_MAX);
  r.type = RangeType::kUnlock;
  r.start = 100, r.end = 199;
  t.Apply(MemberOf(0), r);
  REQUIRE(t.held().size() == 2);
  CHECK(t.held()[0].end == 99);
  CHECK(t.held()[1].start == 200);
}

TEST_CASE("dlm: dropping by handle spares what other handles set", "[dlm][unit]") {
  RangeTable t;
  RangeArgs r;
  r.type = RangeType::kShared;
  r.handle = 1, r.start = 0, r.end = 9;
  t.Apply(MemberOf(0), r);
  r.handle = 2, r.start = 10, r.end = 19;
  t.Apply(MemberOf(0), r);
  RangeArgs drop;
  drop.drop = DropWhat::kHandle;
  drop.handle = 1;
  t.Drop(MemberOf(0), drop);
  REQUIRE(t.held().size() == 1);
  CHECK(t.held()[0].handle == 2);
}

}  // namespace
}  // namespace holdfast::dlm
