// Fuzzer: a member's engine (heartbeats, register, lease) and two peers whose keys are right and whose every datagram is hostile.
// Each says what the input says, or the member's own decided state with changed bytes, as a promise, as decided or to be accepted.
// The member may be evicted, wait or refuse; it must not end, and its register must not go back.
#include "base/check.h"
#include "base/log.h"
#include "cluster/engine.h"
#include "cluster/peer.pb.h"
#include "tests/fuzz/frames.h"
#include "tests/sim/kv_store.h"
#include "tests/sim/world.h"

namespace holdfast::cluster {
namespace {

using fuzz::Frames;

struct Silent final : PeerSender {
  void Send(NodeId, std::string message) override { last = std::move(message); }
  std::string last;
};

struct Watch final : EngineHandler {
  void OnState(StatePtr state) override {
    // Another `quorum init` begins anew.
    HF_CHECK(state->version() > version || state->cluster_uuid() != uuid, "a state goes back");
    version = state->version();
    uuid = state->cluster_uuid();
  }
  void OnLease(Incarnation, Instant) override {}
  void OnEvicted(std::string) override { ++evicted; }
  uint64_t version = 0;
  std::string uuid;
  int evicted = 0;
};

class Member {
 public:
  Member() : process_(world_.Start(NodeId(1))), medium_(&world_), store_(&process_, &medium_) {
    SetLogLevel(LogLevel::kOff);
    OfflineInitOptions init;
    init.self = NodeId(1);
    init.args.cluster_name = "c";
    init.args.cluster_uuid = std::string(16, 'u');
    init.args.config_version = 1;
    init.args.config_hash = "h";
    for (uint32_t node = 1; node <= 3; ++node) init.args.nodes.push_back({NodeId(node), "n" + std::to_string(node), node == 1 ? 3u : 1u, 0});
    auto made = world_.Run(process_, OfflineInit(init, &process_, &world_.random(), &store_));
    HF_CHECK(made.ok(), "quorum init");
    EngineOptions options;
    options.self = NodeId(1);
    options.nonce = 11;
    options.boot_id = "b";
    options.endpoint = "e";
    options.cluster_name = "c";
    options.config_version = 1;
    options.config_hash = "h";
    options.nodes = {NodeId(1), NodeId(2), NodeId(3)};
    options.timing.post_join_delay = Milliseconds(300);
    ExecutorTurn turn(&process_);
    engine_ = std::make_unique<Engine>(options, &process_, &world_.random(), &store_, &sender_, &watch_);
    process_.Spawn(Start(this));
    world_.RunUntil([this] { return engine_->member(); }, Seconds(10));
    HF_CHECK(engine_->member(), "no member: %s", engine_->picture().waiting.c_str());
  }
  ~Member() {
    world_.Run(process_, engine_->Stop());
    world_.RunFor(Seconds(1));
  }

  void Run(std::span<const uint8_t> input) {
    Frames frames(input);
    for (int n = 0; !frames.empty() && n < 200; ++n) {
      uint8_t how = frames.Byte();
      auto body = frames.Next();
      PeerMessage message;
      (void)message.ParseFromArray(body.data(), static_cast<int>(body.size()));
      if (how & 2) Forge(&message, body, how);
      if (how & 4) message.mutable_ack()->set_to_nonce(11);
      message.set_cluster("c");
      message.set_nonce(20 + (how & 1) + (how >> 3 & 1) * 10);
      Say(NodeId(2 + (how & 1)), message);
      world_.RunFor(how >= 0xe0 ? Milliseconds(700) : Milliseconds(5));
      (void)engine_->picture();
    }
    (void)engine_->Dump();
  }

 private:
  static Task<void> Start(Member* self) {
    auto started = co_await self->engine_->Start();
    HF_CHECK(started.ok(), "start");
  }
  void Say(NodeId from, const PeerMessage& message) {
    std::string bytes = message.SerializeAsString();
    ExecutorTurn turn(&process_);
    engine_->OnMessage(from, std::as_bytes(std::span(bytes)));
  }
  // Our state as a peer would have it: body = three bytes per change: where (2), what is added to the byte.
  void Forge(PeerMessage* message, std::span<const std::byte> body, uint8_t how) {
    StatePtr state = engine_->state();
    if (state == nullptr) return;
    ClusterState copy = *state;
    copy.set_version(copy.version() + (how >> 5 & 1));
    std::string value = copy.SerializeAsString();
    for (size_t i = 0; i + 3 <= body.size(); i += 3) {
      size_t at = (std::to_integer<size_t>(body[i]) << 8 | std::to_integer<size_t>(body[i + 1])) % value.size();
      value[at] = static_cast<char>(value[at] + std::to_integer<int>(body[i + 2]));
    }
    RegisterMessage* reg = message->mutable_reg();
    static constexpr RegisterKind kKinds[] = {DECIDED, ACCEPT, PROMISE, DECIDED};
    reg->set_kind(kKinds[how >> 6]);
    reg->set_value(value);
    PeerMessage ours;  // answers count only for the attempt under way
    if (ours.ParseFromString(sender_.last) && ours.has_reg()) reg->set_attempt(ours.reg().attempt());
    reg->mutable_ballot()->set_counter(1000 + state->version());
    reg->mutable_ballot()->set_node(2);
  }

  sim::World world_{1};
  sim::SimExecutor& process_;
  sim::SimKvMedium medium_;
  sim::SimKvStore store_;
  Silent sender_;
  Watch watch_;
  std::unique_ptr<Engine> engine_;
};

}  // namespace
}  // namespace holdfast::cluster

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  holdfast::cluster::Member().Run({data, size});
  return 0;
}
