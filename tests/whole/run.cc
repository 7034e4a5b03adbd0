#include "tests/whole/run.h"

#include <cstdio>

#include "base/log.h"
#include "base/mutants.h"
#include "dlm/standalone.h"
#include "fs/check.h"
#include "tests/whole/cluster.h"
#include "tests/whole/model/workload.h"
#include "tests/whole/plan.h"
#include "tests/whole/value_clients.h"

namespace holdfast::whole {
namespace {

class Runner {
 public:
  explicit Runner(const RunOptions& options)
      : options_(options), world_(options.seed), plan_(MakePlan(options.seed, options.scenario, options.nodes)) {
    if (options.model) {
      clients_ = std::make_unique<Workload>(&world_, WorkloadKnobs::Random(world_.random()));
    } else {
      clients_ = MakePlainClients(&world_);
    }
    clients_ = MakeValueClients(&world_, std::move(clients_), [this](NodeId n) { return cluster_->machine(n).mount->space(); });
    cluster_ = std::make_unique<Cluster>(&world_, plan_.cluster, clients_.get());
    cluster_->after_replay = [this] { SnapshotAfterReplay(); };
    if (options.trace) SetLogSink([this](LogLevel, const std::string& line) { Trace(line); });
  }

  RunResult Go() {
    bool good = cluster_->Form(Seconds(60));
    Say("formed");
    if (good) good = Faults();
    if (good) good = Heal();
    if (good) good = End();
    RunResult result;
    result.wrong = Wrong();
    result.trace_hash = world_.trace_hash();
    result.events = world_.events();
    result.operations = clients_->operations() + cluster_->register_users().operations();
    result.replays = cluster_->checker().replays();
    result.evictions = cluster_->checker().evictions();
    result.grants = cluster_->checker().grants();
    result.nodes = plan_.cluster.nodes;
    result.faults = plan_.faults.size();
    result.virtual_time = world_.now() - Instant{1'000'000'000};
    result.story = story_;
    if (!result.wrong.empty()) result.story += cluster_->Dump();
    // Lives refer to each other to the end.
    world_.Abandon(std::move(cluster_));
    world_.Abandon(std::move(clients_));
    return result;
  }

 private:
  const std::string& Wrong() {
    if (options_.broken && broken_.empty()) broken_ = options_.broken();
    if (!broken_.empty()) return broken_;
    const std::string& a = cluster_->checker().violation();
    if (!cluster_->register_users().violation().empty()) return cluster_->register_users().violation();
    return a.empty() ? clients_->Violation() : a;
  }
  void Fail(const std::string& what) { cluster_->checker().Violate(what); }
  void Say(const std::string& what) {
    story_ += std::to_string(world_.now().ns / 1'000'000) + " ms: " + what + "\n";
    HF_LOG(LogLevel::kInfo, "sim", "phase", {{"what", what}});
  }
  // The world's time and whose turn it is instead of the wall's time.
  void Trace(const std::string& line) const {
    size_t space = line.find(' ');
    auto* executor = static_cast<sim::SimExecutor*>(Executor::CurrentOrNull());
    std::string who = executor ? "n" + std::to_string(executor->node().v) + "/" + std::to_string(executor->id()) : "-";
    std::fprintf(stderr, "%9.3f %-6s%s\n", static_cast<double>(world_.now().ns) / 1e9, who.c_str(), line.c_str() + (space == std::string::npos ? 0 : space));
  }
  bool RunTo(Instant when) {
    return !world_.RunUntil([this] { return !Wrong().empty(); }, when - world_.now());
  }

  bool Faults() {
    cluster_->network.knobs() = plan_.cluster.network;
    cluster_->disk->knobs() = plan_.cluster.disk;
    cluster_->disk->knobs().goes_with_holder = HF_MUTANT(kTypeFive);
    Instant begin = world_.now();
    for (uint64_t i = 0; i < 2; ++i) world_.After(world_.random().Between(Milliseconds(100), plan_.length), [this] { Snapshot(); });
    for (size_t i = 0; i < plan_.faults.size(); ++i) {
      const Fault& fault = plan_.faults[i];
      if (!RunTo(begin + fault.at)) return false;
      if (options_.drop.contains(i) || options_.without.contains(FaultName(fault.kind))) continue;
      Say("fault " + std::to_string(i) + ": " + ToString(fault));
      Do(fault);
    }
    return RunTo(begin + plan_.length);
  }

  void Later(Duration after, std::function<void()> fn) { world_.After(after, std::move(fn)); }

  void Do(const Fault& f) {
    Cluster* c = cluster_.get();
    NodeId a = f.a, b = f.b;
    switch (f.kind) {
      case FaultKind::kPowerOff:
        c->PowerOff(a);
        Later(f.length, [c, a] { c->PowerOn(a); });
        break;
      case FaultKind::kKillDaemon: c->KillDaemon(a); break;
      case FaultKind::kKillMount: c->KillMount(a); break;
      case FaultKind::kPause:
        if (!c->machine(a).on || world_.paused(a)) break;
        c->Pause(a);
        Later(f.length, [c, a] { c->Resume(a); });
        break;
      case FaultKind::kCut:
        c->network.Cut(a, b);
        Later(f.length, [c, a, b] { c->network.Heal(a, b); });
        break;
      case FaultKind::kCutOneWay:
        c->network.CutOneWay(a, b);
        Later(f.length, [c, a, b] { c->network.Heal(a, b); });
        break;
      case FaultKind::kIsolate:
        for (NodeId n : c->nodes())
          if (n != a) c->network.Cut(a, n);
        Later(f.length, [c, a] {
          for (NodeId n : c->nodes()) c->network.Heal(a, n);
        });
        break;
      case FaultKind::kDiskPath:
        c->disk->CutPath(a);
        Later(f.length, [c, a] { c->disk->HealPath(a); });
        break;
      case FaultKind::kSwitch: c->machine(a).power = f.how; break;
      case FaultKind::kRemount:
        c->Unmount(a);
        Later(f.length, [c, a] { c->machine(a).want_mount = true; });
        break;
      case FaultKind::kRejoin:
        c->Leave(a);
        Later(f.length, [c, a] { c->machine(a).want_mount = c->machine(a).want_daemon = true; });
        break;
      case FaultKind::kWipe:  // its store is lost; one memory per seed, more could be a majority
        if (wiped_) break;
        wiped_ = true;
        c->PowerOff(a);
        c->machine(a).medium.Wipe();
        Later(f.length, [c, a] { c->PowerOn(a); });
        break;
      case FaultKind::kBlackout:
        for (NodeId n : c->nodes()) c->PowerOff(n);
        c->disk->knobs().keep = f.b.v % 2 == 0 ? 500'000 : 950'000;
        c->disk->PowerLoss();
        if (!c->disk->knobs().persist_through_power_loss) c->checker().KeysLost();
        for (NodeId n : c->nodes())
          Later(world_.random().Between(Milliseconds(100), f.length), [c, n] { c->PowerOn(n); });
        break;
      case FaultKind::kDiskErrors:
        for (NodeId n : c->nodes())
          if (a.v == 0 || a == n) clients_->DiskErrors(n);
        c->disk->SetTrouble(a, {.error = f.share});
        Later(f.length, [c, a] { c->disk->SetTrouble(a, {}); });
        break;
      case FaultKind::kDiskHangs:
        c->disk->SetTrouble(a, {.hang = f.share});
        Later(f.length, [c, a] { c->disk->SetTrouble(a, {}); });
        break;
      case FaultKind::kArrayPower:  // under living mounts
        c->disk->knobs().keep = f.share;
        c->disk->PowerLoss();
        if (!c->disk->knobs().persist_through_power_loss) c->checker().KeysLost();
        break;
      case FaultKind::kClog:
        c->network.Clog(a, b);
        if (f.share % 40'000 == 0) c->network.Clog(b, a);
        Later(f.length, [c, a, b] {
          c->network.Unclog(a, b);
          c->network.Unclog(b, a);
        });
        break;
    }
  }

  bool Heal() {
    Say("healing");
    cluster_->network.HealAll();
    cluster_->network.UnclogAll();
    cluster_->disk->EndTroubles();
    cluster_->network.knobs() = {};
    sim::DiskKnobs calm;
    calm.slow = 0;
    calm.volatile_cache = cluster_->disk->knobs().volatile_cache;
    calm.preempt_and_abort = cluster_->disk->knobs().preempt_and_abort;
    calm.persist_through_power_loss = cluster_->disk->knobs().persist_through_power_loss;
    cluster_->disk->knobs() = calm;
    for (NodeId n : cluster_->nodes()) {
      Machine& m = cluster_->machine(n);
      cluster_->Resume(n);
      cluster_->disk->HealPath(n);
      m.power = Switch::kWorks;
      m.stays_off = false;
      m.want_daemon = m.want_mount = true;
      cluster_->PowerOn(n);
    }
    // What a fault had begun (a clean leave, a late power switch) may still end: it must be well for a second and a half.
    Instant limit = world_.now() + Seconds(90);
    uint64_t looked = ~0ull;
    bool was_well = false;
    auto well = [&, this] {  // asked after each event, looked at once a millisecond
      uint64_t now = world_.now().ns / 1'000'000;
      if (now != looked) was_well = cluster_->AllMounted() && cluster_->NothingOwed();
      looked = now;
      return was_well;
    };
    for (bool lasts = false; !lasts && Wrong().empty();) {
      bool came = world_.RunUntil([&] { return !Wrong().empty() || well(); }, Seconds(5));
      if (!came && world_.now() >= limit) Fail("liveness: after healing not everybody is mounted in 90 s");
      if (!came) {  // a late power switch may have hit a node that nobody fences, so nobody switches it on
        for (NodeId n : cluster_->nodes())
          if (cluster_->machine(n).boot_at.ns == 0) cluster_->PowerOn(n);
        continue;
      }
      lasts = !world_.RunUntil([&] { return !Wrong().empty() || !well(); }, Milliseconds(1500));
    }
    if (!Wrong().empty()) return false;
    Say("healed");
    if (!RunTo(world_.now() + Milliseconds(500))) return false;
    clients_->Quiesce();
    cluster_->register_users().Quiesce();
    bool idle = world_.RunUntil([this] { return !Wrong().empty() || clients_->Idle(); }, Seconds(60));
    if (!idle) Fail("liveness: operations do not end in 60 s after healing");
    return Wrong().empty();
  }

  // On a mount that may be lost meanwhile; false: it did not end in time.
  bool OnNode(NodeId node, Task<void> task, Duration limit) {
    MountLife* mount = cluster_->machine(node).mount;
    if (!mount) return false;
    auto* done = new bool(false);
    auto* root = new Task<void>(std::move(task));
    mount->executor->Spawn(Mark(root, done));
    return world_.RunUntil([&] { return *done || !Wrong().empty(); }, limit);
  }
  static Task<void> Mark(Task<void>* task, bool* done) {
    co_await std::move(*task);
    *done = true;
  }

  bool End() {
    for (NodeId n : cluster_->nodes()) {
      if (!OnNode(n, clients_->FinalCheck(n), Seconds(60))) Fail("liveness: the final check on n" + std::to_string(n.v) + " does not end");
      if (!Wrong().empty()) return false;
    }
    std::string verdict = clients_->Verify();
    if (!verdict.empty()) {
      Fail(verdict);
      return false;
    }
    for (NodeId n : cluster_->nodes()) cluster_->Unmount(n);
    bool out = world_.RunUntil([this] {
      if (!Wrong().empty()) return true;
      bool all = true;
      for (NodeId n : cluster_->nodes()) {
        if (cluster_->MountUp(n)) cluster_->Unmount(n);  // one that came up late, after a command that had hung
        all = all && !cluster_->machine(n).mount;
      }
      return all;
    }, Seconds(60));
    if (!out) Fail("liveness: not all mounts could be unmounted in 60 s");
    if (!Wrong().empty()) return false;
    Say("unmounted");
    Fsck(true);
    return Wrong().empty();
  }

  // After a recovery: what the volume would be if everything lost power now, with the journals as they are.
  void SnapshotAfterReplay() {
    if (snapshots_ >= 2 || world_.random().Chance(500'000)) return;
    const cluster::Lockspace* ls = cluster_->checker().lockspace();
    for (int i = 0; ls && i < ls->victims_size(); ++i)
      if (!ls->victims(i).replayed()) return;
    ++snapshots_;
    Snapshot();
  }
  // Of any moment: nothing is owed that a replay of all journals would not bring.
  void Snapshot() {
    if (!Wrong().empty()) return;
    sim::SimRandom random(world_.random().Next());
    static constexpr uint32_t kKeep[] = {500'000, 100'000, 900'000, 980'000};
    cluster_->disk->knobs().keep = kKeep[random.Below(4)];
    auto* world = new sim::World(1);  // its own: the clock of ours stands still meanwhile
    auto* disk = new sim::SimDisk(world, cluster_->disk->CrashImage(random));
    disk->knobs().slow = 0;
    auto& executor = world->Start(NodeId(1));
    auto session = disk->Open(executor);
    ExecutorTurn none(nullptr);
    auto report = world->Run(executor, fs::CheckVolume(*session, {}), Seconds(600));
    if (!report.ok()) return Fail("I5: fsck of a snapshot: " + report.error().ToString());
    std::string found;
    for (const auto& f : report->findings)
      if (f.level == fs::Finding::Level::kError) found += "\n  " + f.code + ": " + f.text;
    if (!found.empty()) Fail("I5: fsck of a snapshot:" + found);
    if (Wrong().empty()) ColdMount(world, session.get());
    world->Abandon(std::move(session));  // a mount's frames may refer to it
  }

  // The whole cluster had lost power: a mount alone replays every journal, and what fsync promised is there.
  void ColdMount(sim::World* world, BlockDevice* device) {
    auto& executor = world->Start(NodeId(1));
    MemberId self{NodeId(1), Incarnation(1), 1};
    auto space = [&] {
      ExecutorTurn turn(&executor);
      return dlm::MakeStandaloneLockSpace(executor, self);
    }();
    fs::MountOptions options;
    options.device = device;
    options.executor = &executor;
    options.space = space.get();
    options.owner = fs::OwnerStamp{self.node, self.incarnation, self.nonce, MountNo(0)};
    auto mount = std::make_unique<fs::Mount>(options);
    Status started = world->Run(executor, mount->Start(), Seconds(600));
    if (!started.ok()) {
      Fail("I5: the volume after a loss of all power cannot be mounted: " + started.error().ToString());
    } else {
      std::string missing = world->Run(executor, clients_->CheckCold(mount.get()), Seconds(600));
      if (!missing.empty()) Fail("after a loss of all power: " + missing);
    }
    executor.Crash();
    world->Abandon(std::move(mount));
    world->Abandon(std::move(space));
  }

  void Fsck(bool unmounted) {
    sim::SimExecutor& executor = world_.Start(NodeId(1));
    auto session = cluster_->disk->Open(executor);
    fs::CheckOptions how;
    auto report = world_.Run(executor, fs::CheckVolume(*session, how), Seconds(600));
    if (!report.ok()) return Fail("I5: fsck: " + report.error().ToString());
    std::string found;
    for (const auto& f : report->findings)
      if (f.level == fs::Finding::Level::kError) found += "\n  " + f.code + ": " + f.text;
    if (!found.empty()) Fail("I5: fsck after the last unmount:" + found);
    if (unmounted && !report->dirty_journals.empty()) Fail("I5: a journal is dirty after the last unmount");
    executor.Crash();
    world_.Abandon(std::move(session));
  }

  RunOptions options_;
  sim::World world_;
  Plan plan_;
  std::unique_ptr<Clients> clients_;
  std::unique_ptr<Cluster> cluster_;
  std::string story_;
  std::string broken_;
  bool wiped_ = false;
  uint32_t snapshots_ = 0;
};

}  // namespace

RunResult Run(const RunOptions& options) {
  auto* runner = new Runner(options);  // a world's frames refer to it to the end
  return runner->Go();
}

}  // namespace holdfast::whole
