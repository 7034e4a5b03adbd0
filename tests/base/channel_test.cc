// The channel on the simulated network: in order, exactly once, whatever the weather and whoever restarts.
#include <catch2/catch.hpp>

#include <cstring>
#include <map>

#include "base/channel.h"

#include "tests/sim/network.h"
#include "tests/sim/seeds.h"
#include "tests/sim/world.h"

using namespace holdfast;
using namespace holdfast::sim;

namespace {

// One life of a process that numbers what it sends to each peer and checks what it gets.
struct Party {
  SimExecutor* executor;
  std::unique_ptr<SimTransport> transport;
  std::unique_ptr<Channel> channel;
  std::map<MemberId, uint64_t> sent, got;
  std::string wrong;

  Party(World& world, SimNetwork& network, MemberId id, ChannelKnobs knobs = {}) {
    executor = &world.Start(id.node);
    transport = network.Listen(*executor);
    channel = std::make_unique<Channel>(transport.get(), executor, ChannelOptions{id, "test", 7, knobs});
    channel->SetReceiver([this](const ChannelMessage& m) {
      uint64_t value = 0;
      if (m.body.size() < 8) wrong = "short body";
      else std::memcpy(&value, m.body.data(), 8);
      if (value != ++got[m.from])
        wrong = ToString(channel->self()) + " got " + std::to_string(value) + " from " + ToString(m.from) + ", expected " +
                std::to_string(got[m.from]);
      if (m.kind != value % 1000 || m.generation.v != value / 10) wrong = "kind or generation is not what was sent";
    });
  }
  const MemberId& id() const { return channel->self(); }
  void Send(const MemberId& to, size_t size = 8) {
    uint64_t value = ++sent[to];
    std::vector<std::byte> body(std::max<size_t>(size, 8), std::byte(1));
    std::memcpy(body.data(), &value, 8);
    executor->Post([this, to, value, body] {
      Status s = channel->Send(to, Generation(value / 10), static_cast<uint32_t>(value % 1000), body);
      if (!s.ok()) wrong = s.error().ToString();
    });
  }
};

MemberId Life(uint32_t node, uint64_t nonce) { return {NodeId(node), Incarnation(1), nonce}; }

void Introduce(Party& a, Party& b) {
  CHECK(a.channel->AddPeer(b.id(), b.transport->endpoint()).ok());
  CHECK(b.channel->AddPeer(a.id(), a.transport->endpoint()).ok());
}

// Three processes talk through bad weather; some die and come back as new lives, known to the others at once or late.
std::string Storm(uint64_t seed, uint64_t* hash) {
  World world(seed);
  SimRandom& random = world.random();
  SimNetwork network(&world, NetworkKnobs::Random(random));
  network.knobs().loss = static_cast<uint32_t>(random.Below(kMillion / 4));
  ChannelKnobs knobs;
  if (random.Chance(kMillion / 3)) knobs.window_bytes = 500;
  if (random.Chance(kMillion / 3)) knobs.frame_bytes_max = 200;
  if (random.Chance(kMillion / 3)) knobs.early_bytes_max = 1000;
  std::vector<std::unique_ptr<Party>> parties;
  uint64_t nonce = 100;
  for (uint32_t n = 1; n <= 3; ++n) parties.push_back(std::make_unique<Party>(world, network, Life(n, ++nonce), knobs));
  auto introduce_all = [&](size_t who) {
    for (size_t i = 0; i < parties.size(); ++i) {
      if (i == who) continue;
      Party *a = parties[i].get(), *b = parties[who].get();
      // The two learn of each other at different times.
      a->executor->PostAt(a->executor->clock().Now() + random.Between(Duration{0}, Milliseconds(300)), [a, b] {
        (void)a->channel->AddPeer(b->id(), b->transport->endpoint());
      });
      (void)b->channel->AddPeer(a->id(), a->transport->endpoint());
    }
  };
  for (size_t i = 0; i < 3; ++i)
    for (size_t j = 0; j < i; ++j) {
      (void)parties[i]->channel->AddPeer(parties[j]->id(), parties[j]->transport->endpoint());
      (void)parties[j]->channel->AddPeer(parties[i]->id(), parties[i]->transport->endpoint());
    }
  for (int step = 0; step < 60; ++step) {
    for (auto& p : parties)
      for (auto& q : parties)
        if (p != q && p->channel->HasPeer(q->id()))
          for (uint64_t k = random.Below(6); k > 0; --k) p->Send(q->id(), random.Below(300));
    world.RunFor(random.Between(Duration{0}, Milliseconds(100)));
    if (random.Chance(kMillion / 20)) network.CutOneWay(NodeId(1 + static_cast<uint32_t>(random.Below(3))), NodeId(1 + static_cast<uint32_t>(random.Below(3))));
    if (random.Chance(kMillion / 10)) network.HealAll();
    if (random.Chance(kMillion / 20)) {
      size_t who = random.Below(3);
      std::unique_ptr<Party> dead = std::move(parties[who]);
      dead->executor->Crash();
      parties[who] = std::make_unique<Party>(world, network, Life(static_cast<uint32_t>(who + 1), ++nonce), knobs);
      for (auto& p : parties)
        if (p != parties[who]) p->channel->Forget(dead->id());
      if (!dead->wrong.empty()) return dead->wrong;
      world.Abandon(std::move(dead));
      introduce_all(who);
    }
  }
  network.HealAll();
  network.knobs() = NetworkKnobs{};
  world.RunFor(Seconds(30));
  for (auto& p : parties) {
    if (!p->wrong.empty()) return p->wrong;
    for (auto& q : parties)
      if (p != q && (p->sent[q->id()] != q->got[p->id()] || p->channel->Unacknowledged(q->id()) != 0))
        return ToString(p->id()) + " sent " + std::to_string(p->sent[q->id()]) + ", " + ToString(q->id()) + " got " +
               std::to_string(q->got[p->id()]) + "\n" + p->channel->Dump() + q->channel->Dump();
  }
  *hash = world.trace_hash();
  return "";
}

}  // namespace

