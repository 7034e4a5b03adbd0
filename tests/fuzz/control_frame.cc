// Fuzzer: packets of the control socket: the codec, and a mount's side of the line fed by a hostile holdfastd.
#include "base/check.h"
#include "base/control.pb.h"
#include "base/log.h"
#include "cluster/client.h"
#include "cluster/control_codec.h"
#include "tests/fuzz/frames.h"
#include "tests/sim/world.h"

namespace holdfast::fuzz {
namespace {

using control::ControlFrame;

class Line final : public ControlLine {
 public:
  void Start(OnPacket packet, OnClosed closed) override { packet_ = std::move(packet), closed_ = std::move(closed); }
  Status Send(std::span<const std::byte>) override { return open_ ? Status() : Status(Errc::kDisconnected); }
  void Close() override { open_ = false; }
  bool open() const override { return open_; }
  int32_t peer_pid() const override { return 1; }
  uint32_t peer_uid() const override { return 0; }
  void Arrive(std::span<const std::byte> packet) {
    if (open_) packet_(packet);
  }
  void End() {
    if (open_) open_ = false, closed_();
  }

 private:
  OnPacket packet_;
  OnClosed closed_;
  bool open_ = true;
};

struct Handler final : dlm::ClusterLinkHandler {
  void OnView(const dlm::View& view) override { Judge(view); }
  void OnEvicted(std::string) override {}
  void OnDaemonLost(std::string) override { ++lost; }
  void OnStopRequested(std::string) override {}
  dlm::LinkStatus OnStatus() override { return {}; }
  void Judge(const dlm::View& view) {
    HF_CHECK(view.version.v >= version, "a view goes back");
    version = view.version.v;
  }
  uint64_t version = 0;
  int lost = 0;
};

void Codec(const ControlFrame& frame) {
  switch (frame.body_case()) {
    case ControlFrame::kView: (void)cluster::FromProto(frame.view()); break;
    case ControlFrame::kTree: (void)cluster::FromProto(frame.tree().tree()); break;
    case ControlFrame::kMountStatus: (void)cluster::FromProto(frame.mount_status()); break;
    case ControlFrame::kFailure: HF_CHECK(cluster::FromProto(frame.failure()).code != Errc::kOk, "a failure that is none"); break;
    default: break;
  }
}

Task<void> Join(dlm::ClusterLink* link, Handler* handler) {
  dlm::JoinRequest request;
  auto joined = co_await link->Join(request);
  if (!joined.ok()) co_return;
  handler->Judge(joined->view);
  auto claim = co_await link->ClaimReplay({NodeId(2), Incarnation(1), 5});
  (void)claim;
  auto left = co_await link->Leave();
  (void)left;
}

void Run(std::span<const uint8_t> input) {
  SetLogLevel(LogLevel::kOff);
  static LeasePage page;
  sim::World world(1);
  sim::SimExecutor& process = world.Start(NodeId(1));
  ExecutorTurn turn(&process);
  auto line = std::make_shared<Line>();
  Handler handler;
  cluster::ClusterClientSeams seams;
  seams.connect = [&]() -> Result<std::shared_ptr<ControlLine>> { return std::shared_ptr<ControlLine>(line); };
  seams.map_lease = [](const std::string&) -> Result<const LeasePage*> { return &page; };
  auto link = cluster::MakeClusterClient(std::move(seams), handler);
  process.Spawn(Join(link.get(), &handler));
  world.RunFor(Milliseconds(1));
  Frames frames(input);
  while (!frames.empty()) {
    uint8_t how = frames.Byte();
    auto bytes = frames.Next();
    ControlFrame frame;
    if (cluster::DecodeFrame(bytes, &frame).ok()) Codec(frame);
    std::vector<std::byte> packet(bytes.begin(), bytes.end());
    if ((how & 1) != 0 && frame.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
      if (how & 2) frame.set_number(how >> 4);
      packet = cluster::EncodeFrame(frame);
    }
    line->Arrive(packet);
    world.RunFor(Milliseconds(1));
  }
  line->End();
  world.RunFor(Milliseconds(1));
  HF_CHECK(handler.lost <= 1, "the daemon was lost twice");
}

}  // namespace
}  // namespace holdfast::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  holdfast::fuzz::Run({data, size});
  return 0;
}
