// SimNetwork: the wire between simulated processes. Frames are lost, doubled, delayed and reordered as the knobs say;
// a direction between two nodes can be cut. Cutting drops what is under way too, as often as not. A frame reaches
// whoever listens on the address when it arrives; the sender's node is reported truly, as CURVE does.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/transport.h"
#include "tests/sim/world.h"

namespace holdfast::sim {

struct NetworkKnobs {
  Duration delay_min = Microseconds(30);
  Duration delay_max = Microseconds(300);
  uint32_t loss = 0;        // per million frames
  uint32_t duplicate = 0;   // per million frames
  uint32_t slow = 0;        // per million frames that take up to slow_max instead
  Duration slow_max = Milliseconds(200);
  bool in_order = false;    // frames of one (from, to) pair never overtake each other

  static NetworkKnobs Random(SimRandom& random);  // a different weather for each seed
};

class SimTransport;

class SimNetwork {
 public:
  explicit SimNetwork(World* world, NetworkKnobs knobs = {}) : world_(world), knobs_(knobs) {}

  // A process listens. Address: unique text; empty makes "sim:<node>:<n>". Destroying it stops listening.
  std::unique_ptr<SimTransport> Listen(SimExecutor& executor, std::string address = "");

  // One direction. Storage is not affected.
  void CutOneWay(NodeId from, NodeId to) { cut_.insert({from, to}); }
  void Cut(NodeId a, NodeId b) {
    CutOneWay(a, b);
    CutOneWay(b, a);
  }
  // A direction is clogged: what is sent waits in a queue (beyond `frames` it is lost) and comes in one burst when it opens.
  void Clog(NodeId from, NodeId to, size_t frames = 10'000) { clogged_[{from, to}].room = frames; }
  void Unclog(NodeId from, NodeId to);
  void UnclogAll();
  // Every pair across the two sides, both ways.
  void Partition(const std::vector<NodeId>& left, const std::vector<NodeId>& right);
  void Heal(NodeId a, NodeId b) {
    cut_.erase({a, b});
    cut_.erase({b, a});
  }
  void HealAll() { cut_.clear(); }
  bool IsCut(NodeId from, NodeId to) const { return cut_.contains({from, to}); }

  NetworkKnobs& knobs() { return knobs_; }
  uint64_t sent() const { return sent_; }
  uint64_t delivered() const { return delivered_; }
  uint64_t lost() const { return lost_; }

 private:
  friend class SimTransport;
  void Send(NodeId from, const Endpoint& to, std::vector<std::byte> frame);
  void Fly(NodeId from, const Endpoint& to, std::shared_ptr<std::vector<std::byte>> frame);
  void Arrive(NodeId from, NodeId to, const std::string& address, std::shared_ptr<std::vector<std::byte>> frame);

  World* world_;
  NetworkKnobs knobs_;
  std::unordered_map<std::string, SimTransport*> listeners_;  // looked up only
  std::set<std::pair<NodeId, NodeId>> cut_;
  struct Waiting {
    Endpoint to;
    std::shared_ptr<std::vector<std::byte>> frame;
  };
  struct Queue {
    size_t room = 0;
    std::vector<Waiting> frames;
  };
  std::map<std::pair<NodeId, NodeId>, Queue> clogged_;
  std::map<std::pair<NodeId, std::string>, uint64_t> last_arrival_;
  uint64_t sent_ = 0, delivered_ = 0, lost_ = 0, addresses_ = 0;
};

class SimTransport final : public Transport {
 public:
  ~SimTransport() override;
  void Send(const Endpoint& to, std::vector<std::byte> frame) override;
  void SetReceiver(Receiver receiver) override { *receiver_ = std::move(receiver); }
  void Forget(const Endpoint&) override {}
  std::string LocalAddress() const override { return address_; }
  Endpoint endpoint() const { return {executor_->node(), address_, ""}; }

 private:
  friend class SimNetwork;
  SimTransport(SimNetwork* network, SimExecutor* executor, std::string address);
  SimNetwork* network_;
  SimExecutor* executor_;
  std::string address_;
  std::shared_ptr<Receiver> receiver_ = std::make_shared<Receiver>();  // frames on their way in may outlive us
};

}  // namespace holdfast::sim
