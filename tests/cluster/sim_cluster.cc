// Whole nodes in the simulator. See sim_cluster.h.
#include "tests/cluster/sim_cluster.h"

#include <algorithm>

#include "base/log.h"

namespace holdfast::cluster {

using sim::SimRandom;

SimLife::SimLife(SimCluster* c, NodeId n, uint64_t non, std::string boot_id)
    : cluster(c), node(n), nonce(non), executor(&c->world.Start(n)) {
  transport = c->network.Listen(*executor, "n" + std::to_string(n.v) + "/" + std::to_string(nonce));
  c->addresses[n] = transport->endpoint().address;
  store = std::make_unique<sim::SimKvStore>(executor, c->media.at(n.v).get());
  EngineOptions o;
  o.self = n;
  o.nonce = nonce;
  o.boot_id = std::move(boot_id);
  o.endpoint = transport->endpoint().address;
  o.cluster_name = "sim";
  o.config_version = 1;
  o.config_hash = "h";
  for (uint32_t i = 1; i <= c->options.nodes; ++i) o.nodes.push_back(NodeId(i));
  o.timing = c->options.timing;
  o.mutants = c->options.mutants;
  if (c->options.disk) {
    device = c->disk->Open(*executor);
    o.disk = device.get();
    sim::SimDiskSession* session = device.get();
    o.drain = [session] { return session->Drain(); };
  }
  engine = std::make_unique<Engine>(o, executor, &c->world.random(), store.get(), this, this);
  transport->SetReceiver([this](NodeId from, std::span<const std::byte> frame) { engine->OnMessage(from, frame); });
}

void SimLife::Send(NodeId to, std::string message) {
  auto bytes = AsBytes(message);
  transport->Send({to, cluster->addresses[to], ""}, {bytes.begin(), bytes.end()});
}

void SimLife::OnState(StatePtr state) { cluster->SawState(*this, state); }

void SimLife::OnLease(Incarnation, Instant deadline) {
  if (!executor->alive()) return;
  lease_end = cluster->world.ClockOf(node).ToWorld(deadline);
  cluster->CheckLeases();
}

void SimLife::OnEvicted(std::string why) {
  evicted = true;
  if (why.find("forked") != std::string::npos) cluster->Violate("n" + std::to_string(node.v) + ": " + why);
}

Task<void> SimLife::Run() {
  started = co_await engine->Start();
}

// Power for others (the process dies), byte locks for a former life of this node (it is dead already).
Task<void> SimLife::Fence(Life victim) {
  FenceArgs args{engine->NewChangeId(), engine->self(), victim};
  ChangeOptions how;
  how.limit = Seconds(3);
  ChangeFn claim = [args](const ClusterState& s) { return ClaimFencer(s, args); };
  auto claiming = engine->Change(std::move(claim), how);
  auto claimed = co_await std::move(claiming);
  if (claimed.ok()) {
    const Fencing* entry = FindFencing(**claimed, victim);
    bool own = victim.node == node;
    if (entry != nullptr) {
      SimLife* target = cluster->FindLife(entry->nonce());
      co_await SleepFor(Milliseconds(20));
      if (target != nullptr && target->executor->alive()) {
        target->executor->Crash();
        target->lease_end = {};
      }
      if (!entry->has_token()) ++cluster->fenced;
    }
    FenceProof proof;
    proof.set_kind(own ? LOCAL : cluster->world.random().Chance(500'000) ? POWER : STORAGE);
    proof.set_by("sim");
    std::vector<FenceProof> proofs{proof};
    FenceArgs token = args;
    token.change = engine->NewChangeId();
    ChangeFn write = [token, proofs](const ClusterState& s) { return WriteToken(s, token, proofs); };
    auto writing = engine->Change(std::move(write), how);
    auto written = co_await std::move(writing);
    if (written.ok()) {
      FenceArgs ended = args;
      ended.change = engine->NewChangeId();
      ChangeFn end = [ended](const ClusterState& s) { return FenceActionsEnded(s, ended); };
      auto ending = engine->Change(std::move(end), how);
      auto done = co_await std::move(ending);
      (void)done;
    }
  }
}

Task<void> SimLife::FenceLoop() {
  while (true) {
    co_await SleepFor(Milliseconds(100));
    StatePtr state = engine->state();
    if (state == nullptr || evicted) continue;
    std::vector<Life> victims, readers;
    for (const auto& entry : state->fencing()) {
      Life victim{NodeId(entry.node()), Incarnation(entry.incarnation())};
      NodeId who = FencerFor(*state, victim, [this](NodeId n) { return engine->PeerAlive(n); });
      if (who != node) continue;
      if (!entry.has_token() || !entry.actions_ended()) {
        victims.push_back(victim);
      } else if (!entry.readers_ended()) {
        auto seen = engine->EvictionSeenAt(victim);
        auto length = cluster->options.timing.lease + cluster->options.timing.lease_margin;
        if (seen.has_value() && executor->clock().Now() > *seen + length) readers.push_back(victim);
      }
    }
    for (Life victim : victims) {
      auto fence = Fence(victim);
      co_await std::move(fence);
    }
    for (Life victim : readers) {
      SimLife* target = nullptr;
      const Fencing* entry = FindFencing(*state, victim);
      if (entry != nullptr) target = cluster->FindLife(entry->nonce());
      if (target != nullptr && target->executor->alive() && target->lease_end > cluster->world.now())
        cluster->Violate("readers of " + ToString(victim) + " end while its lease runs");
      FenceArgs args{engine->NewChangeId(), engine->self(), victim};
      ChangeFn end = [args](const ClusterState& s) { return ReadersEnded(s, args); };
      auto ending = engine->Change(std::move(end), ChangeOptions{});
      auto done = co_await std::move(ending);
      (void)done;
    }
  }
}

SimCluster::SimCluster(sim::World* w, SimClusterOptions o) : world(*w), options(o), network(w, o.network) {
  if (options.disk) disk = std::make_unique<sim::SimDisk>(w, kQuorumAreaBytes, options.disk_knobs);
  for (uint32_t n = 1; n <= options.nodes; ++n) media[n] = std::make_unique<sim::SimKvMedium>(w);
}

InitClusterArgs SimCluster::InitArgs() const {
  InitClusterArgs args;
  args.cluster_name = "sim";
  args.cluster_uuid = std::string(16, 'u');
  args.config_version = 1;
  args.config_hash = "h";
  for (uint32_t n = 1; n <= options.nodes; ++n) args.nodes.push_back({NodeId(n), "n" + std::to_string(n), 1, 0});
  args.disk_votes = options.disk ? options.nodes - 1 : 0;
  return args;
}

void SimCluster::StartNode(NodeId node) {
  uint64_t nonce = 0;
  while (nonce == 0) nonce = world.random().Next();
  SimLife* life = new SimLife(this, node, nonce, "boot" + std::to_string(nonce));
  all_.push_back(life);
  lives_[node.v] = life;
  life->executor->Spawn(life->Run());
  life->executor->Spawn(life->FenceLoop());
}

void SimCluster::Kill(NodeId node) {
  auto it = lives_.find(node.v);
  if (it == lives_.end() || !it->second->executor->alive()) return;
  world.CrashNode(node);
  it->second->lease_end = {};
  media.at(node.v)->Crash();
}

bool SimCluster::up(NodeId node) const {
  auto it = lives_.find(node.v);
  return it != lives_.end() && it->second->executor->alive();
}

SimLife* SimCluster::FindLife(uint64_t nonce) const {
  for (SimLife* life : all_)
    if (life->nonce == nonce) return life;
  return nullptr;
}

bool SimCluster::Bring() {
  if (options.disk) {
    auto& executor = world.Start(NodeId(1));
    auto session = disk->Open(executor);
    sim::SimKvStore store(&executor, media.at(1).get());
    OfflineInitOptions init;
    init.self = NodeId(1);
    init.args = InitArgs();
    init.disk = session.get();
    auto made = world.Run(executor, OfflineInit(init, &executor, &world.random(), &store));
    if (!made.ok()) {
      Violate("quorum init: " + made.error().ToString());
      return false;
    }
    executor.Crash();
  }
  for (uint32_t n = 1; n <= options.nodes; ++n) StartNode(NodeId(n));
  if (!options.disk) {
    SimLife* first = lives_.at(1);
    auto made = world.Run(*first->executor, first->engine->Initialize(InitArgs()));
    if (!made.ok()) {
      Violate("quorum init over the network: " + made.error().ToString());
      return false;
    }
  }
  bool all = world.RunUntil([this] { return Settled(); }, Seconds(60));
  if (!all) Violate("the nodes did not all become members: " + Dump());
  return all;
}

void SimCluster::Heal() {
  network.HealAll();
  for (uint32_t n = 1; n <= options.nodes; ++n) {
    NodeId node(n);
    if (world.paused(node)) world.ResumeNode(node);
    if (disk) disk->HealPath(node);
    if (!up(node)) StartNode(node);
  }
}

bool SimCluster::AllMembers() const {
  if (newest_ == nullptr) return false;
  for (const auto& [n, life] : lives_)
    if (!life->executor->alive() || life->evicted || !life->engine->member()) return false;
  return true;
}

bool SimCluster::Settled() const {
  if (!AllMembers() || !newest_->fencing().empty()) return false;
  for (const auto& [n, life] : lives_) {
    if (life->engine->state() == nullptr || life->engine->state()->version() != newest_->version()) return false;
    if (life->lease_end <= world.now()) return false;
  }
  for (const auto& acceptor : newest_->acceptors().acceptors())
    if (acceptor.node() != 0 && lives_.at(acceptor.node())->engine->storage_id() != acceptor.storage()) return false;
  return true;
}

static void Print(const StatusTree& tree, int depth, std::string* out) {
  *out += std::string(static_cast<size_t>(depth), ' ') + tree.name + " " + tree.value + "\n";
  for (const auto& child : tree.children) Print(child, depth + 2, out);
}

std::string SimCluster::Dump() const {
  std::string out = "\nversion " + std::to_string(newest_version()) + "\n";
  if (newest_ != nullptr) {
    for (const auto& node : newest_->nodes())
      out += " " + ToString(LifeOf(node)) + " " + StateName(node.state());
    for (const auto& f : newest_->fencing())
      out += "\n fencing n" + std::to_string(f.node()) + "." + std::to_string(f.incarnation()) + " fencer n" +
             std::to_string(f.fencer_node()) + "." + std::to_string(f.fencer_incarnation()) + (f.has_token() ? " token" : "") +
             (f.actions_ended() ? " ended" : "") + (f.readers_ended() ? " readers" : "") + " former " +
             std::to_string(f.former_fencers_size());
  }
  out += "\n";
  for (const auto& [n, life] : lives_) {
    out += "n" + std::to_string(n) + (life->executor->alive() ? " up" : " dead") + (life->evicted ? " evicted" : "") +
           (life->started.ok() ? "" : " start: " + life->started.error().ToString()) + "\n";
    if (life->executor->alive()) Print(life->engine->Dump(), 2, &out);
  }
  return out;
}

void SimCluster::Violate(std::string what) {
  if (violation_.empty()) violation_ = std::move(what);
}

// I2: one chain of values; what was decided stays.
void SimCluster::SawState(const SimLife& life, const StatePtr& state) {
  world.Mix(life.node.v);
  world.Mix(state->version());
  std::string bytes = state->SerializeAsString();
  auto [it, fresh] = chain_.try_emplace(state->version(), bytes);
  if (!fresh) {
    if (it->second != bytes) Violate("two values of register version " + std::to_string(state->version()));
    return;
  }
  auto neighbours = [&](const std::string& older, const std::string& newer) {
    ClusterState a, b;
    if (!a.ParseFromString(older) || !b.ParseFromString(newer)) return false;
    int keep = std::min(a.applied_size(), b.applied_size() - 1);
    for (int i = 0; i < keep; ++i)
      if (a.applied(a.applied_size() - 1 - i) != b.applied(b.applied_size() - 2 - i)) return false;
    return true;
  };
  auto before = chain_.find(state->version() - 1), after = chain_.find(state->version() + 1);
  if ((before != chain_.end() && !neighbours(before->second, bytes)) ||
      (after != chain_.end() && !neighbours(bytes, after->second)))
    Violate("register version " + std::to_string(state->version()) + " does not continue the one before it");
  for (const auto& entry : state->fencing()) {
    Life victim{NodeId(entry.node()), Incarnation(entry.incarnation())};
    if (evicted_at.try_emplace(victim, world.now()).second) ++evictions;
  }
  if (newest_ == nullptr || state->version() > newest_->version()) {
    newest_ = state;
    std::string nodes;
    for (const auto& n : state->nodes()) nodes += " " + ToString(LifeOf(n)) + ":" + StateName(n.state());
    HF_LOG(LogLevel::kDebug, "storm", "state", {{"version", state->version()}, {"by", life.node}, {"nodes", nodes}});
  }
  CheckLeases();
}

// A life that somebody knows as evicted has no lease beyond that moment + lease + margin.
void SimCluster::CheckLeases() {
  for (SimLife* life : all_) {
    if (!life->executor->alive() || life->lease_end <= world.now()) continue;
    auto it = evicted_at.find(life->engine->self());
    if (it == evicted_at.end()) continue;
    if (life->lease_end > it->second + options.timing.lease + options.timing.lease_margin)
      Violate("the lease of " + ToString(life->engine->self()) + " runs on after its eviction");
  }
}

}  // namespace holdfast::cluster
