#include <catch2/catch.hpp>

#include <stdlib.h>

#include <random>

#include "base/control.pb.h"
#include "cluster/client.h"
#include "cluster/control_codec.h"
#include "cluster/lease_page.h"
#include "io/control_socket.h"
#include "io/reactor.h"

using namespace holdfast;
using namespace holdfast::cluster;

namespace {

dlm::View SomeView() {
  dlm::View view;
  view.version = RegisterVersion(9);
  view.generation = Generation(3);
  MemberId a{NodeId(1), Incarnation(2), 77}, b{NodeId(2), Incarnation(5), 78}, c{NodeId(3), Incarnation(1), 79};
  view.members.push_back({a, MountNo(0), {NodeId(1), "tcp://10.0.0.1:40000", "key"}});
  view.members.push_back({b, MountNo(1), {NodeId(2), "tcp://10.0.0.2:40000", "key2"}});
  view.victims.push_back({c, MountNo(2), true, false, true, a});
  return view;
}

struct Handler : dlm::ClusterLinkHandler {
  std::vector<dlm::View> views;
  std::string evicted, lost, stop;
  void OnView(const dlm::View& view) override { views.push_back(view); }
  void OnEvicted(std::string why) override { evicted = why; }
  void OnDaemonLost(std::string why) override { lost = why; }
  void OnStopRequested(std::string why) override { stop = why; }
  dlm::LinkStatus OnStatus() override {
    dlm::LinkStatus status;
    status.waits.push_back({"a write", "lock 1:7", Milliseconds(1500)});
    status.tree.Add("journal", "1");
    return status;
  }
};

// What holdfastd does for one mount, by hand.
struct FakeDaemon {
  std::shared_ptr<io::ControlConnection> connection;
  std::vector<control::ControlFrame> frames;
  std::function<void(const control::ControlFrame&)> on_frame;
  bool closed = false;

  void Accept(std::shared_ptr<io::ControlConnection> c) {
    connection = std::move(c);
    connection->Start(
        [this](std::span<const std::byte> packet) {
          control::ControlFrame frame;
          REQUIRE(DecodeFrame(packet, &frame).ok());
          frames.push_back(frame);
          if (on_frame) on_frame(frame);
        },
        [this] { closed = true; });
  }
  void Send(control::ControlFrame frame) { REQUIRE(connection->Send(EncodeFrame(frame)).ok()); }
};

Task<bool> Until(io::Reactor* reactor, std::function<bool()> condition) {
  Instant end = reactor->clock().Now() + Seconds(5);
  while (!condition() && reactor->clock().Now() < end) co_await SleepFor(Milliseconds(1));
  co_return condition();
}

}  // namespace

TEST_CASE("control: a view survives the wire", "[control][unit]") {
  control::View wire;
  ToProto(SomeView(), &wire);
  auto back = FromProto(wire);
  REQUIRE(back.ok());
  CHECK(*back == SomeView());
}

TEST_CASE("control: a view out of order or with impossible nodes is refused", "[control][unit]") {
  control::View wire;
  ToProto(SomeView(), &wire);
  wire.mutable_members()->SwapElements(0, 1);
  CHECK(FromProto(wire).code() == Errc::kCorrupt);
  ToProto(SomeView(), &(wire = {}));
  wire.mutable_victims(0)->mutable_id()->set_node(257);
  CHECK(FromProto(wire).code() == Errc::kCorrupt);
}

TEST_CASE("control: broken packets are errors", "[control][unit]") {
  control::ControlFrame frame;
  ToProto(SomeView(), frame.mutable_view());
  auto packet = EncodeFrame(frame);
  control::ControlFrame out;
  CHECK(DecodeFrame(packet, &out).ok());
  frame.set_protocol(2);
  auto text = frame.SerializeAsString();
  CHECK(DecodeFrame(std::as_bytes(std::span(text)), &out).code() == Errc::kUnsupported);
  std::mt19937 random(7);
  for (int i = 0; i < 20000; ++i) {
    auto damaged = packet;
    for (unsigned k = 0; k < 1 + random() % 4; ++k) damaged[random() % damaged.size()] = std::byte(random());
    damaged.resize(1 + random() % damaged.size());
    control::ControlFrame any;
    if (DecodeFrame(damaged, &any).ok() && any.has_view()) (void)FromProto(any.view());
  }
}

TEST_CASE("control: trees deeper than we print are cut", "[control][unit]") {
  control::StatusNode root;
  control::StatusNode* n = &root;
  for (int i = 0; i < 90; ++i) n = n->add_children();
  int depth = 0;
  StatusTree tree = FromProto(root);
  for (const StatusTree* t = &tree; !t->children.empty(); t = &t->children[0]) ++depth;
  CHECK(depth == 32);
}

