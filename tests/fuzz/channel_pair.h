// ChannelPair: a channel under test and two honest peers whose frames end in boxes, so that a target changes, holds back, doubles or
// forges them before they arrive.
#pragma once

#include <deque>

#include "base/channel.h"
#include "tests/sim/world.h"

namespace holdfast::fuzz {

class Box final : public Transport {
 public:
  void Send(const Endpoint&, std::vector<std::byte> frame) override { frames.push_back(std::move(frame)); }
  void SetReceiver(Receiver r) override { receiver = std::move(r); }
  void Forget(const Endpoint&) override {}
  std::string LocalAddress() const override { return "here"; }
  Receiver receiver;
  std::deque<std::vector<std::byte>> frames;  // sent and not fetched
};

inline MemberId LifeOf(uint32_t node) { return {NodeId(node), Incarnation(1), node * 11}; }

struct ChannelPair {
  sim::World world{1};
  sim::SimExecutor& process;
  ExecutorTurn turn;
  Box box, boxes[2];
  Channel channel, peer0, peer1;

  explicit ChannelPair(uint64_t lockspace)
      : process(world.Start(NodeId(1))), turn(&process), channel(&box, &process, Options(1, lockspace)),
        peer0(&boxes[0], &process, Options(2, lockspace)), peer1(&boxes[1], &process, Options(3, lockspace)) {
    (void)peer0.AddPeer(LifeOf(1), {NodeId(1), "a", ""});
    (void)peer1.AddPeer(LifeOf(1), {NodeId(1), "a", ""});
  }
  Channel& peer(int i) { return i == 0 ? peer0 : peer1; }
  void Settle(Duration time) {
    world.RunFor(time);
    box.frames.clear();
  }
  // What peer i sends, as it should arrive.
  void Deliver(int i) {
    world.RunFor(Microseconds(1));
    while (!boxes[i].frames.empty()) {
      auto frame = std::move(boxes[i].frames.front());
      boxes[i].frames.pop_front();
      box.receiver(NodeId(static_cast<uint32_t>(i) + 2), frame);
    }
  }

 private:
  static ChannelOptions Options(uint32_t node, uint64_t lockspace) {
    ChannelOptions options;
    options.self = LifeOf(node);
    options.cluster = "c";
    options.lockspace = lockspace;
    options.knobs.early_bytes_max = 4096;
    options.knobs.retransmit_min = node == 1 ? Milliseconds(100) : Seconds(1000);  // honest peers repeat nothing by themselves
    options.knobs.retransmit_max = node == 1 ? Seconds(1) : Seconds(1000);
    return options;
  }
};

}  // namespace holdfast::fuzz
