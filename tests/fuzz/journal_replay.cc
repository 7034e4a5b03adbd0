// Fuzzer: replay of both journals of a changed volume (input: volume_image.h). It ends, stays on the volume, and what it
// reports as replayed is clean when it is replayed again.
#include "base/check.h"
#include "base/log.h"
#include "fs/replay.h"
#include "tests/fuzz/volume_image.h"
#include "tests/sim/world.h"

namespace holdfast::fuzz {
namespace {

Task<Result<bool>> EveryOther(fs::Resource resource) { co_return resource.number % 2 == 0; }

void Replay(std::span<const uint8_t> input) {
  SetLogLevel(LogLevel::kOff);
  sim::World world(1);
  sim::SimExecutor& process = world.Start(NodeId(1));
  MemoryDevice device(Apply(input).image);
  auto super = world.Run(process, fs::ReadSuperblock(device));
  for (uint32_t j = 0; super.ok() && j < std::min(super->geometry.journal_count, 3u); ++j) {
    fs::FrozenPredicate survivors;
    if (input.size() % 2 == 1) survivors = EveryOther;
    auto first = world.Run(process, fs::ReplayJournal(device, super->geometry, MountNo(j), survivors));
    if (!first.ok()) continue;
    auto again = world.Run(process, fs::ReplayJournal(device, super->geometry, MountNo(j), survivors));
    // A record may hold an older image of the journal's own header: then there is more to replay, not nothing.
    HF_CHECK(again.ok() && again->was_clean, "replayed, and then: %s", again.ok() ? "dirty" : again.error().ToString().c_str());
  }
  HF_CHECK(device.outrage().empty(), "%s", device.outrage().c_str());
}

}  // namespace
}  // namespace holdfast::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  holdfast::fuzz::Replay({data, size});
  return 0;
}
