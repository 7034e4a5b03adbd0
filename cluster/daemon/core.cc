#include "cluster/daemon/core.h"

#include "base/control.pb.h"
#include "base/log.h"

namespace holdfast::cluster {
namespace {

Task<Status> DrainOf(QuorumDevice* device) {
  Status drained = co_await device->Drain();
  co_return drained;
}

}  // namespace

DaemonCore::DaemonCore(Executor* executor, Random* random, Config config, const std::string& node, std::string boot_id)
    : config_(std::move(config)), waits_(&executor->clock()) {
  parts_.executor = executor;
  parts_.random = random;
  parts_.config = &config_;
  parts_.self = config_.FindNode(node);
  do parts_.nonce = random->Next();
  while (parts_.nonce == 0);
  parts_.boot_id = std::move(boot_id);
  parts_.waits = &waits_;
  parts_.scope = &scope_;
  policy_.post_fail_delay = config_.timing.post_fail_delay;
}

DaemonCore::~DaemonCore() { scope_.Abandon(); }

void DaemonCore::Assemble(DaemonSeams seams) {
  seams_ = std::move(seams);
  parts_.store = seams_.store;
  parts_.processes = seams_.processes;
  parts_.lease = seams_.lease;
  timeline_ = std::make_unique<Timeline>(seams_.store, parts_.executor);
  parts_.timeline = timeline_.get();
  storage_fence_ = std::make_unique<fence::PrFence>(seams_.sessions, ReservationKeyOf(parts_.self->id, parts_.nonce, fence::kFencerProcess));
  fence_history_ = std::make_unique<fence::History>(seams_.store);
  fence::FenceSeams fencing{parts_.executor, seams_.processes, storage_fence_.get(), seams_.local, fence_history_.get()};
  domain_ = std::make_unique<fence::Domain>(fencing, policy_);
  prover_ = std::make_unique<VolumeMountProver>(storage_fence_.get(), seams_.local, seams_.end_mount);
  burial_ = std::make_unique<MountBurial>(&parts_, prover_.get());
  mounts_ = std::make_unique<Mounts>(&parts_, burial_.get());
  fencer_ = std::make_unique<Fencer>(&parts_, domain_.get(), storage_fence_.get(), seams_.local);
  watch_ = std::make_unique<StateWatch>(&parts_);
}

Task<Status> DaemonCore::OpenQuorumDevice() {
  std::string name = RedactUrl(config_.quorum_device);
  std::function<void(std::string)> on_fenced = [this](std::string why) { OnEvicted("the disk refuses this node: " + why); };
  std::string last;
  Instant begin = parts_.Now();
  while (!quorum_) {
    if (end_ != DaemonEnd::kRunning) co_return Errc::kCancelled;
    auto device = co_await seams_.open_quorum(on_fenced);
    if (device.ok()) {
      quorum_ = std::move(*device);
      break;
    }
    waits_.Set("quorum device", "the start of this node", "the quorum device " + name + ": " + device.error().message);
    if (last != device.error().message) HF_LOG(LogLevel::kWarn, "disk", "not_opened", {{"device", name}, {"error", device.error().ToString()}});
    last = device.error().message;
    co_await SleepFor(Milliseconds(500));
  }
  for (;;) {
    if (end_ != DaemonEnd::kRunning) co_return Errc::kCancelled;
    Status claimed = co_await quorum_->Claim();
    if (claimed.ok()) break;
    waits_.Set("quorum device", "the start of this node", "this node's place on " + name + ": " + claimed.error().message);
    // An older life's last writes may still be under way; a living twin never goes.
    if (claimed.code() == Errc::kBusy && parts_.Now() - begin > Seconds(30))
      co_return Error(Errc::kBusy, "another holdfastd of node " + parts_.self->name + " uses " + name);
    co_await SleepFor(Milliseconds(100));
  }
  waits_.Clear("quorum device");
  if (quorum_->reserved() && !quorum_->persistent())
    notes_.push_back("the array forgets reservations at a power loss (no APTPL): the storage step alone is a weak proof");
  co_return Status();
}

Task<Status> DaemonCore::StartEngine() {
  EngineOptions options;
  options.self = parts_.self->id;
  options.nonce = parts_.nonce;
  options.boot_id = parts_.boot_id;
  options.endpoint = parts_.self->Address();
  options.cluster_name = config_.cluster;
  options.config_version = config_.version;
  options.config_hash = config_.hash;
  for (const auto& node : config_.nodes) options.nodes.push_back(node.id);
  const Timing& t = config_.timing;
  options.timing.heartbeat = t.heartbeat;
  options.timing.token = t.token;
  options.timing.lease = t.lease;
  options.timing.lease_margin = t.lease_margin;
  options.timing.post_join_delay = t.post_join_forever ? Seconds(1'000'000'000) : t.post_join_delay;
  options.timing.disk_token = t.DiskToken();
  if (quorum_) {
    options.disk = quorum_->device();
    options.disk_offset = kVolumeQuorumOffset;
    QuorumDevice* device = quorum_.get();
    options.drain = [device] { return DrainOf(device); };
  }
  options.mutants = mutants_;
  engine_ = std::make_unique<Engine>(options, parts_.executor, parts_.random, parts_.store, seams_.network, this);
  Engine* engine = engine_.get();
  seams_.network->SetReceiver([engine](NodeId from, std::span<const std::byte> message) { engine->OnMessage(from, message); });
  Status started = co_await engine_->Start();
  if (started.ok()) parts_.engine = engine_.get();
  co_return started;
}

Task<void> DaemonCore::Run() {
  co_await timeline_->Load();
  Status loaded = co_await fence_history_->Load();
  if (!loaded.ok()) HF_LOG(LogLevel::kWarn, "fence", "history_not_read", {{"error", loaded.error().ToString()}});
  co_await fencer_->Unfence();
  Status ready;
  if (!config_.quorum_device.empty()) ready = co_await OpenQuorumDevice();
  if (ready.ok() && end_ == DaemonEnd::kRunning) ready = co_await StartEngine();
  if (!ready.ok() && end_ == DaemonEnd::kRunning) {
    HF_LOG(LogLevel::kError, "holdfastd", "not_started", {{"error", ready.error().ToString()}});
    failure_ = ready.error();
    Finish(DaemonEnd::kFailed);
  }
  if (end_ == DaemonEnd::kRunning) {
    HF_LOG(LogLevel::kInfo, "holdfastd", "started", {{"node", parts_.self->name}, {"cluster", config_.cluster}, {"address", parts_.self->Address()}});
    scope_.Spawn(Tick());
  }
  co_await ended_.Wait();
  parts_.over = true;
}

// Nobody else is left to hold the reservation that keeps somebody out: one who was fenced and has not come back may only sleep,
// and what its node, its mounts too, sent before it fell asleep would be written once the last key is gone (cluster.md).
bool DaemonCore::LastToHold(const StatePtr& state) const {
  if (!state) return false;
  bool kept_out = state->fencing_size() > 0;
  for (const Node& node : state->nodes()) {
    if (node.id() == parts_.self->id.v) continue;
    if (node.state() == NodeState::MEMBER) return false;
    kept_out = kept_out || node.state() == NodeState::FENCED || node.state() == NodeState::EVICTED;
  }
  return kept_out;
}

Task<void> DaemonCore::Tick() {
  for (int turn = 0; end_ == DaemonEnd::kRunning; ++turn) {
    watch_->Tick();
    if (turn % 5 == 0) fencer_->Look();
    co_await SleepFor(Milliseconds(50));
  }
}

void DaemonCore::Finish(DaemonEnd end) {
  if (end_ != DaemonEnd::kRunning) return;
  end_ = end;
  parts_.over = true;
  ended_.Set();
}

void DaemonCore::OnState(StatePtr state) {
  if (seams_.see_state) seams_.see_state(state);
  if (end_ != DaemonEnd::kRunning || !parts_.engine) return;
  watch_->OnState(state);
  mounts_->OnState(state);
  fencer_->Look();
}

void DaemonCore::OnLease(Incarnation incarnation, Instant deadline) {
  if (end_ != DaemonEnd::kRunning) return;
  if (seams_.see_lease) seams_.see_lease(incarnation, deadline);
  if (parts_.lease->page().incarnation.load() != incarnation.v) parts_.lease->Begin(incarnation);
  parts_.lease->Extend(deadline);
}

void DaemonCore::OnEvicted(std::string why) {
  if (end_ != DaemonEnd::kRunning) return;
  failure_ = Error(Errc::kFenced, why);
  // First what stops the mounts by itself, then words.
  parts_.lease->Evict();
  HF_LOG(LogLevel::kError, "holdfastd", "evicted", {{"why", why}});
  mounts_->Evict("this node was evicted: " + why);
  timeline_->Event("evicted", parts_.self->name + " (this node): " + why);
  Finish(DaemonEnd::kEvicted);
}

void DaemonCore::RequestLeave(const std::string& why) {
  if (leaving_ || end_ != DaemonEnd::kRunning) return;
  leaving_ = true;
  scope_.Spawn(Leave(why));
}

Task<void> DaemonCore::Leave(std::string why) {
  HF_LOG(LogLevel::kInfo, "holdfastd", "leaving", {{"why", why}, {"mounts", mounts_->list().size()}});
  Instant end = parts_.Now() + std::max(config_.timing.shutdown_timeout, Seconds(1));
  Instant next_request;
  // Burials too: a dead mount's recovery is this node's to begin, and its end is this node's to tell, however short the time that
  // mounts are given: nobody else opens what its readers may still see.
  Instant burials_end = end + config_.timing.lease + config_.timing.lease_margin;
  auto waits = [&] { return (!mounts_->empty() && parts_.Now() < end) || (burial_->running() > 0 && parts_.Now() < burials_end); };
  while (waits() && end_ == DaemonEnd::kRunning) {
    if (parts_.Now() >= next_request && parts_.Now() < end) {
      mounts_->RequestStop(why);
      next_request = parts_.Now() + Seconds(1);
    }
    waits_.Set("leave", "the clean stop of this node",
               mounts_->empty() ? "the burial of a dead mount" : std::to_string(mounts_->list().size()) + " mounts that are still in use");
    co_await SleepFor(Milliseconds(50));
  }
  waits_.Clear("leave");
  if (end_ != DaemonEnd::kRunning) co_return;
  if (!mounts_->empty()) {
    HF_LOG(LogLevel::kError, "holdfastd", "still_mounted", {{"mounts", mounts_->list().size()}, {"advice", "unmount them, then stop again"}});
    leaving_ = false;
    co_return;
  }
  if (parts_.engine) {
    co_await fencer_->Resign();
    bool was_member = parts_.engine->member();
    Status left = co_await parts_.engine->Leave();
    if (end_ != DaemonEnd::kRunning) co_return;
    if (!left.ok() && was_member) {
      // Without a quorum nobody can record it: the survivors will see it as a failure, which is safe.
      HF_LOG(LogLevel::kWarn, "holdfastd", "left_without_record", {{"error", left.error().ToString()}});
    }
    bool keep_key = LastToHold(parts_.engine->state());
    co_await parts_.engine->Stop();
    if (quorum_) co_await quorum_->Release(keep_key);
  }
  HF_LOG(LogLevel::kInfo, "holdfastd", "left");
  co_await timeline_->Close();
  Finish(DaemonEnd::kLeft);
}

}  // namespace holdfast::cluster