TEST_CASE("channel: in order, exactly once, in any weather, with restarts", "[channel][sim]") {
  SeedOptions options;
  options.count = 1000;
  SeedReport report = RunSeeds(options, [](uint64_t seed) {
    uint64_t first = 0, second = 0;
    std::string what = Storm(seed, &first);
    if (what.empty() && seed % 20 == 0) {
      what = Storm(seed, &second);
      if (what.empty() && first != second) what = "the same seed ran differently";
    }
    return what;
  });
  INFO(report.ToString());
  CHECK(report.ok());
}

TEST_CASE("channel: messages of one turn leave in one frame", "[channel][unit]") {
  World world(1);
  SimNetwork network(&world);
  Party a(world, network, Life(1, 1)), b(world, network, Life(2, 2));
  Introduce(a, b);
  a.executor->Post([&] {
    for (uint64_t i = 1; i <= 50; ++i) CHECK(a.channel->Send(b.id(), Generation(i / 10), static_cast<uint32_t>(i), std::as_bytes(std::span(&i, 1))).ok());
  });
  world.RunFor(Milliseconds(10));
  CHECK(b.got[a.id()] == 50);
  CHECK(b.wrong.empty());
  CHECK(a.channel->stats().frames_sent == 1);
}

TEST_CASE("channel: silence is reported once, and taken back", "[channel][unit]") {
  World world(1);
  SimNetwork network(&world);
  Party a(world, network, Life(1, 1)), b(world, network, Life(2, 2));
  Introduce(a, b);
  std::string log;
  a.channel->SetWatcher([&](const MemberId& peer, bool gone) {
    CHECK(peer == b.id());
    log += gone ? "gone " : "back ";
  });
  world.RunFor(Seconds(20));
  CHECK(log.empty());  // nothing to say is not silence
  network.Cut(NodeId(1), NodeId(2));
  a.Send(b.id());
  world.RunFor(Seconds(20));
  CHECK(log == "gone ");
  network.HealAll();
  world.RunFor(Seconds(5));
  CHECK(log == "gone back ");
  CHECK(b.got[a.id()] == 1);
}

