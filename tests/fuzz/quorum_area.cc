// Fuzzer: the register's disk slots and heartbeats: an area with a value, changed in places and sealed again; the disk as
// acceptor, a proposer's two phases, beats. Input: changes of 8 bytes: block (2: low byte which of ours), offset (2), width (1),
// value (3).
#include <cstring>

#include "base/check.h"
#include "base/crc32c.h"
#include "base/log.h"
#include "cluster/disk_acceptor.h"
#include "cluster/disk_beats.h"
#include "tests/fuzz/volume_image.h"
#include "tests/sim/world.h"

namespace holdfast::fuzz {
namespace {

using namespace holdfast::cluster;

constexpr size_t kRecordBytes = 512;
const NodeId kOne(1), kTwo(2), kThree(3);

DiskAcceptorOptions Options(NodeId self, uint64_t nonce) {
  DiskAcceptorOptions o;
  o.self = self;
  o.nonce = nonce;
  o.nodes = {kOne, kTwo, kThree};
  return o;
}

struct Disk {
  sim::World world{1};
  sim::SimExecutor& process;
  MemoryDevice device;
  explicit Disk(sim::DiskImage image) : process(world.Start(kOne)), device(std::move(image)) {}
  template <class T>
  T Run(Task<T> task) {
    return world.Run(process, std::move(task));
  }
};

sim::DiskImage Base() {
  Disk w{sim::DiskImage(kQuorumAreaBytes)};
  HF_CHECK(w.Run(InitQuorumArea(&w.device, 0, 99)).ok(), "init");
  for (NodeId node : {kOne, kTwo}) {
    DiskAcceptor acceptor(Options(node, node.v * 7), &w.device);
    HF_CHECK(w.Run(acceptor.Attach()).ok(), "attach");
    Ballot ballot{node.v + 1, node, node.v * 7};
    HF_CHECK(w.Run(acceptor.Prepare(ballot, {5, {}}))->ok, "prepare");
    HF_CHECK(w.Run(acceptor.Accept(ballot, std::string(300, static_cast<char>('a' + node.v)), {5, ballot}))->ok, "accept");
    DiskBeats beats(&w.device, 0, node, kThree);
    HF_CHECK(w.Run(beats.CheckTwin(99, node.v * 7, Milliseconds(10))).ok(), "beats");
  }
  return w.device.image();
}

void Change(sim::DiskImage* image, const uint8_t* c) {
  uint64_t places[] = {BeatOffset(kOne), BeatOffset(kTwo), BeatOffset(kThree), HeaderOffset(kOne, 0), HeaderOffset(kOne, 1), HeaderOffset(kTwo, 0),
                       HeaderOffset(kTwo, 1), HeaderOffset(kThree, 0), ValueOffset(kOne, 0), ValueOffset(kOne, 1), ValueOffset(kTwo, 0),
                       ValueOffset(kTwo, 1)};
  uint64_t place = places[c[0] % (sizeof places / sizeof places[0])];
  size_t at = static_cast<size_t>(c[2] | c[3] << 8) % kRecordBytes, width = std::min<size_t>(size_t{1} << (c[4] & 3), kRecordBytes - at);
  uint64_t value = static_cast<uint64_t>(c[5] | c[6] << 8 | c[7] << 16);
  if (c[4] & 4) value = ~value;
  std::vector<std::byte> record(kRecordBytes);
  image->Read(place, record);
  std::memcpy(record.data() + at, &value, width);
  std::memset(record.data() + kRecordBytes - 4, 0, 4);
  uint32_t crc = Crc32c(record);
  std::memcpy(record.data() + kRecordBytes - 4, &crc, 4);
  image->Write(place, record);
}

void Run(std::span<const uint8_t> input) {
  SetLogLevel(LogLevel::kOff);
  static const sim::DiskImage* base = new sim::DiskImage(Base());
  sim::DiskImage image = *base;
  for (size_t i = 0; i + 8 <= input.size() && i < 320; i += 8) Change(&image, input.data() + i);
  Disk w{std::move(image)};
  for (NodeId node : {kOne, kThree}) {
    DiskAcceptor acceptor(Options(node, node.v * 7 + 1), &w.device);
    if (!w.Run(acceptor.Attach()).ok()) continue;
    auto highest = w.Run(acceptor.HighestAccepted());
    if (highest.ok()) (void)w.Run(acceptor.ReadValue(*highest));
    Ballot ballot{node.v + 10, node, node.v * 7 + 1};
    auto promised = w.Run(acceptor.Prepare(ballot, {5, {}}));
    HF_CHECK(!promised.ok() || !promised->ok || !(ballot < promised->highest), "a promise although a higher ballot is there");
    auto accepted = w.Run(acceptor.Accept(ballot, "new", {5, ballot}));
    HF_CHECK(!accepted.ok() || !accepted->ok || !(ballot < accepted->highest), "accepted although a higher ballot is there");
    DiskBeats beats(&w.device, 0, node, kThree);
    (void)w.Run(beats.CheckTwin(acceptor.area_id(), 5, Milliseconds(10)));
    (void)w.Run(beats.Write({}));
    (void)w.Run(beats.ReadAll());
  }
  HF_CHECK(w.device.outrage().empty(), "%s", w.device.outrage().c_str());
}

}  // namespace
}  // namespace holdfast::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  holdfast::fuzz::Run({data, size});
  return 0;
}
