// Fuzzer: a whole holdfastd (DaemonCore in a cluster of three, tests/whole) whose control socket a hostile local program has
// opened, as a mount, a supervisor or the command: packets of any content, several lines, lines that end. Afterwards it answers, and
// the cluster's register can be read.
#include "base/control.pb.h"
#include "base/log.h"
#include "cluster/control_codec.h"
#include "tests/fuzz/frames.h"
#include "tests/whole/cluster.h"

namespace holdfast::fuzz {
namespace {

using control::ControlFrame;
using whole::SimLine;

void Fill(control::MemberId* id, const cluster::ClusterState& state) {
  for (const auto& space : state.lockspaces()) {
    if (space.victims_size() > 0) {
      id->set_node(space.victims(0).node());
      id->set_incarnation(space.victims(0).incarnation());
      id->set_nonce(space.victims(0).nonce());
    } else if (space.members_size() > 0) {
      id->set_node(space.members(0).node());
      id->set_incarnation(space.members(0).incarnation());
      id->set_nonce(space.members(0).nonce());
    }
  }
}

class Daemon {
 public:
  Daemon() {
    SetLogLevel(LogLevel::kOff);
    clients_ = whole::MakePlainClients(&world_);
    cluster_ = std::make_unique<whole::Cluster>(&world_, whole::ClusterOptions(), clients_.get());
    for (NodeId node : cluster_->nodes()) cluster_->machine(node).want_mount = false;
    HF_CHECK(cluster_->Form(Seconds(30)), "the cluster did not form");
    program_ = &world_.Start(NodeId(1));
    world_.RunUntil([this] { return core().engine() && core().engine()->member(); }, Seconds(30));
    for (auto& line : lines_) line = Connect();
  }
  ~Daemon() {
    world_.Abandon(std::move(cluster_));
    world_.Abandon(std::move(clients_));
  }

  void Run(std::span<const uint8_t> input) {
    Frames frames(input);
    for (int n = 0; !frames.empty() && n < 100; ++n) {
      uint8_t how = frames.Byte();
      auto body = frames.Next();
      auto& line = lines_[how & 1];
      if (how >= 0xf8) {
        line->Close();
        line = Connect();
      }
      std::vector<std::byte> packet(body.begin(), body.end());
      ControlFrame frame;
      if ((how & 2) != 0 && frame.ParseFromArray(body.data(), static_cast<int>(body.size()))) {
        Complete(&frame, how);
        packet = cluster::EncodeFrame(frame);
      }
      if (line) (void)line->Send(packet);
      world_.RunFor(how & 64 ? Milliseconds(400) : Milliseconds(2));
    }
    HF_CHECK(cluster_->checker().violation().empty(), "%s", cluster_->checker().violation().c_str());
    // It may have been asked to leave; it starts again then.
    bool answers = world_.RunUntil([this] { return Asks(); }, Seconds(120));
    HF_CHECK(answers, "holdfastd answers no more:\n%s", cluster_->Dump().c_str());
    bool member = world_.RunUntil([this] { return core().engine() && core().engine()->member(); }, Seconds(120));
    HF_CHECK(member, "the node is no member any more:\n%s", cluster_->Dump().c_str());
    auto read = world_.Run(*cluster_->machine(NodeId(1)).daemon->executor, core().engine()->Read({}), Seconds(30));
    HF_CHECK(read.ok(), "the register cannot be read any more: %s", read.error().ToString().c_str());
  }

 private:
  cluster::DaemonCore& core() { return *cluster_->machine(NodeId(1)).daemon->core; }

  std::shared_ptr<SimLine> Connect() {
    std::shared_ptr<SimLine> line;
    if (!cluster_->machine(NodeId(1)).daemon->Connect(program_, &line).ok()) return nullptr;
    line->Start([this](std::span<const std::byte> packet) { Arrived(packet); }, [] {});
    return line;
  }
  void Arrived(std::span<const std::byte> packet) {
    ControlFrame frame;
    HF_CHECK(cluster::DecodeFrame(packet, &frame).ok(), "holdfastd sends what is no frame");
    if (frame.has_tree() && frame.number() == 4711) answered_ = true;
  }
  // What a mutation would not guess.
  void Complete(ControlFrame* frame, uint8_t how) {
    frame->set_protocol(1);
    if (frame->has_join() && (how & 4) != 0) {
      frame->mutable_join()->set_cluster("sim");
      frame->mutable_join()->set_lockspace("vol");
      if (frame->join().mounts_max() == 0) frame->mutable_join()->set_mounts_max(4);
    }
    cluster::StatePtr state = core().engine() ? core().engine()->state() : nullptr;
    if (!state || (how & 8) == 0) return;
    if (frame->has_claim_replay()) Fill(frame->mutable_claim_replay()->mutable_victim(), *state);
    if (frame->has_replay_done()) Fill(frame->mutable_replay_done()->mutable_victim(), *state);
    if (frame->has_readers_ended()) Fill(frame->mutable_readers_ended()->mutable_victim(), *state);
    if (frame->has_report_step()) Fill(frame->mutable_report_step()->mutable_victim(), *state);
  }
  // Asks for its status once a second, on a line of its own.
  bool Asks() {
    if (answered_ || world_.now() < ask_again_) return answered_;
    ask_again_ = world_.now() + Seconds(1);
    last_ = Connect();
    ControlFrame frame;
    frame.set_protocol(1);
    frame.set_number(4711);
    frame.mutable_status();
    if (last_) (void)last_->Send(cluster::EncodeFrame(frame));
    return false;
  }

  sim::World world_{1};
  std::unique_ptr<whole::Clients> clients_;
  std::unique_ptr<whole::Cluster> cluster_;
  sim::SimExecutor* program_ = nullptr;
  std::shared_ptr<SimLine> lines_[2], last_;
  Instant ask_again_;
  bool answered_ = false;
};

}  // namespace
}  // namespace holdfast::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  holdfast::fuzz::Daemon().Run({data, size});
  return 0;
}
