#include "tests/whole/mount_life.h"

#include "base/log.h"
#include "cluster/client.h"
#include "dlm/service.h"
#include "tests/whole/cluster.h"
#include "tests/whole/lock_watch.h"

namespace holdfast::whole {

const char* StateName(MountLife::State state) {
  switch (state) {
    case MountLife::State::kStarting: return "starting";
    case MountLife::State::kUp: return "up";
    case MountLife::State::kUnmounting: return "unmounting";
    case MountLife::State::kWithdrawing: return "withdrawing";
    case MountLife::State::kGone: return "gone";
  }
  return "?";
}

MountLife::MountLife(Cluster* c, NodeId n, DaemonLife* daemon) : cluster(c), node(n), executor(&c->world.Start(n)), daemon_(daemon) {
  executor->Spawn(Run());
}

Task<void> MountLife::Run() {
  Status up = co_await Up();
  if (!up.ok()) {
    Exit("not mounted: " + up.error().ToString());
    co_return;
  }
  if (state != State::kStarting) co_return;  // something fatal came meanwhile
  state = State::kUp;
  attached_ = true;
  HF_LOG(LogLevel::kInfo, "sim", "mounted", {{"node", node}, {"self", joined_->self}, {"number", joined_->mount}});
  cluster->clients->Attach(node, mount.get(), executor);
}

Task<Status> MountLife::Up() {
  device_ = std::make_unique<ArrayDevice>(cluster->disk.get(), executor, cluster->options.array);
  auto super = co_await fs::ReadSuperblock(*device_);
  if (!super.ok()) co_return super.error();
  transport_ = cluster->network.Listen(*executor);

  cluster::ClusterClientSeams seams;
  seams.connect = [this] { return daemon_->Connect(executor, &line_); };
  seams.map_lease = [this](const std::string&) -> Result<const LeasePage*> { return &daemon_->page; };
  link_ = cluster::MakeClusterClient(std::move(seams), *this);
  size_t colon = super->lock_table.find(':');
  dlm::JoinRequest request;
  request.cluster = super->lock_table.substr(0, colon);
  request.lockspace = super->lock_table.substr(colon + 1);
  request.volume_uuid = fs::UuidText(super->geometry.uuid);
  request.volume_url = cluster->volume_url();
  do nonce = cluster->world.random().Next();
  while (nonce == 0);
  request.nonce = nonce;
  request.address = transport_->LocalAddress();
  request.mounts_max = super->geometry.journal_count;
  auto joined = co_await link_->Join(request);
  if (!joined.ok()) co_return joined.error();
  joined_ = *joined;
  device_->OnSubmit([this] {
    if (state != State::kUp && state != State::kUnmounting) return;  // the first reads come before the lease
    LeaseState lease = CheckLease(*joined_->lease, joined_->self.incarnation, executor->clock().Now());
    if (lease != LeaseState::kValid) cluster->checker().Violate("I1: mount " + ToString(joined_->self) + " submits after the end of its lease");
  });
  node_incarnation = joined_->self.incarnation.v;
  cluster->checker().Joined(*this);
  Status taken = co_await TakeMountNumber(joined_->key);
  if (!taken.ok()) co_return taken;

  ChannelOptions channel_options;
  channel_options.self = joined_->self;
  channel_options.cluster = request.cluster;
  channel_options.lockspace = 1;
  channel_ = std::make_unique<Channel>(transport_.get(), executor, channel_options);
  space_ = WatchLocks(&cluster->checker(), dlm::MakeLockSpace(*executor, channel_.get(), joined_->self));
  space_->SetView(joined_->view);
  if (early_view_) space_->SetView(*early_view_);

  fs::MountOptions options;
  options.device = device_.get();
  options.executor = executor;
  options.space = space_.get();
  options.link = link_.get();
  options.owner = fs::OwnerStamp{joined_->self.node, joined_->self.incarnation, joined_->self.nonce, joined_->mount};
  options.lease = joined_->lease;
  mount = std::make_unique<fs::Mount>(options);
  mount->SetOnFatal([this](Error why) { OnFatal(std::move(why)); });
  Status started = co_await mount->Start();
  co_return started;
}

Task<Status> MountLife::TakeMountNumber(ReservationKey key) {
  if (cluster->options.array.image) {
    Instant until = executor->clock().Now() + Seconds(10);
    for (;;) {
      Status taken = cluster->image_locks.Take(*cluster->disk, fence::MountByte(joined_->mount), executor);
      if (taken.ok() || executor->clock().Now() >= until) co_return taken;
      co_await SleepFor(Milliseconds(20));
    }
  }
  Status registered = co_await device_->Register(key);
  if (!registered.ok()) co_return registered;
  Status reserved = co_await device_->Reserve(key);
  if (!reserved.ok()) co_return reserved;
  key_registered_ = true;
  device_->OnFenced([this](const Error& why) {
    Error error(Errc::kFenced, "the volume refuses us: " + why.ToString());
    if (mount) mount->Fatal(error);
  });
  device_->SetReconnectGuard([this, key] { return GuardReconnect(key); });
  co_return Status();
}

// As fs/fuse/program_join.cc does.
Task<Status> MountLife::GuardReconnect(ReservationKey key) {
  for (;;) {
    if (mount && mount->withdrawn()) co_return Error(Errc::kFenced, "withdrawn while the session was lost");
    LeaseState lease = CheckLease(*joined_->lease, joined_->self.incarnation, executor->clock().Now());
    if (lease == LeaseState::kValid) break;
    if (lease == LeaseState::kEvicted) co_return Error(Errc::kFenced, "evicted while the session was lost");
    co_await SleepFor(Milliseconds(20));
  }
  Status registered = co_await device_->Reregister(key);
  if (registered.code() != Errc::kStale) co_return registered;
  auto state = co_await static_cast<Reservations*>(device_.get())->Read();
  if (state.ok() && !state->keys.empty())
    co_return Error(Errc::kFenced, "the array has lost its reservation keys, and others stand there now without ours");
  co_return registered;
}

// ---- the end ------------------------------------------------------------------------------------------------------

void MountLife::Unmount() {
  if (state != State::kUp || !alive()) return;
  state = State::kUnmounting;
  executor->Spawn(CleanEnd());
}

Task<void> MountLife::CleanEnd() {
  co_await cluster->clients->Detach(node);
  if (state != State::kUnmounting) co_return;  // it withdrew while its users were on their way out
  attached_ = false;
  Status stopped = co_await mount->Stop();
  if (!stopped.ok()) {
    co_await WithdrawEnd(stopped.error());
    co_return;
  }
  Status gone = co_await device_->Unregister(joined_->key);
  if (!gone.ok()) HF_LOG(LogLevel::kWarn, "mount", "unregister", {{"error", gone.error().ToString()}});
  Status left = co_await link_->Leave();
  if (!left.ok()) HF_LOG(LogLevel::kWarn, "mount", "leave", {{"error", left.error().ToString()}});
  co_await device_->Close();
  Exit("unmounted");
}

void MountLife::OnFatal(Error why) {
  switch (state) {
    case State::kStarting: return Exit("fatal at start: " + why.ToString());
    case State::kUp:
      state = State::kWithdrawing;
      executor->Spawn(WithdrawEnd(std::move(why)));
      return;
    case State::kUnmounting:
      if (attached_) {  // the kernel still has it: as any withdraw
        state = State::kWithdrawing;
        executor->Spawn(WithdrawEnd(std::move(why)));
        return;
      }
      // Let the clean end fail.
      Detach(mount->Withdraw(std::move(why)));
      return;
    default: return;
  }
}

Task<void> MountLife::WithdrawEnd(Error why) {
  state = State::kWithdrawing;
  HF_LOG(LogLevel::kWarn, "sim", "withdraw", {{"node", node}, {"why", why.ToString()}});
  if (attached_) {
    co_await cluster->clients->Withdraw(node, why);
  } else {
    cluster->clients->MountDied(node);  // an unmount that fails promises nothing of what nobody had synced
    co_await mount->Withdraw(why);
  }
  if (key_registered_) {
    Status gone = co_await device_->Unregister(joined_->key);
    if (!gone.ok()) HF_LOG(LogLevel::kInfo, "mount", "unregister", {{"error", gone.error().ToString()}});
  }
  co_await device_->Close();
  co_await link_->Withdrawn(why.ToString());
  Exit("withdrew: " + why.ToString());
}

void MountLife::Exit(const std::string& why) {
  if (state == State::kGone) return;
  end = why;
  state = State::kGone;
  HF_LOG(LogLevel::kInfo, "sim", "mount_process_ends", {{"node", node}, {"why", why}});
  executor->Crash();
  if (line_) line_->ProcessDied();
  cluster->MountGone(*this);
}

void MountLife::Die() {
  if (!alive()) return;
  if (attached_ || state == State::kUnmounting) cluster->clients->MountDied(node);
  Exit("killed");
}

// ---- the cluster --------------------------------------------------------------------------------------------------

void MountLife::OnView(const dlm::View& view) {
  if (!space_) {
    early_view_ = view;
    return;
  }
  space_->SetView(view);
  if (mount) mount->OnView(view);
}

void MountLife::OnEvicted(std::string why) {
  if (space_) space_->Withdraw(why);
  Error error(Errc::kFenced, "evicted from the cluster: " + why);
  if (mount) mount->Fatal(error);
  else OnFatal(error);
}

void MountLife::OnDaemonLost(std::string why) {
  if (state == State::kWithdrawing) return;
  if (space_) space_->Withdraw(why);
  Error error(Errc::kFenced, "holdfastd is gone: " + why);
  if (mount) mount->Fatal(error);
  else OnFatal(error);
}

void MountLife::OnStopRequested(std::string) { Unmount(); }

dlm::LinkStatus MountLife::OnStatus() { return mount && state == State::kUp ? mount->Describe() : dlm::LinkStatus{}; }

std::string MountLife::Describe() const {
  std::string out = std::string("mount ") + StateName(state) + (joined_ ? " " + ToString(joined_->self) + " number " + std::to_string(joined_->mount.v) : "");
  if (!alive() || !mount || state == State::kGone) return out + "\n";
  dlm::LinkStatus status = mount->Describe();
  out += "\n";
  for (const auto& wait : status.waits)
    out += "    waits: " + wait.what + " on " + wait.on + " for " + std::to_string(wait.since.ms()) + " ms\n";
  out += ToText(status.tree, 4);
  dlm::LockSpaceDump dump = space_->Dump();
  out += "    dlm " + dump.state + " generation " + std::to_string(dump.generation.v) + (dump.gate1_closed ? " gate1 closed" : "") +
         (dump.gate2_closed ? " gate2 closed" : "") + "\n";
  for (const auto& wait : dump.waits)
    out += "    dlm waits: " + wait.what + " " + fs::ToString(fs::ResourceFromName(wait.name)) + " master " + ToString(wait.master) + " " +
           std::to_string(wait.since.ms()) + " ms\n";
  return out;
}

}  // namespace holdfast::whole
