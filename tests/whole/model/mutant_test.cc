// The rules of the kernel's side, each broken by a switch (base/mutants.h): applications on three mounts behind the model of
// the kernel see it. Prints the seeds that each took; one that is not seen fails the test.
#include <catch2/catch.hpp>
#include <cstdio>

#include "base/log.h"
#include "base/mutants.h"
#include "tests/sim/seeds.h"
#include "tests/whole/model/mounts_rig.h"

namespace holdfast::whole {
namespace {

struct Known {
  const char* name;
  Mutant mutant;
  int epoch;  // of the modelled kernel: 1 has it, 0 has not, -1 as the seed says
};

const Known kKnown[] = {
    {"append at the kernel's offset", Mutant::kAppendAtOffset, -1},
    {"name invalidation under a held create, for ever", Mutant::kAwaitNamesForEver, 0},
    {"ESTALE only for waiters of the directory's lock", Mutant::kStaleByLockOnly, 0},
    {"replies under way forgotten", Mutant::kForgetReplies, 1},
    {"an inode whose reply is under way counts as invalidated", Mutant::kUnknownIsDone, -1},
    {"LINK and SETATTR give attributes to keep", Mutant::kKeepsLinkAttr, -1},
    {"absent names never taken back", Mutant::kNegativesUntracked, 0},
    {"a renamed name keeps its timeout", Mutant::kRenamesUntracked, 0},
    {"page invalidation not awaited", Mutant::kPagesNotAwaited, -1},
    {"page replies not checked against the lock", Mutant::kPageRepliesUnchecked, -1},
    {"page READs under PR beside writable handles", Mutant::kPagesUnderPr, -1},
    {"cached writable handle without EX", Mutant::kKeepsPagesWithoutEx, -1},
    {"appends through the page cache", Mutant::kCachesAppends, -1},
    {"the true range of an append stays cached", Mutant::kAppendRangeKept, -1},
    {"a dirty page's WRITE after its lock has gone", Mutant::kPageWritesLeftOut, -1},
    {"READs for a store served under PR", Mutant::kAdmitsUnderPr, -1},
    {"a size that the kernel did not take", Mutant::kSizeNotTold, -1},
    {"O_CREAT opens whatever it finds", Mutant::kCreateOpensAll, -1},
};
constexpr uint64_t kSeedsMax = 1500;

RigResult Once(uint64_t seed, const Known& known) {
  sim::SimRandom random(seed ^ 0x77a1);
  RigKnobs knobs = RigKnobs::Random(random, 3);
  if (known.epoch >= 0) knobs.work.kernel.has_epoch = known.epoch == 1;
  knobs.length = Seconds(20);
  if (known.mutant == Mutant::kAppendRangeKept) {
    // A read has to fall between the kernel's own dropping of the range and the write: little else to do, replies late.
    WorkloadKnobs& work = knobs.work;
    work.kernel.drops_after_direct_write = false;
    work.kernel.slow_reply = 200'000;
    work.users = 4;
    work.weigh_names = work.weigh_counter = work.weigh_orphan = work.weigh_attributes = work.weigh_mmap = work.weigh_xattr = 0;
    work.weigh_data = work.weigh_log = 4;
    work.think_max = Microseconds(300);
  }
  if (known.mutant == Mutant::kForgetReplies) {
    // A reply has to be used after the epoch and the lock's way to another mount: many are late, and most work is names.
    WorkloadKnobs& work = knobs.work;
    work.kernel.slow_reply = 300'000;
    work.users = 4;
    work.weigh_names = 8;
    work.weigh_data = work.weigh_counter = work.weigh_orphan = work.weigh_log = work.weigh_xattr = work.weigh_mmap = 0;
    work.think_max = Microseconds(500);
  }
  if (known.mutant == Mutant::kAdmitsUnderPr) {
    // A machine so busy that notifications are late; all nodes store into pages and look at the attributes.
    WorkloadKnobs& work = knobs.work;
    work.kernel.slow_notify = 300'000;
    work.users = 4;
    work.weigh_names = work.weigh_counter = work.weigh_orphan = work.weigh_log = work.weigh_xattr = 0;
    work.weigh_mmap = 6;
    work.weigh_data = work.weigh_attributes = 2;
    work.think_max = Microseconds(300);
  }
  return RunRig(seed, knobs);
}

}  // namespace

TEST_CASE("kernel model: every broken rule is seen", "[whole][sim]") {
  SetLogLevel(LogLevel::kOff);
  const char* only = std::getenv("HOLDFAST_MUTANT");  // part of a name: that one alone
  for (const Known& known : kKnown) {
    if (only != nullptr && std::string_view(known.name).find(only) == std::string_view::npos) continue;
    auto report = sim::RunSeeds({.count = kSeedsMax, .batch = 10, .failures_max = 1}, [&known](uint64_t seed) {
      g_whole_mutant = known.mutant;
      RigResult result = Once(seed, known);
      return std::getenv("HOLDFAST_SEED") != nullptr ? result.wrong : result.wrong.substr(0, result.wrong.find('\n'));
    });
    bool caught = !report.failures.empty();
    std::printf("%-55s %s\n", known.name,
                caught ? ("seed " + std::to_string(report.failures[0].seed) + ": " + report.failures[0].what.substr(0, only != nullptr ? 10'000 : 110)).c_str()
                       : "NOT SEEN");
    std::fflush(stdout);
    CHECK(caught);
  }
}

TEST_CASE("kernel model: control: the same weather without the mutant is well", "[whole][sim]") {
  SetLogLevel(std::getenv("HOLDFAST_SEED") && std::getenv("HOLDFAST_LOG") ? LogLevel::kDebug : LogLevel::kOff);
  for (const Known& known : kKnown) {
    if (known.mutant != Mutant::kAppendRangeKept && known.mutant != Mutant::kAwaitNamesForEver &&
        known.mutant != Mutant::kAdmitsUnderPr) {
      continue;
    }
    auto report = sim::RunSeeds({.count = 60, .batch = 10, .failures_max = 1}, [&known](uint64_t seed) { return Once(seed, known).wrong; });
    INFO(report.ToString());
    CHECK(report.ok());
  }
}

}  // namespace holdfast::whole
