// mkfs.holdfast: makes a Holdfast volume on a block device, an image file or an iSCSI LUN. man/mkfs.holdfast.8.
// Exit status: 0 made (or shown, -n); 1 refused or failed, the reason is on standard error; 2 wrong usage.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>

#include "io/open_device.h"
#include "io/reactor.h"
#include "io/system_random.h"
#include "io/thread_pool.h"
#include "mkfs/make_volume.h"
#include "mkfs/signatures.h"
#include "mkfs/volume_in_use.h"

namespace holdfast::mkfs {
namespace {

struct Options {
  MakeVolumeOptions make;
  std::string volume, uuid;
  bool show_only = false, keep = false, quiet = false, force = false;
};

std::string SizeText(uint64_t bytes) {
  static const char* kUnits[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB"};
  double value = static_cast<double>(bytes);
  int unit = 0;
  while (value >= 1024 && unit < 5) {
    value /= 1024;
    ++unit;
  }
  char text[64];
  std::snprintf(text, sizeof text, unit == 0 || value == static_cast<uint64_t>(value) ? "%.0f %s" : "%.1f %s", value, kUnits[unit]);
  return text;
}

void Print(const Options& options, const DeviceInfo& info, const fs::Superblock& super) {
  const fs::Geometry& g = super.geometry;
  std::printf("Volume:       %s\n", info.name.c_str());
  std::printf("Size:         %s (%llu blocks of 4096 bytes)\n", SizeText(g.volume_blocks * kBlockSize).c_str(),
              static_cast<unsigned long long>(g.volume_blocks));
  std::printf("UUID:         %s\n", fs::UuidText(g.uuid).c_str());
  if (!super.label.empty()) std::printf("Label:        %s\n", super.label.c_str());
  std::printf("Lock table:   %s\n", super.lock_table.empty() ? "none (lockproto=nolock only)" : super.lock_table.c_str());
  std::printf("Journals:     %u of %s\n", g.journal_count, SizeText(uint64_t{g.journal_blocks} * kBlockSize).c_str());
  std::printf("Groups:       %llu of %s\n", static_cast<unsigned long long>(g.group_count),
              SizeText(uint64_t{g.group_blocks} * kBlockSize).c_str());
  std::printf("Quorum area:  %s at byte %llu\n", SizeText(super.quorum_blocks * kBlockSize).c_str(),
              static_cast<unsigned long long>(super.quorum_block * kBlockSize));
  if (options.show_only) std::printf("Nothing was written (-n).\n");
}

Task<Status> MakeOn(io::Reactor* reactor, BlockDevice& device, Options options) {
  io::SystemRandom random;
  auto refuse = [&](const std::string& why) { return Error(Errc::kBusy, device.info().name + ": " + why); };
  auto user = co_await VolumeInUse(device, options.volume);
  if (!user.ok()) co_return user.error();
  if (!user->empty() && !options.force) co_return refuse(*user + " (-f overrides, and destroys it)");
  auto old = co_await fs::ReadSuperblock(device);
  if ((old.ok() || old.code() == Errc::kCorrupt || old.code() == Errc::kUnsupported) && !options.force) {
    std::string which = old.ok() ? " '" + (old->lock_table.empty() ? fs::UuidText(old->geometry.uuid) : old->lock_table) + "'" : "";
    co_return refuse("carries a Holdfast volume" + which + " (-f overwrites it)");
  }
  auto signature = co_await FindSignature(device, options.volume);
  if (!signature.ok()) co_return signature.error();
  if (!signature->empty() && !options.force) co_return refuse("carries " + *signature + " (-f overwrites it)");

  options.make.now = reactor->clock().Wall();
  options.make.discard = !options.keep;
  auto plan = PlanVolume(device.info(), options.make, random);
  if (!plan.ok()) co_return plan.error();
  if (options.show_only) {
    Print(options, device.info(), *plan);
    co_return Status();
  }
  if (!signature->empty()) HF_CO_TRY(co_await WipeSignatures(device));
  bool terminal = !options.quiet && isatty(STDERR_FILENO);
  if (terminal) {
    options.make.progress = [shown = -1](uint64_t done, uint64_t total, const char* what) mutable {
      int percent = static_cast<int>(done * 100 / total);
      if (percent == shown && done != total) return;
      shown = percent;
      std::fprintf(stderr, "\r%3d%% %-20s%s", percent, what, done == total ? "\r                         \r" : "");
    };
  }
  MakeVolumeOptions make = options.make;
  auto made = co_await MakeVolume(device, std::move(make), random);
  if (!made.ok()) co_return made.error();
  if (!options.quiet) Print(options, device.info(), *made);
  co_return Status();
}

Task<Status> Make(io::Reactor* reactor, Pool* pool, Options options) {
  io::OpenDeviceOptions open_options;
  open_options.read_only = options.show_only;
  auto opened = co_await io::OpenDevice(reactor, pool, options.volume, open_options);
  if (!opened.ok()) co_return opened.error();
  auto status = co_await MakeOn(reactor, **opened, options);
  co_await (*opened)->Close();  // an array is left with a logout, whatever came of it
  co_return status;
}

int Main(int argc, char** argv) {
  Options options;
  CLI::App app{"Makes a Holdfast volume: a cluster filesystem on a shared block device, image file or iSCSI LUN.", "mkfs.holdfast"};
  app.footer("Examples:\n"
             "  mkfs.holdfast -t mycluster:data -j 8 /dev/mapper/shared\n"
             "  mkfs.holdfast -t mycluster:data iscsi://10.0.0.9/iqn.2026-01.org.example:disk1/1\n"
             "  truncate -s 4G vol.img && mkfs.holdfast vol.img        (one node: mount -o lockproto=nolock)\n"
             "Exit status: 0 made, 1 refused or failed, 2 wrong usage. See mkfs.holdfast(8).");
  app.add_option("-t,--lock-table", options.make.lock_table, "cluster and filesystem name; none: only for lockproto=nolock")->type_name("CLUSTER:FSNAME");
  app.add_option("-j,--journals", options.make.journals, "journals, one per concurrent mount")->type_name("N")->capture_default_str()->check(CLI::Range(1, 256));
  app.add_option("-J,--journal-size", options.make.journal_mib, "size of each journal (64, less on small volumes)")->type_name("MB")->check(CLI::Range(1, 32768));
  app.add_option("-L,--label", options.make.label, "volume label, up to 63 bytes");
  app.add_option("-U,--uuid", options.uuid, "volume UUID (random)");
  app.add_flag("-n,--dry-run", options.show_only, "show what would be made, write nothing");
  app.add_flag("-K,--keep", options.keep, "do not discard the device's blocks");
  app.add_flag("-q,--quiet", options.quiet, "print nothing but errors");
  app.add_flag("-f,--force", options.force, "overwrite another filesystem, a partition table, a Holdfast volume, one in use");
  app.add_option("volume", options.volume, "path, or iscsi://[user[%password]@]host[:port]/target/lun")->required()->type_name("VOLUME");
  app.set_version_flag("-V,--version", "mkfs.holdfast (Holdfast) 0.1.0");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  }
  if (!options.uuid.empty()) {
    auto uuid = fs::ParseUuid(options.uuid);
    if (!uuid.ok()) {
      std::cerr << "mkfs.holdfast: " << uuid.error().message << "\n";
      return 2;
    }
    options.make.uuid = *uuid;
  }
  io::Reactor reactor;
  io::ThreadPool pool(2);
  Status made = reactor.RunTask(Make(&reactor, &pool, options));
  if (!made.ok()) {
    const Error& e = made.error();
    std::cerr << "mkfs.holdfast: " << (e.message.empty() ? std::string(ErrcName(e.code)) : e.message) << "\n";
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace holdfast::mkfs

int main(int argc, char** argv) { return holdfast::mkfs::Main(argc, argv); }
