#include <catch2/catch.hpp>

#include <map>

#include "io/zmq_transport.h"

#include "base/channel.h"
#include "tests/io/transport_contract.h"
#include "tests/sim/network.h"

using namespace holdfast;
using namespace holdfast::contract;

namespace {

io::CurveKeys Keys() {
  auto keys = io::MakeCurveKeys();
  REQUIRE(keys.ok());
  return *keys;
}

std::unique_ptr<io::ZmqTransport> Listen(io::Reactor& reactor, uint32_t node, const io::CurveKeys& keys,
                                         std::map<std::string, NodeId> allowed) {
  io::ZmqTransportOptions options;
  options.node = NodeId(node);
  options.bind = "tcp://127.0.0.1:0";
  options.keys = keys;
  options.allowed = std::move(allowed);
  auto made = io::ZmqTransport::Create(&reactor, std::move(options));
  REQUIRE(made.ok());
  return std::move(*made);
}

}  // namespace

TEST_CASE("contract Transport: ZeroMQ with CURVE", "[io][contract][unit]") {
  io::Reactor reactor;
  io::CurveKeys ka = Keys(), kb = Keys();
  std::map<std::string, NodeId> allowed = {{ka.public_key, NodeId(1)}, {kb.public_key, NodeId(2)}};
  auto a = Listen(reactor, 1, ka, allowed);
  auto b = Listen(reactor, 2, kb, allowed);
  TransportContract(a.get(), b.get(), {NodeId(1), a->LocalAddress(), ka.public_key},
                    {NodeId(2), b->LocalAddress(), kb.public_key},
                    [&](auto task) { return reactor.RunTask(std::move(task)); });
}

TEST_CASE("contract Transport: simulated network", "[io][contract][unit]") {
  sim::World world(3);
  sim::SimNetwork network(&world, sim::NetworkKnobs::Random(world.random()));
  sim::SimExecutor& ea = world.Start(NodeId(1));
  sim::SimExecutor& eb = world.Start(NodeId(2));
  auto a = network.Listen(ea), b = network.Listen(eb);
  TransportContract(a.get(), b.get(), a->endpoint(), b->endpoint(),
                    [&](auto task) { return world.Run(ea, std::move(task)); });
}

TEST_CASE("zmq: an unknown key is refused, the same key once allowed is not", "[io][unit]") {
  io::Reactor reactor;
  io::CurveKeys ka = Keys(), kb = Keys();
  auto a = Listen(reactor, 1, ka, {{ka.public_key, NodeId(1)}});
  auto b = Listen(reactor, 2, kb, {{ka.public_key, NodeId(1)}, {kb.public_key, NodeId(2)}});
  int got = 0;
  a->SetReceiver([&](NodeId, std::span<const std::byte>) { ++got; });
  Endpoint to_a{NodeId(1), a->LocalAddress(), ka.public_key};
  CHECK_FALSE(reactor.RunTask(SendUntil(b.get(), to_a, FrameOf("x"), [&] { return got > 0; }, 25)));
  CHECK(a->stats().refused_keys > 0);
  a->SetAllowed({{ka.public_key, NodeId(1)}, {kb.public_key, NodeId(2)}});
  CHECK(reactor.RunTask(SendUntil(b.get(), to_a, FrameOf("x"), [&] { return got > 0; })));
}

TEST_CASE("zmq: a server with another key than the endpoint names gets nothing", "[io][unit]") {
  io::Reactor reactor;
  io::CurveKeys ka = Keys(), kb = Keys();
  std::map<std::string, NodeId> allowed = {{ka.public_key, NodeId(1)}, {kb.public_key, NodeId(2)}};
  auto a = Listen(reactor, 1, ka, allowed);
  auto b = Listen(reactor, 2, kb, allowed);
  int got = 0;
  a->SetReceiver([&](NodeId, std::span<const std::byte>) { ++got; });
  Endpoint impostor{NodeId(1), a->LocalAddress(), kb.public_key};
  CHECK_FALSE(reactor.RunTask(SendUntil(b.get(), impostor, FrameOf("x"), [&] { return got > 0; }, 15)));
}

TEST_CASE("zmq: a restarted peer on the same port is reached again, the channel loses nothing", "[io][unit]") {
  io::Reactor reactor;
  io::CurveKeys ka = Keys(), kb = Keys();
  std::map<std::string, NodeId> allowed = {{ka.public_key, NodeId(1)}, {kb.public_key, NodeId(2)}};
  auto a = Listen(reactor, 1, ka, allowed);
  auto b = Listen(reactor, 2, kb, allowed);
  MemberId ida{NodeId(1), Incarnation(0), 1}, idb{NodeId(2), Incarnation(0), 2};
  Endpoint to_b{NodeId(2), b->LocalAddress(), kb.public_key}, to_a{NodeId(1), a->LocalAddress(), ka.public_key};
  Channel ca(a.get(), &reactor, {ida, "test", 0, {}});
  auto cb = std::make_unique<Channel>(b.get(), &reactor, ChannelOptions{idb, "test", 0, {}});
  uint32_t next = 0;
  bool order = true;
  auto count = [&](const ChannelMessage& m) { order = order && m.kind == ++next; };
  cb->SetReceiver(count);
  CHECK(ca.AddPeer(idb, to_b).ok());
  CHECK(cb->AddPeer(ida, to_a).ok());
  auto burst = [](Channel* c, MemberId to, uint32_t from, uint32_t end, const uint32_t* seen) -> Task<bool> {
    for (uint32_t i = from; i < end; ++i) {
      Status sent = c->Send(to, Generation(1), i, AsBytes("payload"));
      CHECK(sent.ok());
      if (i % 16 == 0) co_await SleepFor(Milliseconds(1));
    }
    for (int i = 0; i < 500 && *seen + 1 < end; ++i) co_await SleepFor(Milliseconds(20));
    co_return *seen + 1 == end;
  };
  CHECK(reactor.RunTask(burst(&ca, idb, 1, 1000, &next)));
  // The sockets of b go away with frames under way; a new transport takes the port, the life goes on.
  b->Forget(to_a);
  std::string address = b->LocalAddress();
  cb.reset();
  b.reset();
  uint32_t unsent = 1000;
  CHECK(ca.Send(idb, Generation(1), unsent, AsBytes("into the gap")).ok());
  io::ZmqTransportOptions options;
  options.node = NodeId(2);
  options.bind = address;
  options.keys = kb;
  options.allowed = allowed;
  auto again = io::ZmqTransport::Create(&reactor, options);
  REQUIRE(again.ok());
  // A restart is a new life: both directions start anew.
  MemberId idb2{NodeId(2), Incarnation(0), 3};
  Channel cb2(again->get(), &reactor, {idb2, "test", 0, {}});
  next = 0;
  cb2.SetReceiver(count);
  CHECK(cb2.AddPeer(ida, to_a).ok());
  ca.Forget(idb);
  CHECK(ca.AddPeer(idb2, to_b).ok());
  CHECK(reactor.RunTask(burst(&ca, idb2, 1, 1000, &next)));
  CHECK(order);
}
