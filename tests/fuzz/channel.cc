// Fuzzer: frames of envelopes at a channel with two peers. A frame is bytes as they come, or an honest one changed in places.
#include "base/log.h"
#include "tests/fuzz/channel_pair.h"
#include "tests/fuzz/frames.h"

namespace holdfast::fuzz {
namespace {

void Run(std::span<const uint8_t> input) {
  SetLogLevel(LogLevel::kOff);
  ChannelPair pair(0);
  Channel& channel = pair.channel;
  uint64_t delivered = 0;
  channel.SetReceiver([&](const ChannelMessage& m) {
    ++delivered;
    if (m.kind == 7) channel.Forget(m.from);
    if (m.kind == 8) (void)channel.Send(m.from, m.generation, 9, m.body);
  });
  channel.SetDatagramReceiver([&](const ChannelMessage& m) { delivered += m.body.size(); });
  channel.SetWatcher([&](const MemberId& peer, bool gone) { delivered += peer.node.v + (gone ? 1 : 0); });
  for (uint32_t node : {2u, 3u}) (void)channel.AddPeer(LifeOf(node), {NodeId(node), "p" + std::to_string(node), ""});
  (void)channel.Send(LifeOf(2), Generation(1), 1, Bytes(100));
  Frames frames(input);
  while (!frames.empty()) {
    uint8_t how = frames.Byte();
    auto bytes = frames.Next();
    int i = how & 1;
    if (how & 2) {  // honest, with changes of two bytes: where and what
      uint32_t kind = bytes.empty() ? 5 : static_cast<uint32_t>(bytes[0]) % 10;
      if (how & 4) pair.peer(i).SendDatagram({NodeId(1), "a", ""}, kind, bytes);
      else (void)pair.peer(i).Send(LifeOf(1), Generation(1), kind, bytes);
      if (how & 32) (void)pair.peer(i).Send(LifeOf(1), Generation(1), 8, {});
      pair.world.RunFor(Microseconds(1));
      while (!pair.boxes[i].frames.empty()) {
        auto frame = std::move(pair.boxes[i].frames.front());
        pair.boxes[i].frames.pop_front();
        for (size_t k = 1; k + 1 < bytes.size() && k < 9; k += 2) frame[static_cast<size_t>(bytes[k]) % frame.size()] = bytes[k + 1];
        if (how & 64) pair.box.receiver(NodeId(static_cast<uint32_t>(i) + 2), frame);
        pair.box.receiver(NodeId(static_cast<uint32_t>(i) + 2), frame);
      }
    } else {
      pair.box.receiver(NodeId(static_cast<uint32_t>(i) + 2), bytes);
    }
    if (how & 8) (void)channel.Send(LifeOf(static_cast<uint32_t>(i) + 2), Generation(2), how, bytes);
    pair.Settle(Milliseconds(how & 16 ? 4000 : 30));
  }
  (void)channel.Dump();
}

}  // namespace
}  // namespace holdfast::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  holdfast::fuzz::Run({data, size});
  return 0;
}
