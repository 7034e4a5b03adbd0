// Bad input by generator: every field of every block type of a volume takes interesting values, one at a time, with its
// checksum made right. Then: mount, operations and fsck end with success or an error; what fsck calls clean can be used; what it calls
// repaired is; and a wrong value in a field that means something is noticed, by fsck or by the mount. Blocks that nobody reads any
// more (the older of two copies, freed blocks) are left out. Prints what was noticed and where nothing can be.
// HOLDFAST_SHARE=k in the environment: one in k of the values; HOLDFAST_SLOWER=k: k times the time (tools/sanitize).
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <set>
#include <string>

#include "base/check.h"
#include "fs/disk_inode.h"
#include "fs/meta_block.h"
#include "tests/fuzz/mounted_volume.h"
#include "tests/fuzz/volume_fields.h"

namespace holdfast::fuzz {
namespace {

using fs::BlockType;

struct Tally {
  int tried = 0, noticed = 0;
};
std::map<std::string, Tally> tallies;
int failures = 0;

int Env(const char* name) {  // 1 at least
  const char* text = std::getenv(name);
  return text != nullptr ? std::max(1, std::atoi(text)) : 1;
}

std::vector<uint64_t> Values(const BaseImage& base, uint64_t now, size_t width) {
  uint64_t all = width == 8 ? UINT64_MAX : (uint64_t{1} << (8 * width)) - 1;
  std::vector<uint64_t> values = {0, 1, now + 1, now - 1, all, all - 1, all / 2 + 1};
  if (width >= 4) values.insert(values.end(), {base.super.geometry.volume_blocks, base.super.geometry.first_group_block, now + 0x10000});
  std::set<uint64_t> different;
  for (uint64_t v : values)
    if ((v & all) != now) different.insert(v & all);
  return {different.begin(), different.end()};
}

// What was being tried when the process ends unasked.
char current[256];
void OnAbort(int number) {
  if (write(2, current, strlen(current)) < 0) _exit(1);
  signal(number, SIG_DFL);
  raise(number);
}

// True: fsck or the mount has noticed. Broken demands are printed and counted.
bool Try(const BaseImage& base, const Place& place, const Field& field, uint64_t value, const std::string& name) {
  std::snprintf(current, sizeof current, "trying %s of block %llu = %llx\n", name.c_str(), static_cast<unsigned long long>(place.block),
                static_cast<unsigned long long>(value));
  static const int seconds = 30 * Env("HOLDFAST_SLOWER");
  alarm(static_cast<unsigned>(seconds));
  sim::DiskImage image = base.image;
  BlockBytes bytes = ReadBlock(image, place.block);
  std::memcpy(bytes.data() + field.offset, &value, field.width);
  WriteSealed(base, &image, place.block, std::move(bytes));
  MountedVolume look(image);
  auto report = look.Check(false);
  bool noticed = !report.ok() || !report->clean() || report->notes > 0;
  std::string broken = noticed ? TryMount(image) : TryCheck(image);
  if (broken.empty()) broken = TryRepair(image);
  if (!broken.empty()) {
    ++failures;
    std::printf("FAILED %s of block %llu = %llx: %s\n", name.c_str(), static_cast<unsigned long long>(place.block),
                static_cast<unsigned long long>(value), broken.c_str());
  }
  return noticed;
}

void Walk(const BaseImage& base, const Place& place, const Field& field, bool few, bool notice = true) {
  BlockBytes bytes = ReadBlock(base.image, place.block);
  uint64_t now = 0;
  std::memcpy(&now, bytes.data() + field.offset, field.width);
  std::string name = std::string(fs::BlockTypeName(place.type)) + "." + field.name + (notice ? "" : " (after a crash)");
  Tally& tally = tallies[name];
  auto values = Values(base, now, field.width);
  static const int share = Env("HOLDFAST_SHARE");
  static int turn = 0;
  for (size_t i = 0; i < values.size(); i += few ? 4 : 1) {
    if (turn++ % share != 0) continue;
    ++tally.tried;
    if (Try(base, place, field, values[i], name)) {
      ++tally.noticed;
    } else if (notice && field.free == nullptr) {
      ++failures;
      std::printf("FAILED %s of block %llu: %llx instead of %llx is not noticed\n", name.c_str(), static_cast<unsigned long long>(place.block),
                  static_cast<unsigned long long>(values[i]), static_cast<unsigned long long>(now));
    }
  }
}

// Blocks of the first volume that are in use, a few of each type.
std::vector<std::pair<Place, bool>> Chosen(const BaseImage& base) {
  std::map<BlockType, int> count;
  std::vector<std::pair<Place, bool>> chosen;
  std::map<BlockType, uint64_t> newest;
  for (const Place& p : base.places) {
    BlockBytes bytes = ReadBlock(base.image, p.block);
    uint64_t version = fs::HeaderOf(std::span<const std::byte>(bytes)).version;
    if (p.type == BlockType::kSuperblock || p.type == BlockType::kJournalHeader) newest[p.type] = std::max(newest[p.type], version);
  }
  for (const Place& p : base.places) {
    BlockBytes bytes = ReadBlock(base.image, p.block);
    std::span<const std::byte> block(bytes);
    if (p.type == BlockType::kJournalHeader && fs::HeaderOf(block).version != newest[p.type]) continue;
    if (p.type == BlockType::kSuperblock && fs::HeaderOf(block).version != newest[p.type]) continue;
    int most = p.type == BlockType::kInode ? 12 : p.type == BlockType::kTree ? 5 : 1;
    int n = count[p.type]++;
    if (n < most) chosen.emplace_back(p, n > 0);
  }
  return chosen;
}

int Main() {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  for (int number : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGALRM}) signal(number, OnAbort);
  const BaseImage& base = CleanBase();
  for (auto& [place, few] : Chosen(base)) {
    for (const Field& field : HeaderFields()) {
      // The version of a copy says which of the two counts; the other one is as good.
      Walk(base, place, field, true);
    }
    for (const Field& field : FieldsOf(place.type)) Walk(base, place, field, few);
  }
  // After a crash, what is in place may be older than what the log holds, and a record may end the log: nothing has to be noticed,
  // the other demands hold.
  const BaseImage& crashed = CrashedBase();
  std::map<BlockType, int> count;
  for (const Place& place : crashed.places) {
    bool journal = place.block < crashed.super.geometry.JournalStart(MountNo(1)).v && place.block >= crashed.super.geometry.first_journal_block;
    if (!journal || count[place.type]++ >= (place.type == BlockType::kInode ? 3 : 2)) continue;
    for (const Field& field : FieldsOf(place.type)) Walk(crashed, place, field, true, false);
  }
  Tally sum;
  for (auto& [name, tally] : tallies) {
    sum.tried += tally.tried, sum.noticed += tally.noticed;
    if (tally.noticed < tally.tried) std::printf("%-45s %3d of %3d values noticed\n", name.c_str(), tally.noticed, tally.tried);
  }
  std::printf("%zu fields, %d values, %d noticed\n", tallies.size(), sum.tried, sum.noticed);
  std::printf("%zu passed, %d failed\n", tallies.size(), failures);
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace holdfast::fuzz

int main() { return holdfast::fuzz::Main(); }
