#include "tests/whole/cluster.h"

#include <algorithm>

#include "base/log.h"
#include "cluster/daemon/quorum_device.h"
#include "mkfs/make_volume.h"
#include "tests/whole/template_volume.h"

namespace holdfast::whole {

std::string ToText(const StatusTree& tree, int depth) {
  std::string out = std::string(static_cast<size_t>(depth), ' ') + tree.name + (tree.value.empty() ? "" : " " + tree.value) + "\n";
  for (const auto& child : tree.children) out += ToText(child, depth + 2);
  return out;
}

Cluster::Cluster(sim::World* w, ClusterOptions o, Clients* c) : world(*w), options(o), clients(c), network(w, {}), checker_(this), register_users_(w) {
  for (uint32_t n = 1; n <= options.nodes; ++n) machines_.try_emplace(n, w);
  MakeConfig();
}

void Cluster::MakeConfig() {
  config_.cluster = "sim";
  config_.version = 1;
  config_.hash = "h";
  config_.timing = options.timing;
  if (options.disk_votes) {
    config_.quorum_device = volume_url();
    config_.quorum_votes = options.nodes - 1;
  }
  for (uint32_t n = 1; n <= options.nodes; ++n) {
    std::string name = "n" + std::to_string(n);
    cluster::NodeConfig node;
    node.name = name;
    node.id = NodeId(n);
    node.address = name;
    node.public_key = "key-of-" + name;
    if (options.power) {
      cluster::FenceDeviceConfig device;
      device.name = "bmc" + std::to_string(n);
      device.agent = "fence_sim";
      device.attributes.emplace_back("ip", device.name);
      config_.devices.push_back(device);
      node.methods.push_back({"power", {{device.name, {}, 0}}});
    }
    if (options.array.image) {  // as a lab's: it ends the node's processes
      cluster::FenceDeviceConfig device;
      device.name = "local" + std::to_string(n);
      device.agent = "fence_local";
      device.attributes.emplace_back("cgroup", name);
      config_.devices.push_back(device);
      node.methods.push_back({"local", {{device.name, {}, 0}}});
    }
    config_.nodes.push_back(std::move(node));
  }
}

std::vector<NodeId> Cluster::nodes() const {
  std::vector<NodeId> out;
  for (const auto& [n, m] : machines_) out.push_back(NodeId(n));
  return out;
}

bool Cluster::Initialize() {
  TemplateVolume made = MakeTemplateVolume(options.nodes + options.spare_journals, options.data_mib, "sim:" + lockspace_name_);
  super_ = made.super;
  disk = std::make_unique<sim::SimDisk>(&world, made.image);
  disk->OnWrite([this](const sim::DiskWrite& write) { checker_.Wrote(write); });
  cluster::InitClusterArgs args;
  args.cluster_name = "sim";
  args.cluster_uuid = std::string(16, 'u');
  args.config_version = 1;
  args.config_hash = "h";
  for (const auto& node : config_.nodes) args.nodes.push_back({node.id, node.name, 1, 0});
  args.disk_votes = config_.quorum_votes;
  if (!options.disk_votes) {
    for (NodeId n : nodes()) PowerOn(n);
    // Without a disk acceptor everybody must be up and empty.
    bool up = world.RunUntil([this] {
      for (auto& [n, m] : machines_)
        if (!m.daemon || !m.daemon->core->engine()) return false;
      return true;
    }, Seconds(10));
    if (!up) return false;
    world.RunFor(Milliseconds(100));
    DaemonLife* first = machines_.at(1).daemon;
    auto made_register = world.Run(*first->executor, first->core->engine()->Initialize(args), Seconds(60));
    return made_register.ok();
  }
  auto& executor = world.Start(NodeId(1));
  auto session = disk->Open(executor);
  sim::SimKvStore store(&executor, &machines_.at(1).medium);
  cluster::OfflineInitOptions init;
  init.self = NodeId(1);
  init.args = args;
  init.disk = session.get();
  init.disk_offset = cluster::kVolumeQuorumOffset;
  init.force = true;
  auto done = world.Run(executor, cluster::OfflineInit(init, &executor, &world.random(), &store), Seconds(60));
  executor.Crash();
  if (!done.ok()) checker_.Violate("quorum init: " + done.error().ToString());
  for (NodeId n : nodes()) PowerOn(n);
  return done.ok();
}

bool Cluster::Form(Duration limit) {
  if (!Initialize()) {
    checker_.Violate("the cluster was not initialized");
    return false;
  }
  world.After(Milliseconds(20), [this] { Tick(); });
  bool all = world.RunUntil([this] { return AllMounted() || !checker_.violation().empty(); }, limit);
  if (!all) checker_.Violate("liveness: the cluster did not form");
  return all && checker_.violation().empty();
}

// ---- machines ----

void Cluster::PowerOn(NodeId node) {
  Machine& m = machine(node);
  if (m.on) return;
  m.on = true;
  ++m.boots;
  m.start_daemon_at = world.now() + world.random().Between(Milliseconds(1), Milliseconds(50));
  m.start_mount_at = m.start_daemon_at + Milliseconds(10);
  HF_LOG(LogLevel::kInfo, "sim", "power_on", {{"node", node}});
  world.At(m.start_daemon_at, [this, node] { Care(node, machine(node)); });
}

void Cluster::PowerOff(NodeId node) {
  Machine& m = machine(node);
  if (!m.on) return;
  HF_LOG(LogLevel::kInfo, "sim", "power_off", {{"node", node}});
  ++crashes;
  m.on = false;
  bool had_mount = m.mount && m.mount->state != MountLife::State::kGone;
  world.CrashNode(node);
  m.medium.Crash();
  if (m.daemon) m.daemon->lease_end = {};
  if (had_mount) {
    m.mount->state = MountLife::State::kGone;
    m.mount->end = "its machine lost power";
    if (m.mount->nonce != 0) m.dead_mounts.push_back(m.mount->nonce);
    m.recovered_told = false;
  }
  clients->NodeDied(node);
  m.daemon = nullptr;
  m.mount = nullptr;
}

void Cluster::KillDaemon(NodeId node) {
  Machine& m = machine(node);
  if (!m.on || !m.daemon || !m.daemon->alive()) return;
  HF_LOG(LogLevel::kInfo, "sim", "kill_daemon", {{"node", node}});
  m.daemon->Die();
  m.start_daemon_at = world.now() + options.restart_delay;
}

void Cluster::KillMount(NodeId node) {
  Machine& m = machine(node);
  if (!m.mount || !m.mount->alive()) return;
  HF_LOG(LogLevel::kInfo, "sim", "kill_mount", {{"node", node}});
  m.mount->Die();
}

void Cluster::Resume(NodeId node) {
  if (world.paused(node)) world.ResumeNode(node);
}

void Cluster::Unmount(NodeId node) {
  Machine& m = machine(node);
  m.want_mount = false;
  if (m.mount) m.mount->Unmount();
}

void Cluster::Leave(NodeId node) {
  Machine& m = machine(node);
  m.want_mount = m.want_daemon = false;
  if (!m.daemon || !m.daemon->alive()) return;
  DaemonLife* life = m.daemon;
  life->executor->Post([life] { life->core->RequestLeave("by hand"); });
}

void Cluster::DaemonEnded(DaemonLife& life) {
  Machine& m = machine(life.node);
  bool left = life.core->end() == cluster::DaemonEnd::kLeft;
  HF_LOG(LogLevel::kInfo, "sim", "daemon_ended", {{"node", life.node}, {"clean", left}, {"life", cluster::ToString(life.life())}});
  if (life.core->failure().message.find("forked") != std::string::npos) checker_.Violate("I2: " + life.core->failure().message);
  // Last words to the mounts still leave; then the process ends (or starts itself again).
  DaemonLife* it = &life;
  Duration linger = left ? Milliseconds(50) : Milliseconds(500);
  life.executor->PostAt(life.executor->clock().Now() + linger, [it] { it->Die(); });
  m.start_daemon_at = world.now() + linger + Milliseconds(1);
}

void Cluster::MountGone(MountLife& life) {
  Machine& m = machine(life.node);
  bool clean = life.end == "unmounted";
  if (!clean && life.nonce != 0) {
    m.dead_mounts.push_back(life.nonce);
    m.recovered_told = false;
  }
  m.start_mount_at = world.now() + world.random().Between(Milliseconds(50), Seconds(1));
  if (m.mount == &life) m.mount = nullptr;
}

// ---- the service managers ----

void Cluster::Tick() {
  for (auto& [n, m] : machines_) {
    Care(NodeId(n), m);
    TellRecovered(NodeId(n), m);
  }
  world.After(Milliseconds(20), [this] { Tick(); });
}

void Cluster::Care(NodeId node, Machine& m) {
  if (!m.on) {
    if (m.boot_at.ns != 0 && world.now() >= m.boot_at) {
      m.boot_at = {};
      PowerOn(node);
    }
    return;
  }
  if (world.paused(node)) return;
  bool daemon_up = m.daemon && m.daemon->alive();
  if (!daemon_up && m.want_daemon && world.now() >= m.start_daemon_at) {
    m.daemon = new DaemonLife(this, node);
    daemons_.push_back(m.daemon);
    register_users_.Start(m.daemon);
    daemon_up = true;
  }
  bool mount_up = m.mount && m.mount->alive();
  if (daemon_up && !mount_up && m.want_mount && world.now() >= m.start_mount_at && m.daemon->core->end() == cluster::DaemonEnd::kRunning) {
    m.mount = new MountLife(this, node, m.daemon);
    mounts_.push_back(m.mount);
  }
}

void Cluster::TellRecovered(NodeId node, Machine& m) {
  if (m.recovered_told) return;
  for (uint64_t nonce : m.dead_mounts)
    if (!checker_.Buried(nonce)) return;
  m.dead_mounts.clear();
  m.recovered_told = true;
  clients->Recovered(node);
}

void Cluster::AfterReplay(const MemberId& victim) {
  HF_LOG(LogLevel::kInfo, "sim", "replayed", {{"victim", victim}});
  clients->Replayed(victim);
  if (after_replay) after_replay();
}

bool Cluster::AllMounted() const {
  for (const auto& [n, m] : machines_) {
    if (!m.on) return false;
    if (m.want_mount && !MountUp(NodeId(n))) return false;
    if (!m.daemon || !m.daemon->alive() || !m.daemon->core->engine() || !m.daemon->core->engine()->member()) return false;
  }
  return true;
}

bool Cluster::NothingOwed() const {
  const auto& state = checker_.newest();
  if (!state || state->fencing_size() > 0) return false;
  const cluster::Lockspace* ls = checker_.lockspace();
  return !ls || ls->victims_size() == 0;
}

std::string Cluster::Dump() const {
  std::string out = "--- state at " + std::to_string(world.now().ns / 1'000'000) + " ms\n";
  if (const auto& state = checker_.newest()) {
    out += "register version " + std::to_string(state->version());
    for (const auto& node : state->nodes()) out += "  " + cluster::ToString(cluster::LifeOf(node)) + ":" + cluster::StateName(node.state());
    out += "\n";
    for (const auto& f : state->fencing())
      out += "  fencing n" + std::to_string(f.node()) + "." + std::to_string(f.incarnation()) + " by n" + std::to_string(f.fencer_node()) +
             (f.has_token() ? ", token" : "") + (f.actions_ended() ? ", actions ended" : "") + (f.readers_ended() ? ", readers ended" : "") +
             ": " + f.reason() + "\n";
    if (const cluster::Lockspace* ls = checker_.lockspace()) {
      out += "  lockspace generation " + std::to_string(ls->generation());
      for (const auto& m : ls->members()) out += "  n" + std::to_string(m.node()) + "." + std::to_string(m.incarnation()) + "=" + std::to_string(m.mount());
      out += "\n";
      for (const auto& v : ls->victims())
        out += "  victim n" + std::to_string(v.node()) + "." + std::to_string(v.incarnation()) + " journal " + std::to_string(v.mount()) +
               (v.fenced() ? ", fenced" : "") + (v.replayed() ? ", replayed" : "") + (v.readers_ended() ? ", readers ended" : "") +
               (v.mount_only() ? ", mount alone" : "") + ", replayer n" + std::to_string(v.replayer_node()) + ": " + v.reason() + "\n";
    }
  }
  for (const auto& [n, m] : machines_) {
    out += "n" + std::to_string(n) + (m.on ? " on" : " off") + (world.paused(NodeId(n)) ? " paused" : "") + "\n";
    if (m.daemon && m.daemon->alive()) {
      out += ToText(m.daemon->core->Describe(), 2);
      if (m.daemon->core->engine()) out += ToText(m.daemon->core->engine()->Dump(), 4);
    }
    if (m.mount) out += "  " + m.mount->Describe();
  }
  return out + clients->Dump();
}

// ---- fence agents ----

namespace {

class SimAgents final : public Processes {
 public:
  SimAgents(Cluster* cluster, sim::SimExecutor* executor) : cluster_(cluster), executor_(executor) {}

