// holdfast-sim: whole clusters under a seed. tests/whole/README.md.
#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "base/log.h"
#include "tests/sim/seeds.h"
#include "tests/whole/run.h"

namespace holdfast::whole {
namespace {

void Print(const RunOptions& options, const RunResult& r) {
  std::printf("%s", r.story.c_str());
  std::printf("seed %llu scenario %s nodes %u: %s\n", static_cast<unsigned long long>(options.seed), options.scenario.c_str(), r.nodes,
              r.wrong.empty() ? "well" : ("WRONG: " + r.wrong).c_str());
  std::printf("trace %016llx, %llu events, %lld ms of virtual time, %zu faults, %llu operations, %llu evictions, %llu replays, %llu grants\n",
              static_cast<unsigned long long>(r.trace_hash), static_cast<unsigned long long>(r.events),
              static_cast<long long>(r.virtual_time.ms()), r.faults, static_cast<unsigned long long>(r.operations),
              static_cast<unsigned long long>(r.evictions), static_cast<unsigned long long>(r.replays), static_cast<unsigned long long>(r.grants));
}

int Main(int argc, char** argv) {
  RunOptions options;
  CLI::App app{"Whole Holdfast clusters in one process, from one seed."};
  app.add_option("--seed", options.seed, "the seed");
  app.add_option("--nodes", options.nodes, "2..64; 0: by the seed")->check(CLI::Range(0, 64));
  app.add_option("--scenario", options.scenario, "kind of plan")->check(CLI::IsMember(Scenarios()));
  std::vector<std::string> without;
  app.add_option("--without", without, "kinds of faults to leave out")->check(CLI::IsMember(FaultKinds()));
  std::vector<size_t> drop;
  app.add_option("--drop", drop, "numbers of faults of the plan to leave out");
  app.add_flag("--trace", options.trace, "the whole story");
  app.add_flag("--plain", options.plain, "plain clients");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  options.without = {without.begin(), without.end()};
  options.drop = {drop.begin(), drop.end()};
  SetLogLevel(options.trace ? LogLevel::kDebug : LogLevel::kOff);
  RunResult result = Run(options);
  Print(options, result);
  std::fflush(nullptr);
  std::_Exit(result.wrong.empty() ? 0 : 1);
}

}  // namespace
}  // namespace holdfast::whole

int main(int argc, char** argv) { return holdfast::whole::Main(argc, argv); }
