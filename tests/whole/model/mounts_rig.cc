#include "tests/whole/model/mounts_rig.h"

#include "fs/check.h"
#include "mkfs/make_volume.h"

namespace holdfast::whole {
namespace {

constexpr uint64_t kVolumeBytes = uint64_t{64} << 20;

const sim::DiskImage& FreshVolume(uint32_t journals) {
  static std::map<uint32_t, sim::DiskImage> made;
  auto it = made.find(journals);
  if (it != made.end()) return it->second;
  sim::World world(1);
  sim::SimDisk disk(&world, kVolumeBytes);
  auto& executor = world.Start(NodeId(1));
  auto session = disk.Open(executor);
  mkfs::MakeVolumeOptions options;
  options.journals = journals;
  options.journal_mib = 1;
  options.quorum_area = false;
  options.now = {1'700'000'000, 0};
  auto super = world.Run(executor, mkfs::MakeVolume(*session, options, world.random()));
  HF_CHECK(super.ok(), "mkfs: %s", super.error().ToString().c_str());
  return made.emplace(journals, disk.image()).first->second;
}

// Nobody dies here: nothing is ever claimed.
class QuietLink final : public dlm::ClusterLink {
 public:
  Task<Result<dlm::Joined>> Join(dlm::JoinRequest) override { co_return Errc::kUnsupported; }
  Task<Result<dlm::ReplayClaim>> ClaimReplay(MemberId) override { co_return Errc::kNotFound; }
  Task<Status> ReplayDone(MemberId) override { co_return Status(); }
  Task<Status> Leave() override { co_return Status(); }
  Task<void> Withdrawn(std::string) override { co_return; }
  void ReportStep(MemberId, dlm::RecoveryStep, std::string) override {}
};

struct Node {
  MemberId id;
  sim::SimExecutor* executor = nullptr;
  std::unique_ptr<sim::SimTransport> transport;
  std::unique_ptr<Channel> channel;
  std::unique_ptr<dlm::LockSpace> space;
  std::unique_ptr<sim::SimDiskSession> session;
  QuietLink link;
  std::unique_ptr<fs::Mount> mount;
  bool up = false, down = false;
};

class Rig {
 public:
  Rig(uint64_t seed, const RigKnobs& knobs)
      : world_(seed), knobs_(knobs), network_(&world_, knobs.network), disk_(&world_, FreshVolume(knobs.mounts), knobs.disk),
        workload_(std::make_unique<Workload>(&world_, knobs.work)) {}

  RigResult Run() {
    RigResult result;
    result.wrong = Steps();
    result.dump = workload_->Dump();
    result.trace_hash = world_.trace_hash();
    result.operations = workload_->operations();
    // Coroutines refer to all of it to the end.
    world_.Abandon(std::move(workload_));
    for (auto& node : nodes_) world_.Abandon(std::move(node));
    return result;
  }

 private:
  std::string Steps() {
    Join();
    for (auto& node : nodes_) node->executor->Spawn(Start(node.get()));
    bool ended = Until([this] { return AllUp() && workload_->Idle(); }, knobs_.length);
    if (!Wrong().empty()) return Wrong();
    if (!ended) return "no progress: applications have not ended in " + std::to_string(knobs_.length.ms()) + " ms";
    for (auto& node : nodes_) {
      bool done = false;
      node->executor->Spawn(Final(node.get(), &done));
      ended = Until([&done] { return done; }, Seconds(60));
      if (!Wrong().empty()) return Wrong();
      if (!ended) return "no progress in reading everything at the end";
    }
    if (!workload_->Verify().empty()) return workload_->Verify();
    for (auto& node : nodes_) node->executor->Spawn(Stop(node.get()));
    ended = Until([this] { return std::all_of(nodes_.begin(), nodes_.end(), [](auto& n) { return n->down; }); }, Seconds(60));
    if (!Wrong().empty()) return Wrong();
    if (!ended) return "no progress: unmounting";
    return Check();
  }

  void Join() {
    dlm::View view;
    view.version = RegisterVersion(1);
    view.generation = Generation(1);
    for (uint32_t n = 1; n <= knobs_.mounts; ++n) {
      auto node = std::make_unique<Node>();
      node->id = {NodeId(n), Incarnation(1), world_.random().Next() | 1};
      node->executor = &world_.Start(NodeId(n));
      node->transport = network_.Listen(*node->executor);
      node->session = disk_.Open(*node->executor);
      ExecutorTurn turn(node->executor);
      ChannelOptions options;
      options.self = node->id;
      options.cluster = "c";
      options.lockspace = 7;
      node->channel = std::make_unique<Channel>(node->transport.get(), node->executor, options);
      node->space = dlm::MakeLockSpace(*node->executor, node->channel.get(), node->id);
      view.members.push_back({node->id, MountNo(n - 1), node->transport->endpoint()});
      nodes_.push_back(std::move(node));
    }
    for (auto& node : nodes_) {
      Node* n = node.get();
      n->executor->Post([n, view] { n->space->SetView(view); });
    }
  }

  Task<void> Start(Node* n) {
    auto recovered = co_await n->space->Recovered(Generation(1));
    HF_CHECK(recovered.ok(), "the first view is not in force");
    fs::MountOptions options;
    options.device = n->session.get();
    options.executor = n->executor;
    options.space = n->space.get();
    options.link = &n->link;
    options.owner = {n->id.node, n->id.incarnation, n->id.nonce, MountNo(n->id.node.v - 1)};
    options.lock_knobs = knobs_.locks;
    n->mount = std::make_unique<fs::Mount>(options);
    n->mount->SetOnFatal([this, n](Error why) { fatal_ = "mount " + std::to_string(n->id.node.v) + " withdraws: " + why.ToString(); });
    auto started = co_await n->mount->Start();
    if (!started.ok()) {
      fatal_ = "mount " + std::to_string(n->id.node.v) + ": " + started.error().ToString();
      co_return;
    }
    workload_->Attach(n->id.node, n->mount.get(), n->executor);
    n->up = true;
  }

  Task<void> Final(Node* n, bool* done) {
    co_await workload_->FinalCheck(n->id.node);
    *done = true;
  }

  Task<void> Stop(Node* n) {
    co_await workload_->Detach(n->id.node);
    auto stopped = co_await n->mount->Stop();
    if (!stopped.ok()) fatal_ = "unmounting: " + stopped.error().ToString();
    n->down = true;
  }

  std::string Check() {
    auto& executor = world_.Start(NodeId(99));
    auto session = disk_.Open(executor);
    auto report = world_.Run(executor, fs::CheckVolume(*session, fs::CheckOptions{}));
    if (!report.ok()) return "fsck: " + report.error().ToString();
    if (!report->clean()) return "fsck: " + report->findings.front().text;
    world_.Abandon(std::move(session));
    return "";
  }

  std::string Wrong() const { return !fatal_.empty() ? fatal_ : workload_->Violation(); }
  bool AllUp() const {
    return std::all_of(nodes_.begin(), nodes_.end(), [](auto& n) { return n->up; });
  }
  bool Until(std::function<bool()> condition, Duration limit) {
    std::function<bool()> either = [&] { return !Wrong().empty() || condition(); };
    return world_.RunUntil(either, limit);
  }

  sim::World world_;
  RigKnobs knobs_;
  sim::SimNetwork network_;
  sim::SimDisk disk_;
  std::unique_ptr<Workload> workload_;
  std::vector<std::unique_ptr<Node>> nodes_;
  std::string fatal_;
};

}  // namespace

RigKnobs RigKnobs::Random(sim::SimRandom& random, uint32_t mounts) {
  RigKnobs knobs;
  knobs.mounts = mounts;
  knobs.work = WorkloadKnobs::Random(random);
  knobs.disk.slow = 500;
  knobs.disk.slow_max = Milliseconds(20);
  // Locks that go at once meet replies under way; locks that are held long meet batches.
  // (The maximum stays: with little to hold, a page can be taken away before the store that it was read for, for ever.)
  if (random.Below(2) == 0) knobs.locks.min_hold_floor = Microseconds(static_cast<int64_t>(1 + random.Below(500)));
  return knobs;
}

RigResult RunRig(uint64_t seed, const RigKnobs& knobs) {
  // Frames and coroutines live on; the rig itself too, since a late event may look at it.
  auto rig = std::make_unique<Rig>(seed, knobs);
  RigResult result = rig->Run();
  return result;
}

RigResult RunRig(uint64_t seed, uint32_t mounts) {
  sim::SimRandom random(seed ^ 0x77a1);
  return RunRig(seed, RigKnobs::Random(random, mounts));
}

}  // namespace holdfast::whole
