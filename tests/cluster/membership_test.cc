// Cliques, the lease, quorums and verdicts, without a world.
#include <catch2/catch.hpp>

#include "cluster/cliques.h"
#include "cluster/lease.h"
#include "cluster/membership.h"
#include "tests/sim/world.h"

using namespace holdfast;
using namespace holdfast::cluster;

namespace {

NodeSet Set(std::initializer_list<uint32_t> nodes) {
  NodeSet set;
  for (uint32_t n : nodes) Put(&set, NodeId(n));
  return set;
}

std::vector<NodeSet> Cliques(const NodeSet& nodes, std::vector<std::pair<uint32_t, uint32_t>> cut) {
  std::vector<NodeSet> links(256);
  for (NodeId a : ToNodes(nodes))
    for (NodeId b : ToNodes(nodes))
      if (a != b) links[a.v - 1].set(b.v - 1);
  for (auto [a, b] : cut) {
    links[a - 1].reset(b - 1);
    links[b - 1].reset(a - 1);
  }
  std::vector<NodeSet> out;
  ForEachClique(nodes, links, 10'000, [&](const NodeSet& set) { out.push_back(set); });
  return out;
}

ClusterState State(uint32_t nodes, uint32_t disk_votes) {
  InitClusterArgs args;
  args.cluster_name = "x";
  args.cluster_uuid = std::string(16, 'u');
  args.disk_votes = disk_votes;
  args.area_id = 7;
  for (uint32_t n = 1; n <= nodes; ++n) args.nodes.push_back({NodeId(n), "n", 1, 100 + n});
  auto state = *InitCluster(args);
  for (auto& node : *state.mutable_nodes()) {
    node.set_state(MEMBER);
    node.set_incarnation(1);
    node.set_nonce(10 + node.id());
  }
  return state;
}

// Membership of node `self`, fed by hand. Time in milliseconds.
struct Hand {
  explicit Hand(uint32_t nodes, bool disk = false, uint32_t self = 1)
      : count(nodes), self(self), random(1),
        m(NodeId(self), 10 + self, Nodes(nodes), EngineTiming{}, disk, &random) {
    m.Start(At(0));
    m.OnState(std::make_shared<ClusterState>(State(nodes, disk ? nodes - 1 : 0)), At(0));
  }
  static std::vector<NodeId> Nodes(uint32_t n) {
    std::vector<NodeId> out;
    for (uint32_t i = 1; i <= n; ++i) out.push_back(NodeId(i));
    return out;
  }
  static Instant At(int64_t ms) { return Instant{1'000'000'000} + Milliseconds(ms); }
  void Beat(uint32_t from, NodeSet hears, int64_t ms) {
    Heartbeat beat;
    beat.set_incarnation(1);
    beat.set_hears(ToBytes(hears));
    m.OnHeartbeat(NodeId(from), 10 + from, beat, At(ms));
  }
  // Everybody in `up` beats every 200 ms and hears `up` until `to`; the first eviction proposed, and when.
  Verdict Run(int64_t from, int64_t to, const NodeSet& up, int64_t* when = nullptr) {
    for (int64_t t = from; t <= to; t += 50) {
      if (t % 200 == 0)
        for (NodeId n : ToNodes(up))
          if (n.v != self) {
            NodeSet row = t < from + 600 ? up | before : up;  // the others need their time to miss one, too
            row.reset(n.v - 1);
            Beat(n.v, row, t);
          }
      auto verdict = m.Tick(At(t));
      if (verdict.kind != Verdict::Kind::kNothing) {
        if (when != nullptr) *when = t;
        return verdict;
      }
    }
    before = up;
    return {};
  }
  uint32_t count, self;
  NodeSet before;
  sim::SimRandom random;
  Membership m;
};

}  // namespace

TEST_CASE("cliques: a full mesh is one, a cut pair makes two of all but one", "[cluster][unit]") {
  CHECK(Cliques(Set({1, 2, 3, 4, 5}), {}) == std::vector{Set({1, 2, 3, 4, 5})});
  auto two = Cliques(Set({1, 2, 3, 4, 5}), {{2, 4}});
  REQUIRE(two.size() == 2);
  CHECK(two[0].count() == 4);
  CHECK(two[1].count() == 4);
  CHECK((two[0] & two[1]) == Set({1, 3, 5}));
  CHECK(Cliques(Set({1, 2, 3}), {{1, 2}, {1, 3}, {2, 3}}).size() == 3);
  CHECK(Cliques(Set({256}), {}) == std::vector{Set({256})});
  CHECK(FromBytes(ToBytes(Set({1, 9, 256}))) == Set({1, 9, 256}));
  CHECK(FromBytes("short").none());
}

TEST_CASE("quorum: votes count under the storage id that the value lists, in both sets while votes change", "[cluster][unit]") {
  auto state = State(3, 2);
  CHECK(IsQuorum(state, {{{0, 7}, {1, 101}}}, {}));
  CHECK(!IsQuorum(state, {{{0, 8}, {1, 101}}}, {}));         // another area
  CHECK(!IsQuorum(state, {{{0, 7}, {1, 999}}}, {}));         // a lost memory
  CHECK(IsQuorum(state, {{{1, 101}, {2, 102}, {3, 103}}}, {}));
  CHECK(!IsQuorum(state, {{{1, 101}, {2, 102}}}, {}));
  state.mutable_acceptors()->mutable_acceptors(1)->set_storage(0);
  CHECK(!IsQuorum(state, {{{0, 7}, {1, 0}}}, {}));           // nobody's memory is known
  // Joint consensus: the next set gives the disk nothing.
  state = State(3, 2);
  *state.mutable_acceptors_next() = State(3, 0).acceptors();
  CHECK(!IsQuorum(state, {{{0, 7}, {1, 101}}}, {}));
  CHECK(IsQuorum(state, {{{0, 7}, {1, 101}, {2, 102}}}, {}));
}

TEST_CASE("lease: runs from the sending of the newest heartbeat with a majority", "[cluster][unit]") {
  auto state = State(3, 2);
  Lease lease(Seconds(2));
  Instant t{1'000'000'000};
  lease.Sent(1, t);
  lease.Acked(1, 1, 101);
  lease.Evaluate(state);
  CHECK(lease.deadline() == Instant{});
  lease.Sent(2, t + Milliseconds(200));
  lease.Acked(2, 1, 101);
  lease.Acked(2, 2, 555);  // a lost memory acknowledges nothing
  lease.Acked(1, 2, 102);
  lease.Acked(1, 3, 103);
  lease.Evaluate(state);
  CHECK(lease.deadline() == t + Seconds(2));
  CHECK(lease.DiskWouldHelp(state, 2, 7));
  CHECK(!lease.DiskWouldHelp(state, 2, 8));
  CHECK(!lease.DiskWouldHelp(state, 1, 7));  // it has its majority
  lease.Acked(2, 0, 7);
  lease.Evaluate(state);
  CHECK(lease.deadline() == t + Milliseconds(2200));
  lease.Acked(1, 0, 7);
  lease.Evaluate(state);  // an older beat moves nothing back
  CHECK(lease.deadline() == t + Milliseconds(2200));
  lease.Drop();
  CHECK(lease.deadline() == Instant{});
}

TEST_CASE("membership: silence for the token evicts, by the lowest of the group at once", "[cluster][unit]") {
  Hand hand(3);
  CHECK(hand.Run(0, 5000, Set({1, 2, 3})).kind == Verdict::Kind::kNothing);
  int64_t when = 0;
  auto verdict = hand.Run(5050, 9000, Set({1, 2}), &when);
  REQUIRE(verdict.kind == Verdict::Kind::kEvict);
  CHECK(verdict.victims == std::vector{Life{NodeId(3), Incarnation(1)}});
  CHECK(when - 5000 >= 950);
  CHECK(when - 5000 <= 1300);
  // The second of the group waits a rank step more.
  Hand second(3, false, 2);
  second.Run(0, 5000, Set({1, 2, 3}));
  int64_t later = 0;
  second.Run(5050, 9000, Set({1, 2}), &later);
  CHECK(later >= when + 150);
  CHECK(later <= when + 300);
}

TEST_CASE("membership: the side without a majority evicts nobody", "[cluster][unit]") {
  Hand hand(3, false, 3);
  hand.Run(0, 5000, Set({1, 2, 3}));
  CHECK(hand.Run(5050, 15000, Set({3})).kind == Verdict::Kind::kNothing);
  // Half of the votes is no majority.
  Hand even(4);
  even.Run(0, 5000, Set({1, 2, 3, 4}));
  CHECK(even.Run(5050, 15000, Set({1, 2})).kind == Verdict::Kind::kNothing);
}

TEST_CASE("membership: a node whose next life speaks is evicted, though the others hear it too", "[cluster][unit]") {
  Hand hand(3);
  hand.Run(0, 5000, Set({1, 2, 3}));
  Verdict verdict;
  for (int64_t t = 5050; t <= 8000 && verdict.kind == Verdict::Kind::kNothing; t += 50) {
    if (t % 200 == 0) {
      Heartbeat next;
      next.set_incarnation(2);
      next.set_hears(ToBytes(Set({1, 3})));
      hand.m.OnHeartbeat(NodeId(2), 99, next, Hand::At(t));
      hand.Beat(3, Set({1, 2}), t);
    }
    verdict = hand.m.Tick(Hand::At(t));
  }
  REQUIRE(verdict.kind == Verdict::Kind::kEvict);
  CHECK(verdict.victims == std::vector{Life{NodeId(2), Incarnation(1)}});
}

TEST_CASE("membership: after a pause of our own nobody's silence counts", "[cluster][unit]") {
  Hand hand(3);
  hand.Run(0, 5000, Set({1, 2, 3}));
  CHECK(hand.m.Tick(Hand::At(9000)).kind == Verdict::Kind::kNothing);
  CHECK(hand.Run(9050, 9500, Set({1})).kind == Verdict::Kind::kNothing);
  CHECK(hand.Run(9550, 12000, Set({1, 2, 3})).kind == Verdict::Kind::kNothing);
}

TEST_CASE("membership: a late heartbeat of a former life does not hide the new one", "[cluster][unit]") {
  Hand hand(3);
  hand.Run(0, 5000, Set({1, 2, 3}));
  auto beat = [&](uint64_t nonce, uint64_t incarnation, int64_t ms) {
    Heartbeat message;
    message.set_incarnation(incarnation);
    message.set_hears(ToBytes(Set({1, 3})));
    hand.m.OnHeartbeat(NodeId(2), nonce, message, Hand::At(ms));
  };
  auto seen = [&] {
    Picture picture;
    hand.m.Fill(&picture, Hand::At(5100));
    return std::pair(picture.peers.at(0).nonce, picture.peers.at(0).incarnation);
  };
  beat(99, 2, 5050);
  CHECK(seen() == std::pair(uint64_t{99}, uint64_t{2}));
  beat(12, 1, 5060);
  CHECK(seen() == std::pair(uint64_t{99}, uint64_t{2}));
  beat(100, 0, 5070);  // a life that has no incarnation yet is newer
  CHECK(seen().first == 100);
}

TEST_CASE("membership: one direction cut is a cut, and only one of the two goes", "[cluster][unit]") {
  Hand hand(4);
  hand.Run(0, 5000, Set({1, 2, 3, 4}));
  Verdict verdict;
  for (int64_t t = 5050; t <= 8000 && verdict.kind == Verdict::Kind::kNothing; t += 50) {
    if (t % 200 == 0) {
      hand.Beat(2, Set({1, 3, 4}), t);
      hand.Beat(3, Set({1, 2}), t);      // 3 does not hear 4; 4 hears 3
      hand.Beat(4, Set({1, 2, 3}), t);
    }
    verdict = hand.m.Tick(Hand::At(t));
  }
  REQUIRE(verdict.kind == Verdict::Kind::kEvict);
  CHECK(verdict.victims == std::vector{Life{NodeId(4), Incarnation(1)}});
}

TEST_CASE("membership: a node alive only on the disk is seen, and the larger side decides", "[cluster][unit]") {
  Hand hand(3, true);
  int64_t t = 0;
  auto beats = [&](uint64_t sequence) {
    std::vector<DiskBeat> all;
    for (uint32_t n : {2u, 3u}) {
      DiskBeat beat;
      beat.node = NodeId(n);
      beat.nonce = 10 + n;
      beat.incarnation = 1;
      beat.sequence = sequence;
      beat.hears[0] = n == 2 ? 0b100 : 0b010;  // 2 and 3 hear each other and not us
      all.push_back(beat);
    }
    return all;
  };
  Verdict verdict;
  hand.Run(0, 1000, Set({1, 2, 3}));
  for (t = 1050; t <= 6000; t += 50) {
    if (t % 200 == 0) hand.m.OnDiskBeats(beats(static_cast<uint64_t>(t)), Hand::At(t));
    verdict = hand.m.Tick(Hand::At(t));
    REQUIRE(verdict.kind == Verdict::Kind::kNothing);  // we are the smaller side
  }
  Picture picture;
  hand.m.Fill(&picture, Hand::At(t));
  CHECK(picture.group == std::vector{NodeId(2), NodeId(3)});
  CHECK(picture.waiting == "this node is outside the best connected group");
}
