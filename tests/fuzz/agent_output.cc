// Fuzzer: what fence agents print: metadata, status lines, errors; and records of the history, which they fill.
#include "base/check.h"
#include "base/log.h"
#include "fence/agent.h"
#include "fence/history.h"
#include "tests/fuzz/frames.h"
#include "tests/sim/world.h"

namespace holdfast::fuzz {
namespace {

const char kSecret[] = "hunter2secret";

class Printer final : public Processes {
 public:
  Task<Result<ProcessOutcome>> Run(ProcessSpec) override { co_return outcome; }
  Task<Status> AwaitExit(int32_t, Duration) override { co_return Status(); }
  ProcessOutcome outcome;
};

std::string Text(std::span<const std::byte> bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

void Run(std::span<const uint8_t> input) {
  SetLogLevel(LogLevel::kOff);
  sim::World world(1);
  sim::SimExecutor& process = world.Start(NodeId(1));
  Frames frames(input);
  Printer printer;
  uint8_t how = frames.Byte();
  printer.outcome.exit_code = how & 3;
  printer.outcome.timed_out = (how & 4) != 0;
  printer.outcome.output = Text(frames.Next());
  printer.outcome.errors = Text(frames.Next());
  if (how & 8) printer.outcome.errors += kSecret;
  if (how & 16) printer.outcome.output.insert(printer.outcome.output.size() / 2, kSecret);
  fence::Agents agents(&printer);
  fence::FenceDevice device;
  device.name = "d";
  device.agent = "fence_x";
  device.attributes["passwd"] = kSecret;
  auto report = world.Run(process, agents.Call(device, "n1", how & 32 ? "status" : "off", Seconds(1)));
  HF_CHECK(report.words.find(kSecret) == std::string::npos, "a secret in the words: %s", report.words.c_str());
  HF_CHECK(report.words.find('\n') == std::string::npos && report.words.size() < 400, "words that are no line");
  bool done = report.answer == fence::AgentAnswer::kDone;
  HF_CHECK(!done || (printer.outcome.exit_code == 0 && !printer.outcome.timed_out), "a failure taken for a success");
  (void)fence::ParseMetadata(printer.outcome.output);
  (void)world.Run(process, agents.Metadata(device, Seconds(1)));
  auto record = fence::DecodeRecord(printer.outcome.output);
  if (record.ok()) {
    auto again = fence::DecodeRecord(fence::EncodeRecord(*record));
    HF_CHECK(again.ok() && again->details == record->details && again->took.ns == record->took.ns, "a record that changes");
  }
}

}  // namespace
}  // namespace holdfast::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  holdfast::fuzz::Run({data, size});
  return 0;
}