  Task<Result<ProcessOutcome>> Run(ProcessSpec spec) override {
    ProcessOutcome out;
    if (spec.program != "fence_sim") co_return Error(Errc::kNotFound, spec.program + ": no such program");
    std::string action = Value(spec.standard_input, "action"), ip = Value(spec.standard_input, "ip");
    if (action == "metadata") {
      out.exit_code = 0;
      out.output = "<resource-agent><parameters><parameter name=\"ip\"/></parameters><actions><action name=\"reboot\"/><action name=\"status\"/>"
                   "<action name=\"off\"/><action name=\"on\"/></actions></resource-agent>";
      co_return out;
    }
    NodeId node(static_cast<uint32_t>(std::stoul(ip.substr(3))));
    sim::World& world = cluster_->world;
    co_await SleepFor(world.random().Between(Milliseconds(10), Milliseconds(400)));
    Machine& m = cluster_->machine(node);
    if (m.power == Switch::kHangs || m.power == Switch::kLate) {
      if (m.power == Switch::kLate && action == "off") {
        // The controller does it in its own time, whether or not somebody still waits for it.
        Cluster* cluster = cluster_;
        world.After(world.random().Between(Milliseconds(500), Seconds(6)), [cluster, node] { Off(cluster, node); });
      }
      co_await SleepFor(spec.timeout);
      out.timed_out = true;
      co_return out;
    }
    out.exit_code = 0;
    if (m.power == Switch::kFails) {
      out.exit_code = 1;
      out.errors = "the switch does not answer\n";
    } else if (action == "status") {
      out.exit_code = m.on ? 0 : 2;
    } else if (action == "off") {
      Off(cluster_, node);
    } else if (action == "on") {
      if (!m.on && m.boot_at.ns == 0 && !m.stays_off) m.boot_at = world.now() + cluster_->options.boot_time;
    }
    co_return out;
  }
  Task<Status> AwaitExit(int32_t pid, Duration limit) override {
    Instant end = executor_->clock().Now() + limit;
    while (cluster_->ProcessAlive(pid)) {
      if (executor_->clock().Now() >= end) co_return Error(Errc::kTimeout, "the process has not ended");
      co_await SleepFor(Milliseconds(2));
    }
    co_return Status();
  }

 private:
  static void Off(Cluster* cluster, NodeId node) {
    cluster->machine(node).boot_at = {};
    cluster->PowerOff(node);
  }
  static std::string Value(const std::string& lines, const std::string& name) {
    size_t at = lines.find(name + "=");
    if (at == std::string::npos) return "";
    at += name.size() + 1;
    return lines.substr(at, lines.find('\n', at) - at);
  }
  Cluster* cluster_;
  sim::SimExecutor* executor_;
};

}  // namespace

bool Cluster::ProcessAlive(int32_t pid) const {
  for (const MountLife* m : mounts_)
    if (static_cast<int32_t>(m->executor->id()) == pid) return m->alive();
  return false;
}

std::unique_ptr<Processes> MakeAgents(Cluster* cluster, sim::SimExecutor* executor) {
  return std::make_unique<SimAgents>(cluster, executor);
}

}  // namespace holdfast::whole
