// fsck.holdfast: checks a Holdfast volume that nobody uses; replays dirty journals first (-p, -y) or looks through them
// (-n). man/fsck.holdfast.8. Exit status, as fsck(8) has it: 0 clean; 1 errors corrected; 4 errors left; 8 the check
// itself failed, or the volume is in use; 16 wrong usage.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>

#include "fs/check.h"
#include "fs/replay.h"
#include "io/open_device.h"
#include "io/reactor.h"
#include "io/thread_pool.h"
#include "mkfs/volume_in_use.h"

namespace holdfast::tools {
namespace {

constexpr int kClean = 0, kCorrected = 1, kLeft = 4, kOperational = 8, kUsage = 16;

struct Options {
  std::string volume;
  bool no = false, preen = false, yes = false, force = false, json = false, verbose = false;
};

struct Outcome {
  fs::CheckReport report;
  std::vector<std::pair<uint32_t, fs::ReplayReport>> replayed;
  std::string in_use;
};

// A bar on the terminal once the check takes longer than two seconds.
std::function<void(uint64_t, uint64_t)> ProgressBar(Clock* clock) {
  return [clock, begin = clock->Now(), shown = -1](uint64_t done, uint64_t total) mutable {
    if (clock->Now() - begin < Seconds(2)) return;
    int percent = total ? static_cast<int>(done * 100 / total) : 100;
    if (percent == shown) return;
    shown = percent;
    std::string bar(static_cast<size_t>(percent * 40 / 100), '=');
    std::fprintf(stderr, "\r[%-40s] %3d%%", bar.c_str(), percent);
    if (done == total) std::fprintf(stderr, "\r%50s\r", "");
  };
}

Task<Result<Outcome>> CheckDevice(io::Reactor* reactor, BlockDevice& device, Options options) {
  auto user = co_await mkfs::VolumeInUse(device, options.volume);
  if (!user.ok()) co_return user.error();
  Outcome outcome;
  outcome.in_use = *user;
  if (!user->empty() && !(options.no && options.force))
    co_return Error(Errc::kBusy, device.info().name + ": " + *user + "; a volume in use cannot be checked (-n -f looks at it all the same)");
  auto super = co_await fs::ReadSuperblock(device);
  if (!super.ok()) co_return super.error();
  bool holes = false;
  if (!options.no) {
    for (uint32_t j = 0; j < super->geometry.journal_count; ++j) {
      auto header = co_await fs::ReadJournalHeader(device, super->geometry, MountNo(j));
      if (!header.ok() || header->state == fs::JournalState::kClean) continue;
      auto replayed = co_await fs::ReplayJournal(device, super->geometry, MountNo(j), nullptr, options.yes ? fs::Hole::kGiveUp : fs::Hole::kRefuse);
      // A hole in its log: the check below reports it, and nothing is repaired around a journal that is still owed.
      if (replayed.code() == Errc::kCorrupt) {
        holes = true;
        continue;
      }
      if (!replayed.ok()) co_return replayed.error();
      outcome.replayed.emplace_back(j, *replayed);
    }
  }
  fs::CheckOptions check;
  check.repair_safe = (options.preen || options.yes) && !holes;
  check.repair_all = options.yes;
  if (!options.json && isatty(STDERR_FILENO)) check.progress = ProgressBar(&reactor->clock());
  auto report = co_await fs::CheckVolume(device, std::move(check));
  if (!report.ok()) co_return report.error();
  outcome.report = std::move(*report);
  for (const auto& [journal, replay] : outcome.replayed) {
    if (replay.hole.empty()) continue;
    ++outcome.report.errors;
    ++outcome.report.repaired;
  }
  co_return std::move(outcome);
}

Task<Result<Outcome>> Check(io::Reactor* reactor, Pool* pool, Options options) {
  io::OpenDeviceOptions open_options;
  open_options.read_only = options.no;
  auto opened = co_await io::OpenDevice(reactor, pool, options.volume, open_options);
  if (!opened.ok()) co_return opened.error();
  auto outcome = co_await CheckDevice(reactor, **opened, options);
  co_await (*opened)->Close();  // an array is left with a logout, whatever the check says
  co_return std::move(outcome);
}

int ExitOf(const Outcome& outcome) {
  if (outcome.report.errors > outcome.report.repaired) return kLeft;
  return outcome.report.repaired > 0 ? kCorrected : kClean;
}

void PrintText(const Options& options, const Outcome& outcome) {
  const fs::CheckReport& r = outcome.report;
  if (!outcome.in_use.empty()) std::printf("warning: the volume is in use (%s): findings may be of the moment\n", outcome.in_use.c_str());
  for (auto& [journal, replay] : outcome.replayed) {
    std::printf("journal %u: replayed, %llu records, %llu blocks written\n", journal, static_cast<unsigned long long>(replay.records),
                static_cast<unsigned long long>(replay.applied));
    if (!replay.hole.empty()) std::printf("ERROR: %s (given up)\n", replay.hole.c_str());
  }
  for (uint32_t journal : r.dirty_journals) std::printf("journal %u: dirty; checked as if it had been replayed\n", journal);
  for (const fs::Finding& f : r.findings) {
    const char* end = f.repaired ? " (repaired)" : "";
    std::printf("%s: %s%s\n", f.level == fs::Finding::Level::kNote ? "note" : "ERROR", f.text.c_str(), end);
    if (f.count > 1) std::printf("       and %llu more like it\n", static_cast<unsigned long long>(f.count - 1));
  }
  const fs::CheckCounts& c = r.counts;
  if (options.verbose)
    std::printf("%llu directories, %llu other inodes, %llu names; %llu orphans; blocks: %llu data, %llu metadata, %llu claimed, %llu free, %llu free for metadata\n",
                static_cast<unsigned long long>(c.directories), static_cast<unsigned long long>(c.files), static_cast<unsigned long long>(c.names),
                static_cast<unsigned long long>(c.orphans), static_cast<unsigned long long>(c.data_blocks), static_cast<unsigned long long>(c.meta_blocks),
                static_cast<unsigned long long>(c.claims), static_cast<unsigned long long>(c.free_blocks), static_cast<unsigned long long>(c.meta_free_blocks));
  if (r.errors == 0) {
    std::printf("%s: clean, %llu inodes, %llu/%llu blocks free\n", options.volume.c_str(), static_cast<unsigned long long>(c.inodes),
                static_cast<unsigned long long>(c.free_blocks + c.meta_free_blocks), static_cast<unsigned long long>(c.total_blocks));
  } else {
    std::printf("%s: %llu errors, %llu repaired%s\n", options.volume.c_str(), static_cast<unsigned long long>(r.errors),
                static_cast<unsigned long long>(r.repaired), r.errors > r.repaired ? "; the volume needs attention" : "");
  }
}

// Names need not be UTF-8, JSON must.
void Print(const nlohmann::json& out) { std::cout << out.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) << "\n"; }

void PrintJson(const Options& options, const Outcome& outcome, int code) {
  const fs::CheckReport& r = outcome.report;
  nlohmann::json out;
  out["volume"] = options.volume;
  out["uuid"] = fs::UuidText(r.super.geometry.uuid);
  out["lock_table"] = r.super.lock_table;
  out["clean"] = r.clean();
  out["exit"] = code;
  out["errors"] = r.errors;
  out["notes"] = r.notes;
  out["repaired"] = r.repaired;
  out["in_use"] = outcome.in_use;
  out["dirty_journals"] = r.dirty_journals;
  out["replayed"] = nlohmann::json::array();
  for (auto& [journal, replay] : outcome.replayed)
    out["replayed"].push_back({{"journal", journal}, {"records", replay.records}, {"blocks", replay.applied}, {"given_up", replay.hole}});
  out["findings"] = nlohmann::json::array();
  for (const fs::Finding& f : r.findings)
    out["findings"].push_back({{"level", f.level == fs::Finding::Level::kNote ? "note" : "error"}, {"code", f.code}, {"text", f.text},
                               {"block", f.block}, {"inode", f.inode}, {"count", f.count}, {"repaired", f.repaired}});
  const fs::CheckCounts& c = r.counts;
  out["counts"] = {{"inodes", c.inodes}, {"directories", c.directories}, {"names", c.names}, {"orphans", c.orphans},
                   {"claims", c.claims}, {"data_blocks", c.data_blocks}, {"meta_blocks", c.meta_blocks},
                   {"free_blocks", c.free_blocks}, {"meta_free_blocks", c.meta_free_blocks}, {"total_blocks", c.total_blocks}};
  Print(out);
}

int Main(int argc, char** argv) {
  Options options;
  bool ignored = false;
  std::string progress_fd;
  CLI::App app{"Checks a Holdfast volume that is not in use.", "fsck.holdfast"};
  app.footer("Examples:\n"
             "  fsck.holdfast -n /dev/mapper/shared     look only; dirty journals are looked through\n"
             "  fsck.holdfast -p vol.img                replay journals, return what dead mounts held\n"
             "  fsck.holdfast -y --json vol.img         and correct bitmaps, counts and link counts\n"
             "Exit status: 0 clean, 1 corrected, 4 errors left, 8 failed or in use, 16 wrong usage. See fsck.holdfast(8).");
  app.add_flag("-n", options.no, "change nothing (the default)");
  app.add_flag("-p,-a", options.preen, "repair without questions what is safe: journals, orphans, claims");
  app.add_flag("-y", options.yes, "repair all that this program can repair");
  app.add_flag("-f", options.force, "with -n: look at a volume in use");
  app.add_flag("-v", options.verbose, "print counts");
  app.add_flag("--json", options.json, "print a JSON object");
  app.add_flag("-T,-M,-r", ignored, "ignored, for fsck(8)");
  app.add_option("-C", progress_fd, "ignored, for fsck(8)")->expected(0, 1);
  app.add_option("volume", options.volume, "path, or iscsi://[user[%password]@]host[:port]/target/lun")->required()->type_name("VOLUME");
  app.set_version_flag("-V,--version", "fsck.holdfast (Holdfast) 0.1.0");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : kUsage;
  }
  if (int{options.no} + int{options.preen} + int{options.yes} > 1) {
    std::cerr << "fsck.holdfast: only one of -n, -p and -y\n";
    return kUsage;
  }
  if (!options.preen && !options.yes) options.no = true;
  io::Reactor reactor;
  io::ThreadPool pool(2);
  auto outcome = reactor.RunTask(Check(&reactor, &pool, options));
  if (!outcome.ok()) {
    const Error& e = outcome.error();
    std::string text = e.message.empty() ? std::string(ErrcName(e.code)) : e.message;
    if (options.json) {
      Print({{"volume", options.volume}, {"clean", false}, {"exit", kOperational}, {"error", text}});
    } else {
      std::cerr << "fsck.holdfast: " << text << "\n";
    }
    return kOperational;
  }
  int code = ExitOf(*outcome);
  if (options.json) {
    PrintJson(options, *outcome, code);
  } else {
    PrintText(options, *outcome);
  }
  return code;
}

}  // namespace
}  // namespace holdfast::tools

int main(int argc, char** argv) { return holdfast::tools::Main(argc, argv); }
