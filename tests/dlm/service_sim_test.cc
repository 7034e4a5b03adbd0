// The whole lock manager as a mount uses it: LockSpace over the real channel over a network that loses, doubles and
// reorders frames. Workers increment counters kept in value blocks under EX and read them under PR; one member is killed
// and another may take its place. Checked: I3 between members, no increment lost while nobody dies, everything ends.
#include <catch2/catch.hpp>

#include <cstring>
#include <map>

#include "base/channel.h"
#include "base/log.h"
#include "dlm/service.h"
#include "tests/dlm/lock_checker.h"
#include "tests/sim/network.h"
#include "tests/sim/seeds.h"

namespace holdfast::dlm {
namespace {

constexpr int kNames = 4;

struct Node {
  MemberId id;
  sim::SimExecutor* executor = nullptr;
  std::unique_ptr<sim::SimTransport> transport;
  std::unique_ptr<Channel> channel;
  std::unique_ptr<LockSpace> space;
  bool dead = false;
  bool evicted = false;
  int working = 0;
  std::map<LockId, int> wanted;  // blocking callbacks seen
  uint64_t apps = 0;
};

class ServiceSim {
 public:
  explicit ServiceSim(uint64_t seed) : world_(seed), network_(&world_, sim::NetworkKnobs::Random(world_.random())), checker_(&register_) {
    SetLogLevel(LogLevel::kOff);
    auto members = world_.random().Between(2, 4);
    for (uint32_t n = 1; n <= members; ++n) Join(n);
    Feed();
  }