TEST_CASE("channel: what a forgotten life sent is dropped, and it does not come back", "[channel][unit]") {
  World world(1);
  SimNetwork network(&world);
  Party a(world, network, Life(1, 1)), b(world, network, Life(2, 2));
  Introduce(a, b);
  a.Send(b.id());
  world.RunFor(Microseconds(1));  // on its way
  b.channel->Forget(a.id());
  world.RunFor(Seconds(5));
  CHECK(b.got.empty());
  CHECK(b.channel->stats().strangers > 0);
  CHECK(b.channel->AddPeer(a.id(), a.transport->endpoint()).code() == Errc::kStale);
  Status sent = b.channel->Send(a.id(), Generation(1), 1, {});
  CHECK(sent.code() == Errc::kNotFound);
}

TEST_CASE("channel: a full buffer is an error, not memory", "[channel][unit]") {
  World world(1);
  SimNetwork network(&world);
  ChannelKnobs knobs;
  knobs.buffer_bytes_max = 10'000;
  Party a(world, network, Life(1, 1), knobs), b(world, network, Life(2, 2));
  Introduce(a, b);
  network.Cut(NodeId(1), NodeId(2));
  world.RunFor(Milliseconds(1));
  Errc last = Errc::kOk;
  std::vector<std::byte> body(1000);
  for (int i = 0; i < 20; ++i) last = a.channel->Send(b.id(), Generation(1), 1, body).code();
  CHECK(last == Errc::kExhausted);
  CHECK(a.channel->Unacknowledged(b.id()) < 11);
}

TEST_CASE("channel: datagrams arrive without an introduction and carry the life of their sender", "[channel][unit]") {
  World world(1);
  SimNetwork network(&world);
  Party a(world, network, Life(1, 1)), b(world, network, Life(2, 2));
  std::string got;
  b.channel->SetDatagramReceiver([&](const ChannelMessage& m) {
    CHECK(m.from == a.id());
    CHECK(m.kind == 9);
    got = AsText(m.body);
  });
  a.channel->SendDatagram(b.transport->endpoint(), 9, AsBytes("hello"));
  world.RunFor(Seconds(1));
  CHECK(got == "hello");
}

TEST_CASE("channel: hostile bytes are counted and dropped", "[channel][fuzz][unit]") {
  World world(1);
  SimNetwork network(&world);
  Party a(world, network, Life(1, 1)), b(world, network, Life(2, 2));
  Introduce(a, b);
  // A wire-tap keeps real frames; they come back truncated, changed, and from the wrong node.
  SimExecutor& tap = world.Start(NodeId(2));
  auto tapped = network.Listen(tap);
  std::vector<std::byte> real;
  tapped->SetReceiver([&](NodeId, std::span<const std::byte> f) { real.assign(f.begin(), f.end()); });
  MemberId ghost = Life(2, 2);
  CHECK(a.channel->AddPeer(ghost, tapped->endpoint()).ok());
  a.Send(ghost, 100);
  world.RunFor(Milliseconds(50));
  REQUIRE(!real.empty());
  CHECK(a.channel->AddPeer(ghost, b.transport->endpoint()).ok());
  SimExecutor& evil = world.Start(NodeId(3));
  auto attacker = network.Listen(evil);
  attacker->Send(b.transport->endpoint(), real);  // node 3 says that it is node 1
  world.RunFor(Milliseconds(10));
  CHECK(b.channel->stats().refused == 1);
  SimExecutor& twin = world.Start(NodeId(1));
  auto same_node = network.Listen(twin);
  SimRandom random(99);
  for (int i = 0; i < 20'000; ++i) {
    std::vector<std::byte> bad = real;
    if (random.Chance(kMillion / 2)) bad.resize(random.Below(bad.size() + 1));
    for (uint64_t k = random.Below(4); k > 0 && !bad.empty(); --k) bad[random.Below(bad.size())] = std::byte(random.Below(256));
    same_node->Send(b.transport->endpoint(), bad);
    if (i % 100 == 0) world.RunFor(Milliseconds(1));
  }
  world.RunFor(Seconds(2));
  CHECK(b.channel->stats().refused > 1000);
}
