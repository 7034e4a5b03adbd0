#include "tests/sim/network.h"

namespace holdfast::sim {

NetworkKnobs NetworkKnobs::Random(SimRandom& random) {
  NetworkKnobs k;
  k.delay_min = random.Between(Microseconds(10), Microseconds(200));
  k.delay_max = k.delay_min + random.Between(Microseconds(10), Milliseconds(5));
  if (random.Chance(kMillion / 2)) k.loss = static_cast<uint32_t>(random.Below(kMillion / 20));
  if (random.Chance(kMillion / 2)) k.duplicate = static_cast<uint32_t>(random.Below(kMillion / 20));
  if (random.Chance(kMillion / 2)) k.slow = static_cast<uint32_t>(random.Below(kMillion / 50));
  k.slow_max = random.Between(Milliseconds(5), Milliseconds(500));
  k.in_order = random.Chance(kMillion / 4);
  return k;
}

std::unique_ptr<SimTransport> SimNetwork::Listen(SimExecutor& executor, std::string address) {
  if (address.empty()) address = "sim:" + std::to_string(executor.node().v) + ":" + std::to_string(++addresses_);
  return std::unique_ptr<SimTransport>(new SimTransport(this, &executor, std::move(address)));
}

void SimNetwork::Partition(const std::vector<NodeId>& left, const std::vector<NodeId>& right) {
  for (NodeId a : left)
    for (NodeId b : right)
      if (a != b) Cut(a, b);
}

void SimNetwork::Send(NodeId from, const Endpoint& to, std::vector<std::byte> frame) {
  ++sent_;
  if (IsCut(from, to.node) || (from != to.node && world_->random().Chance(knobs_.loss))) {
    ++lost_;
    return;
  }
  auto shared = std::make_shared<std::vector<std::byte>>(std::move(frame));
  if (auto it = clogged_.find({from, to.node}); it != clogged_.end()) {
    if (it->second.frames.size() >= it->second.room) ++lost_;
    else it->second.frames.push_back({to, shared});
    return;
  }
  Fly(from, to, shared);
  if (world_->random().Chance(knobs_.duplicate)) Fly(from, to, shared);
}

void SimNetwork::Unclog(NodeId from, NodeId to) {
  auto it = clogged_.find({from, to});
  if (it == clogged_.end()) return;
  auto frames = std::move(it->second.frames);
  clogged_.erase(it);
  for (Waiting& w : frames) Fly(from, w.to, std::move(w.frame));
}

void SimNetwork::UnclogAll() {
  while (!clogged_.empty()) {
    auto [from, to] = clogged_.begin()->first;
    Unclog(from, to);
  }
}

void SimNetwork::Fly(NodeId from, const Endpoint& to, std::shared_ptr<std::vector<std::byte>> frame) {
  SimRandom& random = world_->random();
  Duration delay = random.Chance(knobs_.slow) ? random.Between(knobs_.delay_min, knobs_.slow_max)
                                              : random.Between(knobs_.delay_min, knobs_.delay_max);
  Instant when = world_->now() + delay;
  if (knobs_.in_order) {
    uint64_t& last = last_arrival_[{from, to.address}];
    if (when.ns <= last) when = {last + 1};
    last = when.ns;
  }
  world_->At(when, [this, from, node = to.node, address = to.address, frame = std::move(frame)] {
    Arrive(from, node, address, frame);
  });
}

void SimNetwork::Arrive(NodeId from, NodeId to, const std::string& address,
                        std::shared_ptr<std::vector<std::byte>> frame) {
  auto it = listeners_.find(address);
  bool cut = IsCut(from, to) && world_->random().Chance(kMillion / 2);
  if (cut || it == listeners_.end() || it->second->executor_->node() != to || !it->second->executor_->alive()) {
    ++lost_;
    return;
  }
  ++delivered_;
  it->second->executor_->Post([receiver = it->second->receiver_, from, frame = std::move(frame)] {
    if (*receiver) (*receiver)(from, *frame);
  });
}

SimTransport::SimTransport(SimNetwork* network, SimExecutor* executor, std::string address)
    : network_(network), executor_(executor), address_(std::move(address)) {
  network_->listeners_[address_] = this;
}

SimTransport::~SimTransport() {
  *receiver_ = nullptr;
  auto it = network_->listeners_.find(address_);
  if (it != network_->listeners_.end() && it->second == this) network_->listeners_.erase(it);
}

void SimTransport::Send(const Endpoint& to, std::vector<std::byte> frame) {
  if (executor_->alive()) network_->Send(executor_->node(), to, std::move(frame));
}

}  // namespace holdfast::sim
