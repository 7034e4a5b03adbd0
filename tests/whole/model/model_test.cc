// Applications behind modelled kernels on one and on several mounts, judged by models (I6), without failures: production
// code from the FUSE rules down to the disk.
#include <catch2/catch.hpp>

#include "base/log.h"
#include "tests/sim/seeds.h"
#include "tests/whole/model/mounts_rig.h"

namespace holdfast::whole {
namespace {

std::string One(uint64_t seed, uint32_t mounts) {
  SetLogLevel(std::getenv("HOLDFAST_SEED") && std::getenv("HOLDFAST_LOG") ? LogLevel::kDebug : LogLevel::kOff);
  RigResult result = RunRig(seed, mounts);
  if (std::getenv("HOLDFAST_SEED") != nullptr) std::fputs(result.dump.c_str(), stderr);
  if (result.wrong.empty()) return "";
  return result.wrong + "\n" + result.dump;
}

}  // namespace

TEST_CASE("kernel model: applications on one mount see what they wrote", "[whole][sim]") {
  auto report = sim::RunSeeds({.count = 60, .batch = 20}, [](uint64_t seed) { return One(seed, 1); });
  INFO(report.ToString());
  CHECK(report.ok());
}

TEST_CASE("kernel model: applications on three mounts see one filesystem", "[whole][sim]") {
  auto report = sim::RunSeeds({.first = 1000, .count = 120, .batch = 20}, [](uint64_t seed) { return One(seed, 3); });
  INFO(report.ToString());
  CHECK(report.ok());
}

TEST_CASE("kernel model: a seed is one run", "[whole][sim]") {
  SetLogLevel(LogLevel::kOff);
  RigResult first = RunRig(5, 2), second = RunRig(5, 2);
  CHECK(first.trace_hash == second.trace_hash);
  CHECK(first.operations == second.operations);
}

}  // namespace holdfast::whole
