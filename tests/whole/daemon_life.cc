#include "tests/whole/daemon_life.h"

#include "tests/whole/array_device.h"
#include "tests/whole/cluster.h"

namespace holdfast::whole {

using sim::SimExecutor;

namespace {

Task<Result<std::unique_ptr<cluster::QuorumDevice>>> OpenArray(Cluster* cluster, SimExecutor* executor, cluster::Parts* parts,
                                                              std::function<void(std::string)> on_fenced) {
  ArrayKnobs knobs = cluster->options.array;
  knobs.command_timeout = std::min(knobs.command_timeout, parts->config->timing.DiskCommandTimeout());
  auto device = std::make_unique<ArrayDevice>(cluster->disk.get(), executor, knobs);
  ArrayDevice* array = device.get();
  if (cluster->options.array.image) {
    uint64_t byte = fence::DaemonByte(parts->self->id);
    std::function<Status()> take = [cluster, byte, executor] { return cluster->image_locks.Take(*cluster->disk, byte, executor); };
    co_return std::make_unique<cluster::QuorumDevice>(parts, std::move(device), nullptr, std::move(take));
  }
  array->OnFenced([on_fenced](const Error& why) { on_fenced(why.ToString()); });
  auto quorum = std::make_unique<cluster::QuorumDevice>(parts, std::move(device), array, nullptr);
  ReservationKey key = quorum->key();
  array->SetReconnectGuard([array, key] { return array->Restore(key); });
  co_return quorum;
}

}  // namespace

DaemonLife::DaemonLife(Cluster* c, NodeId n) : cluster(c), node(n), executor(&c->world.Start(n)) {
  ExecutorTurn turn(executor);
  const std::string name = "n" + std::to_string(n.v);
  store = std::make_unique<sim::SimKvStore>(executor, &c->machine(n).medium);
  lease = cluster::LeaseWriter::InMemory("lease:" + name + ":" + std::to_string(executor->id()), &page);
  processes = MakeAgents(c, executor);
  sessions = std::make_unique<SimReservationSessions>(c->disk.get(), executor);
  local = MakeLocalFence(c, executor);
  // A machine's boot id changes when it boots, not when its daemon starts again.
  std::string boot = "boot-" + name + "-" + std::to_string(c->machine(n).boots);
  core = std::make_unique<cluster::DaemonCore>(executor, &c->world.random(), c->config(), name, boot);
  std::string address = core->parts()->self->Address();
  network = std::make_unique<cluster::Network>(core->parts(), c->network.Listen(*executor, address));
  cluster::DaemonSeams seams;
  seams.executor = executor;
  seams.random = &c->world.random();
  seams.store = store.get();
  seams.processes = processes.get();
  seams.lease = lease.get();
  seams.network = network.get();
  seams.sessions = sessions.get();
  seams.local = local.get();
  seams.open_quorum = [this](std::function<void(std::string)> on_fenced) {
    return OpenArray(cluster, executor, core->parts(), std::move(on_fenced));
  };
  seams.user_name = [](uint32_t) { return std::string("root"); };
  seams.see_state = [this](const cluster::StatePtr& state) {
    cluster->checker().SawState(*this, state);
    cluster->register_users().Told(*state);
  };
  seams.see_lease = [this](Incarnation, Instant deadline) {
    lease_end = cluster->world.ClockOf(node).ToWorld(deadline);
    cluster->checker().CheckLeases();
  };
  core->SetMutants(c->options.mutants);
  fence::FencePolicy policy;
  policy.device_timeout = Seconds(3);
  policy.device_retries = 1;
  policy.retry_delay = Milliseconds(300);
  policy.round_delay = Milliseconds(500);
  policy.storage_timeout = Seconds(8);
  // As labs on targets that forget their reservations.
  policy.accept_storage_alone = !c->options.disk.persist_through_power_loss;
  core->SetPolicy(policy);
  core->Assemble(std::move(seams));
  executor->Spawn(Run());
}

Task<void> DaemonLife::Run() {
  co_await core->Run();
  cluster->DaemonEnded(*this);
}

Result<std::shared_ptr<ControlLine>> DaemonLife::Connect(SimExecutor* client, std::shared_ptr<SimLine>* line) {
  if (!alive()) return Error(Errc::kDisconnected, "holdfastd does not run");
  auto [ours, theirs] = SimLine::Make(client, static_cast<int32_t>(client->id()), executor, pid());
  lines_.push_back(theirs);
  executor->Post([this, end = theirs] { core->Accept(end); });
  *line = ours;
  return std::shared_ptr<ControlLine>(ours);
}

void DaemonLife::Die() {
  if (!alive()) return;
  executor->Crash();
  lease_end = {};
  for (auto& line : lines_) line->ProcessDied();
}

}  // namespace holdfast::whole
