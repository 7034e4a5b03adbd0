// holdfast-sim: whole clusters under a seed. tests/whole/README.md.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "base/log.h"
#include "tests/sim/seeds.h"
#include "tests/whole/commit.h"
#include "tests/whole/mutants.h"
#include "tests/whole/probes.h"
#include "tests/whole/run.h"

namespace holdfast::whole {
namespace {

void Print(const RunOptions& options, const RunResult& r) {
  std::printf("%s", r.story.c_str());
  std::printf("seed %llu scenario %s nodes %u: %s\n", static_cast<unsigned long long>(options.seed), options.scenario.c_str(), r.nodes,
              r.wrong.empty() ? "well" : ("WRONG: " + r.wrong).c_str());
  std::printf("commit %s, trace %016llx, %llu events, %lld ms of virtual time, %zu faults, %llu operations, %llu evictions, %llu replays, %llu grants\n", kCommit,
              static_cast<unsigned long long>(r.trace_hash), static_cast<unsigned long long>(r.events),
              static_cast<long long>(r.virtual_time.ms()), r.faults, static_cast<unsigned long long>(r.operations),
              static_cast<unsigned long long>(r.evictions), static_cast<unsigned long long>(r.replays), static_cast<unsigned long long>(r.grants));
}

// Batches until the count or the time is over, whichever comes first. Seeds that fail are named with the command that replays them.
int Many(const RunOptions& options, uint64_t count, double minutes, bool probes) {
  using Clock = std::chrono::steady_clock;
  auto begin = Clock::now();
  auto seconds = [&] { return std::chrono::duration<double>(Clock::now() - begin).count(); };
  SetLogLevel(LogLevel::kOff);
  auto one = [&](uint64_t seed) {
    RunOptions o = options;
    o.seed = seed;
    std::string wrong = Run(o).wrong;
    std::replace(wrong.begin(), wrong.end(), '\n', ' ');
    return wrong;
  };
  uint64_t done = 0, ran = 0, failed = 0;
  constexpr uint64_t kRound = 100;
  while (failed < 20 && (count == 0 || done < count) && (minutes <= 0 || seconds() < minutes * 60)) {
    sim::SeedOptions how;
    how.first = options.seed + done;
    how.count = count > 0 ? std::min(count - done, kRound) : kRound;
    how.batch = 10;
    how.seconds_max = 120;
    auto report = sim::RunSeeds(how, one);
    for (const auto& f : report.failures) {
      ++failed;
      std::printf("seed %llu: %s\n  replay: holdfast-sim%s --scenario %s --seed %llu --trace\n", static_cast<unsigned long long>(f.seed),
                  f.what.c_str(), options.model ? " --model" : "", options.scenario.c_str(), static_cast<unsigned long long>(f.seed));
    }
    done += how.count;
    ran += report.runs;
  }
  std::printf("%llu seeds of scenario %s, %llu failed, %.1f s, %.1f seeds/s\n", static_cast<unsigned long long>(ran), options.scenario.c_str(),
              static_cast<unsigned long long>(failed), seconds(), static_cast<double>(ran) / seconds());
  if (probes)
    for (const auto& [name, hits] : Probes()) std::printf("probe %s %llu\n", name.c_str(), static_cast<unsigned long long>(hits));
  std::fflush(nullptr);
  return failed == 0 ? 0 : 1;
}

// The seeds that it took for one mutant; 0: not found. A seed counts only if it is well without the mutant.
uint64_t SeedsFor(const KnownMutant& mutant, const RunOptions& base, uint64_t first, uint64_t most, std::string* what) {
  bool with = true;
  auto one = [&](uint64_t seed) {
    RunOptions o = base;
    o.seed = seed;
    o.scenario = mutant.scenario;
    o.model = mutant.model;
    SetMutant(with ? mutant.name : "");
    std::string wrong = Run(o).wrong;
    std::replace(wrong.begin(), wrong.end(), '\n', ' ');
    return wrong;
  };
  for (uint64_t done = 0; done < most;) {
    sim::SeedOptions how;
    how.first = first + done;
    how.count = std::min<uint64_t>(most - done, 20);
    how.batch = 5;
    how.seconds_max = 60;
    how.failures_max = 1;
    auto report = sim::RunSeeds(how, one);
    if (!report.failures.empty()) {
      *what = report.failures.front().what;
      uint64_t seed = report.failures.front().seed;
      sim::SeedOptions control = how;
      control.first = seed;
      control.count = 1;
      with = false;
      bool well = sim::RunSeeds(control, one).ok();
      with = true;
      if (well) return seed;
      done = seed + 1 - first;
      continue;
    }
    done += how.count;
  }
  return 0;
}

int ProveMutants(const RunOptions& base, const std::string& only, uint64_t most) {
  SetLogLevel(LogLevel::kOff);
  int escaped = 0;
  for (const KnownMutant& mutant : KnownMutants()) {
    if (!only.empty() && mutant.name != only) continue;
    std::string what;
    uint64_t seed = mutant.seed != 0 ? SeedsFor(mutant, base, mutant.seed, 1, &what) : 0;
    bool known = seed != 0;
    if (seed == 0) seed = SeedsFor(mutant, base, 1, most, &what);
    if (seed == 0) ++escaped;
    std::printf("%-28s %-12s %-5s seed %-5s %s\n", mutant.name.c_str(), mutant.scenario.c_str(), mutant.model ? "model" : "",
                seed == 0 ? "none" : std::to_string(seed).c_str(),
                seed == 0 ? "NOT FOUND" : (std::string(known ? "(known) " : "") + what.substr(0, 100)).c_str());
    std::fflush(stdout);
  }
  std::printf("%d mutants not found\n", escaped);
  return escaped == 0 ? 0 : 1;
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
  std::string mutant;
  app.add_option("--mutant", mutant, "switches a known bug on (--mutants lists them)");
  bool mutants = false, prove_mutants = false;
  uint64_t seeds_max = 300;
  app.add_flag("--mutants", mutants, "lists the known bugs");
  app.add_flag("--prove-mutants", prove_mutants, "each known bug must be found by its known seed, else by one of --most seeds");
  app.add_option("--most", seeds_max, "seeds for each mutant");
  bool probes = false;
  app.add_flag("--probes", probes, "with --count or --minutes: how often each rare path was reached");
  app.add_flag("--trace", options.trace, "the whole story");
  uint64_t count = 0;
  double minutes = 0;
  app.add_option("--count", count, "so many seeds, from --seed on, in forked batches");
  app.add_option("--minutes", minutes, "seeds, from --seed on, for so long");
  app.add_flag("--model", options.model, "clients behind a model of the kernel's caches");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  options.without = {without.begin(), without.end()};
  options.drop = {drop.begin(), drop.end()};
  if (mutants) {
    for (const auto& m : KnownMutants()) std::printf("%s\n", m.name.c_str());
    return 0;
  }
  if (!SetMutant(mutant)) {
    std::fprintf(stderr, "holdfast-sim: no mutant '%s'\n", mutant.c_str());
    return 2;
  }
  options.broken = [] { return BrokenInvariant(); };
  if (prove_mutants) return ProveMutants(options, mutant, seeds_max);
  if (count > 0 || minutes > 0) return Many(options, count, minutes, probes);
  SetLogLevel(options.trace ? LogLevel::kDebug : LogLevel::kOff);
  RunResult result = Run(options);
  Print(options, result);
  std::fflush(nullptr);
  std::_Exit(result.wrong.empty() ? 0 : 1);
}

}  // namespace
}  // namespace holdfast::whole

int main(int argc, char** argv) { return holdfast::whole::Main(argc, argv); }
