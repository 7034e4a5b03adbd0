// One schedule by hand: two lives of one node, one ballot counter. See register_storm.h.
#include <algorithm>
#include <array>
#include <functional>
#include <memory>
#include <vector>

#include "cluster/engine.h"
#include "cluster/node_acceptor.h"
#include "cluster/register.h"
#include "tests/cluster/register_storm.h"
#include "tests/sim/kv_store.h"
#include "tests/sim/world.h"

namespace holdfast::cluster {

using namespace holdfast::sim;

namespace {

struct Mail {
  NodeId from, to;
  RegisterMessage message;
};

// Three nodes without a disk; every message goes through Post, which may hold it back.
struct Desk {
  explicit Desk(Mutants m) : world(1), mutants(m) {
    for (auto& medium : media) medium = std::make_unique<SimKvMedium>(&world);
  }
  void Start(uint32_t node, uint64_t nonce) {
    executors[node] = &world.Start(NodeId(node));
    stores[node] = new SimKvStore(executors[node], media[node].get());  // the world's frames refer to these to the end
    acceptors[node] = new NodeAcceptor(stores[node], &world.random());
    RegisterOptions how;
    how.self = NodeId(node);
    how.nonce = nonce;
    how.nodes = {NodeId(1), NodeId(2), NodeId(3)};
    how.mutants = mutants;
    auto loaded = world.Run(*executors[node], acceptors[node]->Load());
    (void)loaded;
    registers[node] = new Register(how, executors[node], &world.random(), acceptors[node], nullptr,
                                   [this, node](NodeId to, const RegisterMessage& message) {
                                     Post({NodeId(node), to, message});
                                   });
  }
  void Post(Mail mail) {
    if (hold && hold(mail)) {
      held.push_back(std::move(mail));
      return;
    }
    Deliver(std::move(mail));
  }
  void Deliver(Mail mail) {
    world.After(Microseconds(100), [this, mail] {
      SimExecutor* executor = executors[mail.to.v];
      Register* reg = registers[mail.to.v];
      executor->Post([reg, mail] { reg->OnMessage(mail.from, mail.message); });
    });
  }
  World world;
  Mutants mutants;
  std::array<std::unique_ptr<SimKvMedium>, 4> media;
  std::array<SimExecutor*, 4> executors{};
  std::array<SimKvStore*, 4> stores{};
  std::array<NodeAcceptor*, 4> acceptors{};
  std::array<Register*, 4> registers{};
  std::function<bool(const Mail&)> hold;
  std::vector<Mail> held;
};

ChangeFn Add(uint64_t id) {
  return [id](const ClusterState& s) -> Result<ClusterState> {
    ClusterState next = s;
    next.set_version(s.version() + 1);
    next.add_applied(id);
    return next;
  };
}

Task<void> Drop(Task<Result<StatePtr>> task) {
  auto result = co_await std::move(task);
  (void)result;
}

}  // namespace

std::string SameCounterTwice(uint64_t first_nonce, uint64_t second_nonce, Mutants mutants) {
  Desk desk(mutants);
  desk.Start(1, first_nonce);
  desk.Start(2, 50);
  desk.Start(3, 60);
  InitClusterArgs init;
  init.cluster_name = "desk";
  init.cluster_uuid = std::string(16, 'u');
  for (uint32_t n = 1; n <= 3; ++n) init.nodes.push_back({NodeId(n), "", 1, 0});
  auto made = desk.world.Run(*desk.executors[1], desk.registers[1]->Initialize(init, Seconds(5)));
  if (!made.ok()) return "init: " + made.error().ToString();

  // The first life: promised by 2 and 3 before its own store has synced; its ACCEPTs are under way.
  desk.media[1]->knobs().latency_min = desk.media[1]->knobs().latency_max = Seconds(30);
  desk.hold = [](const Mail& mail) { return mail.from == NodeId(1) && mail.message.kind() == ACCEPT; };
  desk.executors[1]->Spawn(Drop(desk.registers[1]->Change(Add(100), {})));
  desk.world.RunFor(Milliseconds(50));
  if (desk.held.size() < 2) return "the schedule does not reach the first life's ACCEPT";
  std::vector<Mail> late = std::move(desk.held);
  desk.held.clear();
  desk.executors[1]->Crash();
  desk.media[1]->Crash();
  desk.media[1]->knobs() = {};

  // The second life: 2 does not get its ACCEPT.
  desk.hold = [](const Mail& mail) { return mail.from == NodeId(1) && mail.to == NodeId(2) && mail.message.kind() == ACCEPT; };
  desk.Start(1, second_nonce);
  auto done = desk.world.Run(*desk.executors[1], desk.registers[1]->Change(Add(200), {}));
  if (!done.ok()) return "the second life: " + done.error().ToString();
  desk.executors[1]->Crash();

  for (auto& mail : late) desk.Deliver(mail);
  desk.world.RunFor(Milliseconds(50));
  desk.hold = {};
  auto read = desk.world.Run(*desk.executors[2], desk.registers[2]->Read({}));
  if (!read.ok()) return "the read: " + read.error().ToString();
  const auto& applied = (*read)->applied();
  if (std::find(applied.begin(), applied.end(), 200) == applied.end()) return "a change that was told done is gone";
  return "";
}

}  // namespace holdfast::cluster