TEST_CASE("control: a mount joins, sees views, answers for its status, claims, leaves", "[control][unit]") {
  char name[] = "/tmp/hf-control-XXXXXX";
  std::string dir = mkdtemp(name);
  auto lease = LeaseWriter::Create(dir + "/lease");
  REQUIRE(lease.ok());
  io::Reactor reactor;
  FakeDaemon daemon;
  auto server = io::ControlServer::Listen(reactor, dir + "/holdfastd.sock", [&](auto c) { daemon.Accept(std::move(c)); });
  REQUIRE(server.ok());
  CHECK(io::ControlServer::Listen(reactor, dir + "/holdfastd.sock", [](auto) {}).code() == Errc::kBusy);
  daemon.on_frame = [&](const control::ControlFrame& in) {
    control::ControlFrame out;
    out.set_number(in.number());
    if (in.has_join()) {
      auto* joined = out.mutable_joined();
      ToProto(SomeView().members[0].id, joined->mutable_self());
      joined->set_lease_path(dir + "/lease");
      ToProto(SomeView(), joined->mutable_view());
    } else if (in.has_claim_replay()) {
      ToProto(Error(Errc::kBusy, "n2 does it"), out.mutable_failure());
    } else {
      out.set_done(true);
    }
    if (in.number() != 0) daemon.Send(out);
  };
  Handler handler;
  auto client = MakeClusterClient(reactor, {dir}, handler);
  auto joined = reactor.RunTask(client->Join({.cluster = "lab", .lockspace = "data", .nonce = 77}));
  REQUIRE(joined.ok());
  CHECK(joined->view == SomeView());
  CHECK(joined->lease->magic.load() == LeasePage::kMagic);
  CHECK(daemon.connection->peer_pid() == getpid());

  control::ControlFrame push;
  dlm::View newer = SomeView();
  newer.version = RegisterVersion(12);
  ToProto(newer, push.mutable_view());
  daemon.Send(push);
  dlm::View older = SomeView();
  older.version = RegisterVersion(8);
  ToProto(older, (push = {}).mutable_view());
  daemon.Send(push);
  control::ControlFrame ask;
  ask.set_number(501);
  ask.set_mount_status_request(true);
  daemon.Send(ask);
  CHECK(reactor.RunTask(Until(&reactor, [&] { return daemon.frames.size() == 2; })));
  CHECK(handler.views == std::vector<dlm::View>{newer});
  REQUIRE(daemon.frames[1].has_mount_status());
  auto status = FromProto(daemon.frames[1].mount_status());
  CHECK(status.waits.at(0).on == "lock 1:7");
  CHECK(status.waits.at(0).since.ms() == 1500);

  auto claim = reactor.RunTask(client->ClaimReplay(SomeView().victims[0].id));
  CHECK(claim.code() == Errc::kBusy);
  CHECK(claim.error().message == "n2 does it");
  CHECK(reactor.RunTask(client->ReplayDone(SomeView().victims[0].id)).ok());

  SECTION("a clean leave is no loss of the daemon") {
    CHECK(reactor.RunTask(client->Leave()).ok());
    CHECK(reactor.RunTask(Until(&reactor, [&] { return daemon.closed; })));
    CHECK(handler.lost.empty());
  }
  SECTION("holdfastd's end is told once, and later calls fail") {
    daemon.connection->Close();
    CHECK(reactor.RunTask(Until(&reactor, [&] { return !handler.lost.empty(); })));
    CHECK(reactor.RunTask(client->ReplayDone(SomeView().victims[0].id)).code() == Errc::kDisconnected);
  }
  SECTION("an eviction is told") {
    control::ControlFrame evicted;
    evicted.set_evicted("n1 did not answer");
    daemon.Send(evicted);
    CHECK(reactor.RunTask(Until(&reactor, [&] { return handler.evicted == "n1 did not answer"; })));
  }
  client.reset();
  server->reset();
  [[maybe_unused]] int rc = std::system(("rm -rf " + dir).c_str());
}

TEST_CASE("control: without holdfastd a join fails with words", "[control][unit]") {
  io::Reactor reactor;
  Handler handler;
  auto client = MakeClusterClient(reactor, {"/tmp/hf-none"}, handler);
  auto joined = reactor.RunTask(client->Join({}));
  CHECK(joined.code() == Errc::kDisconnected);
  CHECK(joined.error().message.find("/tmp/hf-none") != std::string::npos);
}
