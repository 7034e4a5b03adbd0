// The mutant table: each deliberate fault (cluster/mutants.h) must be caught by the checkers within its seeds, and the
// healthy register must pass the same storms. A checker that catches nothing proves nothing.
#include <catch2/catch.hpp>

#include <cstdlib>

#include "tests/cluster/register_storm.h"
#include "tests/sim/seeds.h"

using namespace holdfast;
using namespace holdfast::cluster;
using namespace holdfast::sim;

namespace {

struct Row {
  const char* name;
  bool Mutants::*flag;
};

constexpr Row kRows[] = {
    {"no_second_read", &Mutants::no_second_read},
    {"torn_is_empty", &Mutants::torn_is_empty},
    {"wiped_counts", &Mutants::wiped_counts},
    {"no_drain", &Mutants::no_drain},
    {"one_copy", &Mutants::one_copy},
    {"read_not_accepted", &Mutants::read_not_accepted},
    {"votes_in_one_step", &Mutants::votes_in_one_step},
};

SeedReport Run(Mutants mutants, uint64_t count, uint64_t failures_max) {
  SeedOptions options;
  options.count = count;
  options.failures_max = failures_max;
  options.batch = 250;
  return RunSeeds(options, [mutants](uint64_t seed) { return RegisterStorm(seed, mutants).wrong; });
}

}  // namespace

TEST_CASE("register: the healthy one passes the storms that catch the mutants", "[cluster][sim]") {
  auto report = Run({}, 2000, 10);
  INFO(report.ToString());
  CHECK(report.ok());
}

TEST_CASE("register: every mutant is caught", "[cluster][sim]") {
  const char* only = getenv("HOLDFAST_MUTANT");
  for (const Row& row : kRows) {
    if (only != nullptr && std::string(only) != row.name) continue;
    Mutants mutants;
    mutants.*row.flag = true;
    auto report = Run(mutants, 4000, 1);
    std::string first = report.failures.empty() ? "NOT CAUGHT" : report.failures.front().what;
    WARN(row.name << ": after " << report.runs << " seeds: " << first.substr(0, 120));
    CHECK(!report.failures.empty());
  }
}

// Too rare for storms (a few in ten thousand): its schedule is set up by hand.
TEST_CASE("register: without the nonce two lives of a node share a ballot, with it they do not", "[cluster][sim]") {
  CHECK(SameCounterTwice(1, 2, {}) == "");
  CHECK(SameCounterTwice(2, 1, {}) == "");
  Mutants mutants;
  mutants.ballot_without_nonce = true;
  SeedOptions once;
  once.count = 1;
  auto report = RunSeeds(once, [mutants](uint64_t) { return SameCounterTwice(1, 2, mutants); });
  INFO(report.ToString());
  CHECK(report.failures.size() == 1);
  if (!report.failures.empty()) WARN("ballot_without_nonce: " << report.failures.front().what);
}
