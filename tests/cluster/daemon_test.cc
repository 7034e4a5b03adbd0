#include <catch2/catch.hpp>

#include <stdlib.h>

#include "cluster/daemon/mount_burial.h"
#include "cluster/daemon/mounts.h"
#include "cluster/daemon/parts.h"
#include "cluster/daemon/timeline.h"
#include "cluster/daemon/views.h"
#include "io/reactor.h"
#include "io/rocks_store.h"
#include "io/thread_pool.h"
#include "tools/print_tree.h"

using namespace holdfast;
using namespace holdfast::cluster;

namespace {

struct TemporaryStore {
  io::Reactor reactor;
  io::ThreadPool pool{1};
  std::string dir;
  std::unique_ptr<io::RocksStore> store;
  TemporaryStore() {
    char name[] = "/tmp/hf-daemon-XXXXXX";
    dir = mkdtemp(name);
    Open();
  }
  ~TemporaryStore() {
    store.reset();
    [[maybe_unused]] int rc = std::system(("rm -rf " + dir).c_str());
  }
  void Open() {
    store.reset();
    auto opened = io::RocksStore::Open(&pool, dir + "/store");
    REQUIRE(opened.ok());
    store = std::move(*opened);
  }
};

std::vector<std::pair<std::string, int64_t>> Phases(const StatusTree& history, size_t recovery) {
  std::vector<std::pair<std::string, int64_t>> out;
  const StatusTree& phases = history.children.at(0).children.at(recovery).children.at(3);
  for (const auto& p : phases.children) out.emplace_back(p.children.at(0).value, std::atoll(p.children.at(1).value.c_str()));
  return out;
}

}  // namespace

TEST_CASE("timeline: phases are counted from when the victim was last heard, in order, once", "[daemon][unit]") {
  TemporaryStore t;
  {
    ExecutorTurn turn(&t.reactor);
    Timeline timeline(t.store.get(), &t.reactor);
    Instant zero = t.reactor.clock().Now() - Milliseconds(1500);
    timeline.Note("n2.5", Phase::kFenced, "before it began: no effect");
    timeline.Begin("n2.5", "silent", zero);
    timeline.NoteAt("n2.5", Phase::kFenced, "power", zero + Milliseconds(1300));
    timeline.NoteAt("n2.5", Phase::kDetected, "", zero + Milliseconds(1000));
    timeline.NoteAt("n2.5", Phase::kDetected, "", zero + Milliseconds(1400));
    timeline.Begin("n2.5", "again", zero);
    timeline.Event("joined", "n3, incarnation 2");
    auto phases = Phases(timeline.Show(10), 0);
    CHECK(phases == std::vector<std::pair<std::string, int64_t>>{{"last heard", 0}, {"detected", 1000}, {"fenced", 1300}});
    t.reactor.RunTask(timeline.Close());
  }
  // It outlives the process.
  t.Open();
  ExecutorTurn turn(&t.reactor);
  Timeline later(t.store.get(), &t.reactor);
  t.reactor.RunTask(later.Load());
  StatusTree shown = later.Show(10);
  REQUIRE(shown.children.at(0).children.size() == 1);
  CHECK(Phases(shown, 0).back() == std::pair<std::string, int64_t>{"fenced", 1300});
  CHECK(shown.children.at(1).children.size() == 1);
  CHECK(tools::HistoryText(shown).find("+1300 ms  fenced") != std::string::npos);
}

TEST_CASE("timeline: keeps the newest and no more", "[daemon][unit]") {
  TemporaryStore t;
  ExecutorTurn turn(&t.reactor);
  Timeline timeline(t.store.get(), &t.reactor);
  for (size_t i = 0; i < Timeline::kRecoveriesMax + 20; ++i) timeline.Begin("n2." + std::to_string(i), "", Instant{});
  t.reactor.RunTask(timeline.Close());
  Timeline later(t.store.get(), &t.reactor);
  t.reactor.RunTask(later.Load());
  StatusTree shown = later.Show(100000);
  REQUIRE(shown.children.at(0).children.size() == Timeline::kRecoveriesMax);
  CHECK(shown.children.at(0).children.back().children.at(1).value == "n2." + std::to_string(Timeline::kRecoveriesMax + 19));
}

TEST_CASE("waits: the time counts from the first mention of the same thing", "[daemon][unit]") {
  io::Reactor reactor;
  ExecutorTurn turn(&reactor);
  WaitBoard board(&reactor.clock());
  board.Set("a", "a mount", "quorum");
  Instant first = reactor.clock().Now();
  while (reactor.clock().Now() - first < Milliseconds(3)) {
  }
  board.Set("a", "a mount", "quorum");
  CHECK(board.Show().at(0).since >= Milliseconds(3));
  board.Set("a", "a mount", "fencing");
  CHECK(board.Show().at(0).since < Milliseconds(3));
  board.Clear("a");
  CHECK(board.Show().empty());
}

TEST_CASE("views: members carry their nodes' keys; only the version does not make a new view", "[daemon][unit]") {
  ClusterState state;
  state.set_version(7);
  auto* ls = state.add_lockspaces();
  ls->set_name("data");
  ls->set_generation(3);
  for (uint32_t n : {1u, 2u}) {
    auto* m = ls->add_members();
    m->set_node(n);
    m->set_incarnation(1);
    m->set_nonce(100 + n);
    m->set_mount(n - 1);
    m->set_address("tcp://10.0.0." + std::to_string(n) + ":4000");
  }
  Config config;
  NodeConfig one, two;
  one.id = NodeId(1);
  two.id = NodeId(2);
  two.public_key = "the key of two";
  config.nodes = {one, two};
  dlm::View view = MakeView(state, "data", config);
  REQUIRE(view.members.size() == 2);
  CHECK(view.members[1].endpoint.public_key == "the key of two");
  CHECK(view.members[1].endpoint.node == NodeId(2));
  state.set_version(8);
  CHECK(SameView(view, MakeView(state, "data", config)));
  ls->set_generation(4);
  CHECK_FALSE(SameView(view, MakeView(state, "data", config)));
  CHECK(MakeView(state, "other", config).members.empty());
}

TEST_CASE("trees: JSON has lists, numbers and truths; text cannot move the cursor", "[daemon][unit]") {
  StatusTree tree("status");
  tree.Add("name", "123");
  tree.Add("votes", "5");
  tree.Add("quorate", "true");
  tree.Add("version", "007");
  tree.Add("bad", std::string("\xff\x1b[2J"));
  tree.Add("waiting", "[]");
  StatusTree& nodes = tree.Add("nodes", "[]");
  nodes.Add("node").Add("name", "n1");
  std::string json = tools::ToJson(tree);
  CHECK(json.find("\"name\": \"123\"") != std::string::npos);
  CHECK(json.find("\"votes\": 5") != std::string::npos);
  CHECK(json.find("\"quorate\": true") != std::string::npos);
  CHECK(json.find("\"version\": \"007\"") != std::string::npos);
  CHECK(json.find("\"waiting\": []") != std::string::npos);
  CHECK(json.find("\"nodes\": [") != std::string::npos);
  CHECK(tools::ToText(tree).find('\x1b') == std::string::npos);
  CHECK(tools::StatusText(tree).find("activity blocked") == std::string::npos);
  CHECK(tools::StatusText(StatusTree("status")).find("activity blocked") != std::string::npos);
}
