// A process that joins a lockspace as a mount does, without a filesystem: for tests of holdfastd. It holds its byte of the
// volume, prints one JSON line per thing that happens, and obeys lines on standard input: claim NODE INC NONCE, done …,
// leave, withdraw, hang (keeps the byte in a child when killed).
#include <fcntl.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "base/sync.h"
#include "cluster/client.h"
#include "io/file_device.h"
#include "io/reactor.h"

namespace holdfast {
namespace {

void Say(const std::string& line) {
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

std::string Quoted(const MemberId& id) { return "\"" + ToString(id) + "\""; }

std::string Describe(const dlm::View& view) {
  std::string text = "\"generation\": " + std::to_string(view.generation.v) + ", \"version\": " + std::to_string(view.version.v) + ", \"members\": [";
  for (size_t i = 0; i < view.members.size(); ++i) text += (i ? ", " : "") + Quoted(view.members[i].id);
  text += "], \"victims\": [";
  for (size_t i = 0; i < view.victims.size(); ++i) {
    const auto& v = view.victims[i];
    char nonce[32];
    std::snprintf(nonce, sizeof nonce, "%" PRIu64, v.id.nonce);
    text += std::string(i ? ", " : "") + "{\"id\": " + Quoted(v.id) + ", \"node\": " + std::to_string(v.id.node.v) + ", \"incarnation\": " +
            std::to_string(v.id.incarnation.v) + ", \"nonce\": \"" + nonce + "\", \"mount\": " + std::to_string(v.mount.v) +
            ", \"fenced\": " + (v.fenced ? "true" : "false") + ", \"replayed\": " + (v.replayed ? "true" : "false") +
            ", \"readers_ended\": " + (v.readers_ended ? "true" : "false") + "}";
  }
  return text + "]";
}

class Member final : public dlm::ClusterLinkHandler {
 public:
  Member(io::Reactor* reactor, const std::string& run_dir, std::string volume) : reactor_(reactor), volume_(std::move(volume)) {
    link_ = cluster::MakeClusterClient(*reactor, {run_dir}, *this);
  }
  void OnView(const dlm::View& view) override { Say("{\"event\": \"view\", " + Describe(view) + "}"); }
  void OnEvicted(std::string) override { Say("{\"event\": \"evicted\"}"); }
  void OnDaemonLost(std::string) override { Say("{\"event\": \"daemon_lost\"}"); }
  void OnStopRequested(std::string) override { Say("{\"event\": \"stop_requested\"}"); }
  dlm::LinkStatus OnStatus() override {
    dlm::LinkStatus status;
    status.waits.push_back({"a test", "its end", Seconds(1)});
    status.tree.Add("kind", "test");
    return status;
  }

  Task<void> Run(std::string cluster, std::string lockspace, uint64_t nonce) {
    dlm::JoinRequest request;
    request.cluster = cluster;
    request.lockspace = lockspace;
    request.volume_uuid = "6a3c1c8e-0000-4000-8000-000000000001";
    request.volume_url = volume_;
    request.nonce = nonce;
    request.address = "tcp://127.0.0.1:1";
    request.mounts_max = 4;
    auto joined = co_await link_->Join(request);
    if (!joined.ok()) {
      Say("{\"event\": \"refused\", \"why\": \"" + joined.error().message + "\"}");
      reactor_->Stop();
      co_return;
    }
    fd_ = ::open(volume_.c_str(), O_RDWR | O_CLOEXEC);
    Status locked = io::LockByteOf(fd_, 256 + joined->mount.v);
    life_ = joined->self.incarnation;
    page_ = joined->lease;
    Say("{\"event\": \"joined\", \"self\": " + Quoted(joined->self) + ", \"mount\": " + std::to_string(joined->mount.v) + ", \"locked\": " +
        (locked.ok() ? "true" : "false") + ", " + Describe(joined->view) + "}");
  }

  Task<void> Obey(std::string line) {
    char verb[32] = {};
    unsigned node = 0;
    unsigned long long incarnation = 0, nonce = 0;
    std::sscanf(line.c_str(), "%31s %u %llu %llu", verb, &node, &incarnation, &nonce);
    MemberId victim{NodeId(node), Incarnation(incarnation), nonce};
    std::string what = verb;
    std::string outcome = "ok";
    if (what == "claim") {
      auto claim = co_await link_->ClaimReplay(victim);
      if (!claim.ok()) outcome = std::string(ErrcName(claim.code()));
    } else if (what == "done") {
      Status done = co_await link_->ReplayDone(victim);
      if (!done.ok()) outcome = std::string(ErrcName(done.code()));
    } else if (what == "lease") {
      LeaseState state = CheckLease(*page_, life_, reactor_->clock().Now());
      outcome = state == LeaseState::kValid ? "valid" : state == LeaseState::kExpired ? "expired" : "evicted";
    } else if (what == "leave") {
      Status left = co_await link_->Leave();
      if (!left.ok()) outcome = std::string(ErrcName(left.code()));
    } else if (what == "withdraw") {
      ::close(fd_);
      std::string why = "a test";
      co_await link_->Withdrawn(why);
    }
    Say("{\"event\": \"answer\", \"to\": \"" + what + "\", \"outcome\": \"" + outcome + "\"}");
    if (what == "leave") reactor_->Stop();
  }

 private:
  io::Reactor* reactor_;
  std::string volume_;
  std::unique_ptr<dlm::ClusterLink> link_;
  int fd_ = -1;
  Incarnation life_;
  const LeasePage* page_ = nullptr;
};

}  // namespace
}  // namespace holdfast

int main(int argc, char** argv) {
  using namespace holdfast;
  if (argc != 6) return 2;  // RUN_DIR VOLUME CLUSTER LOCKSPACE NONCE
  io::Reactor reactor;
  ExecutorTurn turn(&reactor);
  Scope scope;
  Member member(&reactor, argv[1], argv[2]);
  scope.Spawn(member.Run(argv[3], argv[4], std::strtoull(argv[5], nullptr, 10)));
  std::string input;
  ::fcntl(0, F_SETFL, O_NONBLOCK);
  Status watched = reactor.Watch(0, EPOLLIN, [&](uint32_t) {
    char text[512];
    ssize_t n = ::read(0, text, sizeof text);
    if (n <= 0) return reactor.Stop();
    input.append(text, static_cast<size_t>(n));
    for (size_t end; (end = input.find('\n')) != std::string::npos; input.erase(0, end + 1)) scope.Spawn(member.Obey(input.substr(0, end)));
  });
  if (!watched.ok()) return 1;
  reactor.Run();
  std::_Exit(0);
}