  std::string Run() {
    auto& random = world_.random();
    bool kill = nodes_.size() > 2 && random.Chance(600'000);
    if (kill) world_.After(random.Between(Milliseconds(100), Milliseconds(1500)), [this] { KillOne(); });
    if (random.Chance(400'000))
      world_.After(random.Between(Milliseconds(50), Milliseconds(1500)), [this] {
        Join(static_cast<uint32_t>(10 + register_.view().generation.v));
        Feed();
      });
    world_.RunFor(Seconds(2));
    stop_ = true;
    bool quiet = world_.RunUntil([this] { return checker_.failed() || Quiet(); }, Seconds(120));
    if (checker_.failed()) return checker_.failure();
    if (!quiet) return "liveness: workers did not end";
    uint64_t sum = 0;
    for (auto& node : nodes_) sum += node->dead ? 0 : node->apps;
    if (sum == 0 && register_.view().members.size() > 1) return "no application message arrived";
    return increments_ > 0 ? "" : "nothing was incremented";
  }
  uint64_t trace_hash() const { return world_.trace_hash(); }
  uint64_t increments() const { return increments_; }

 private:
  void Join(uint32_t number) {
    auto node = std::make_unique<Node>();
    node->id = {NodeId(number), Incarnation(1), world_.random().Next() | 1};
    node->executor = &world_.Start(NodeId(number));
    node->transport = network_.Listen(*node->executor);
    ExecutorTurn turn(node->executor);
    ChannelOptions options;
    options.self = node->id;
    options.cluster = "c";
    options.lockspace = 7;
    node->channel = std::make_unique<Channel>(node->transport.get(), node->executor, options);
    node->space = MakeLockSpace(*node->executor, node->channel.get(), node->id);
    Node* n = node.get();
    node->space->SetAppReceiver([n](MemberId, std::span<const std::byte>) { ++n->apps; });
    node->space->SetWithdrawnCallback([this](std::string why) { checker_.Fail("withdrawn: " + why); });
    endpoints_[n->id] = n->transport->endpoint();
    register_.Join(n->id);
    nodes_.push_back(std::move(node));
    for (int w = 0; w < 2; ++w) {
      ++n->working;
      n->executor->Spawn(Work(this, n));
    }
  }

  void Feed() {
    View view = register_.view();
    for (Member& m : view.members) m.endpoint = endpoints_.at(m.id);
    for (auto& node : nodes_) {
      if (node->dead) continue;
      Node* n = node.get();
      world_.After(world_.random().Between(Milliseconds(1), Milliseconds(40)), [n, view] {
        n->executor->Post([n, view] { n->space->SetView(view); });
      });
    }
  }

  void KillOne() {
    Node* n = nodes_[world_.random().Below(nodes_.size())].get();
    n->dead = true;
    n->executor->Crash();
    lossy_ = true;  // its last increments may be gone
    MemberId id = n->id;
    auto& random = world_.random();
    Duration at = random.Between(Milliseconds(10), Milliseconds(100));
    world_.After(at, [this, id] {
      register_.Evict(id);
      checker_.EvictedIn(id, register_.view().generation);
      Feed();
    });
    world_.After(at + Milliseconds(30), [this, id] { register_.SetFenced(id), Feed(); });
    world_.After(at + Milliseconds(200), [this, id] { register_.SetReplayed(id), Feed(); });
    world_.After(at + Milliseconds(400), [this, id] { register_.SetReadersEnded(id), Feed(); });
  }

  bool Quiet() const {
    for (auto& node : nodes_)
      if (!node->dead && node->working > 0) return false;
    return true;
  }

  static ResourceName NameOf(uint64_t i) { return ResourceName("counter" + std::to_string(i)); }

  static Task<void> Work(ServiceSim* sim, Node* n) {
    auto& random = sim->world_.random();
    std::map<ResourceName, LockId> handles;
    while (!sim->stop_ && !sim->checker_.failed()) {
      ResourceName name = NameOf(random.Below(kNames));
      if (handles[name].v == 0) {
        BlockingCallback callback = [n](LockId lock, Mode) { ++n->wanted[lock]; };
        handles[name] = n->space->Create(name, callback);
      }
      LockId lock = handles[name];
      bool write = random.Chance(500'000);
      Mode mode = write ? Mode::kEX : Mode::kPR;
      Generation asked_in = n->space->view().generation;
      auto got = co_await n->space->Request(lock, mode, Flags::kNone, RequestOptions{});
      if (!got.ok()) {
        sim->checker_.Fail("request: " + got.error().ToString());
        break;
      }
      sim->checker_.Believes(n->id, lock, name, mode);
      sim->checker_.Granted(n->id, lock, name, mode, asked_in);
      ValueBlock value = n->space->Value(lock);
      sim->checker_.ValueRead(n->id, name, mode, value);
      uint64_t before = value.valid ? LockChecker::PayloadOf(value.bytes) : 0;
      if (!sim->lossy_ && before != sim->truth_[name] && sim->truth_[name] != 0)
        sim->checker_.Fail("an increment of " + name.ToString() + " is lost");
      if (random.Chance(300'000)) co_await SleepFor(random.Between(Milliseconds(1), Milliseconds(30)));
      std::optional<ValueBytes> next;
      if (write) {
        uint64_t payload = ++sim->payload_;
        next.emplace();
        memcpy(next->data(), &payload, sizeof payload);
        sim->checker_.ValueWritten(n->id, name, payload);
        sim->truth_[name] = payload;
        ++sim->increments_;
      }
      sim->checker_.Believes(n->id, lock, name, Mode::kIV);
      auto released = co_await n->space->Unlock(lock, next);
      if (!released.ok()) sim->checker_.Fail("unlock: " + released.error().ToString());
      for (const Member& m : n->space->view().members)
        if (m.id != n->id && random.Chance(50'000)) n->space->SendApp(m.id, Bytes(5));
      if (random.Chance(200'000)) {
        RangeRequest range;
        range.name = name;
        range.owner.key = lock.v;
        range.type = RangeType::kExclusive;
        range.start = random.Below(100);
        range.end = range.start + 10;
        range.wait = true;
        auto ranged = co_await n->space->RangeSet(range);
        if (!ranged.ok()) sim->checker_.Fail("range: " + ranged.error().ToString());
        auto dropped = co_await n->space->RangeDropOwner(name, RangeSpace::kFcntl, range.owner);
        if (!dropped.ok()) sim->checker_.Fail("range drop: " + dropped.error().ToString());
      }
    }
    --n->working;
  }

  sim::World world_;
  sim::SimNetwork network_;
  SimRegister register_;
  LockChecker checker_;
  std::vector<std::unique_ptr<Node>> nodes_;
  std::map<MemberId, Endpoint> endpoints_;
  std::map<ResourceName, uint64_t> truth_;
  uint64_t payload_ = 0;
  uint64_t increments_ = 0;
  bool lossy_ = false;
  bool stop_ = false;
};

TEST_CASE("dlm: lock spaces over the channel and a lossy network keep every increment", "[dlm][sim]") {
  sim::SeedOptions options;
  options.count = 300;
  options.batch = 25;
  options.seconds_max = 30;
  auto report = sim::RunSeeds(options, [](uint64_t seed) {
    auto* sim = new ServiceSim(seed);  // dead processes' frames are never freed: the child process ends soon
    return sim->Run();
  });
  INFO(report.ToString());
  CHECK(report.ok());
}

}  // namespace
}  // namespace holdfast::dlm
