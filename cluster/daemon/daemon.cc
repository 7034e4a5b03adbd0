#include "cluster/daemon/daemon.h"

#include <sys/stat.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "base/log.h"
#include "io/reactor.h"

namespace holdfast::cluster {
namespace {

std::string BootId() {
  char text[64] = {};
  if (FILE* file = std::fopen("/proc/sys/kernel/random/boot_id", "r")) {
    if (!std::fgets(text, sizeof text, file)) text[0] = 0;
    std::fclose(file);
  }
  std::string id = text;
  while (!id.empty() && id.back() == '\n') id.pop_back();
  return id;
}

Status MakeDirectory(const std::string& path) {
  if (::mkdir(path.c_str(), 0700) == 0 || errno == EEXIST) return {};
  return Error(Errc::kIo, path + ": " + std::strerror(errno));
}

Task<Status> DrainOf(QuorumDevice* device) {
  Status drained = co_await device->Drain();
  co_return drained;
}

}  // namespace

Daemon::Daemon(io::Reactor* reactor, DaemonOptions options, Config config, KeyPair keys, std::vector<std::string> notes)
    : options_(std::move(options)), config_(std::move(config)), keys_(std::move(keys)), notes_(std::move(notes)),
      processes_(reactor), waits_(&reactor->clock()) {
  parts_.reactor = reactor;
  parts_.executor = reactor;
  parts_.pool = &pool_;
  parts_.random = &random_;
  parts_.processes = &processes_;
  parts_.config = &config_;
  parts_.self = config_.FindNode(options_.node);
  do parts_.nonce = random_.Next();
  while (parts_.nonce == 0);
  parts_.boot_id = BootId();
  parts_.waits = &waits_;
  parts_.scope = &scope_;
}

Daemon::~Daemon() { scope_.Abandon(); }

Status Daemon::Begin() {
  HF_TRY(MakeDirectory(options_.state_dir));
  HF_TRY(MakeDirectory(options_.run_dir));
  // The socket first: it also tells whether another holdfastd of this node runs.
  auto server = io::ControlServer::Listen(*parts_.reactor, options_.run_dir + "/holdfastd.sock", [this](auto connection) { OnAccept(std::move(connection)); });
  if (!server.ok()) return server.error();
  server_ = std::move(*server);
  auto store = io::RocksStore::Open(&pool_, options_.state_dir + "/store");
  if (!store.ok()) return store.error();
  store_ = std::move(*store);
  parts_.store = store_.get();
  auto lease = LeaseWriter::Create(options_.run_dir + "/lease");
  if (!lease.ok()) return lease.error();
  lease_ = std::move(*lease);
  parts_.lease = lease_.get();
  auto network = Network::Create(&parts_, keys_);
  if (!network.ok()) return network.error();
  network_ = std::move(*network);

  timeline_ = std::make_unique<Timeline>(store_.get(), parts_.executor);
  parts_.timeline = timeline_.get();
  sessions_ = std::make_unique<io::IscsiReservationSessions>(parts_.reactor, "");
  storage_fence_ = std::make_unique<fence::PrFence>(sessions_.get(), ReservationKeyOf(parts_.self->id, parts_.nonce, fence::kFencerProcess));
  local_fence_ = std::make_unique<fence::LocalFence>(parts_.executor);
  fence_history_ = std::make_unique<fence::History>(store_.get());
  fence::FenceSeams seams{parts_.executor, &processes_, storage_fence_.get(), local_fence_.get(), fence_history_.get()};
  fence::FencePolicy policy;
  policy.post_fail_delay = config_.timing.post_fail_delay;
  domain_ = std::make_unique<fence::Domain>(seams, policy);
  prover_ = std::make_unique<VolumeMountProver>(storage_fence_.get(), local_fence_.get());
  burial_ = std::make_unique<MountBurial>(&parts_, prover_.get());
  mounts_ = std::make_unique<Mounts>(&parts_, burial_.get());
  fencer_ = std::make_unique<Fencer>(&parts_, domain_.get(), storage_fence_.get(), local_fence_.get());
  watch_ = std::make_unique<StateWatch>(&parts_);
  return {};
}

Task<Status> Daemon::OpenQuorumDevice() {
  std::string name = RedactUrl(config_.quorum_device);
  std::function<void(std::string)> on_fenced = [this](std::string why) { OnEvicted("the disk refuses this node: " + why); };
  std::string last;
  Instant begin = parts_.Now();
  while (!quorum_) {
    if (end_ != DaemonEnd::kRunning) co_return Errc::kCancelled;
    auto device = co_await QuorumDevice::Open(&parts_, on_fenced);
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

Task<Status> Daemon::StartEngine() {
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
  options.timing.disk_token = std::max(Seconds(10), t.token * 2);
  if (quorum_) {
    options.disk = quorum_->device();
    options.disk_offset = kVolumeQuorumOffset;
    QuorumDevice* device = quorum_.get();
    options.drain = [device] { return DrainOf(device); };
  }
  engine_ = std::make_unique<Engine>(options, parts_.executor, &random_, store_.get(), network_.get(), this);
  Engine* engine = engine_.get();
  network_->SetReceiver([engine](NodeId from, std::span<const std::byte> message) { engine->OnMessage(from, message); });
  Status started = co_await engine_->Start();
  if (started.ok()) parts_.engine = engine_.get();
  co_return started;
}

Task<void> Daemon::Run() {
  co_await timeline_->Load();
  Status loaded = co_await fence_history_->Load();
  if (!loaded.ok()) HF_LOG(LogLevel::kWarn, "fence", "history_not_read", {{"error", loaded.error().ToString()}});
  co_await fencer_->Unfence();
  Status ready;
  if (!config_.quorum_device.empty()) ready = co_await OpenQuorumDevice();
  if (ready.ok() && end_ == DaemonEnd::kRunning) ready = co_await StartEngine();
  if (!ready.ok() && end_ == DaemonEnd::kRunning) {
    HF_LOG(LogLevel::kError, "holdfastd", "not_started", {{"error", ready.error().ToString()}});
    std::fprintf(stderr, "holdfastd: %s\n", ready.error().message.c_str());
    Finish(DaemonEnd::kFailed);
  }
  if (end_ == DaemonEnd::kRunning) {
    HF_LOG(LogLevel::kInfo, "holdfastd", "started", {{"node", parts_.self->name}, {"cluster", config_.cluster}, {"address", parts_.self->Address()}});
    scope_.Spawn(Tick());
  }
  co_await ended_.Wait();
  parts_.over = true;
}

Task<void> Daemon::Tick() {
  for (int turn = 0; end_ == DaemonEnd::kRunning; ++turn) {
    watch_->Tick();
    if (turn % 5 == 0) fencer_->Look();
    co_await SleepFor(Milliseconds(50));
  }
}

void Daemon::Finish(DaemonEnd end) {
  if (end_ != DaemonEnd::kRunning) return;
  end_ = end;
  parts_.over = true;
  ended_.Set();
}

void Daemon::OnState(StatePtr state) {
  if (end_ != DaemonEnd::kRunning || !parts_.engine) return;
  watch_->OnState(state);
  mounts_->OnState(state);
  fencer_->Look();
}

void Daemon::OnLease(Incarnation incarnation, Instant deadline) {
  if (end_ != DaemonEnd::kRunning) return;
  if (lease_->page().incarnation.load() != incarnation.v) lease_->Begin(incarnation);
  lease_->Extend(deadline);
}

void Daemon::OnEvicted(std::string why) {
  if (end_ != DaemonEnd::kRunning) return;
  // First what stops the mounts by itself, then words.
  lease_->Evict();
  HF_LOG(LogLevel::kError, "holdfastd", "evicted", {{"why", why}});
  mounts_->Evict("this node was evicted: " + why);
  timeline_->Event("evicted", parts_.self->name + " (this node): " + why);
  Finish(DaemonEnd::kEvicted);
}

void Daemon::RequestLeave(const std::string& why) {
  if (leaving_ || end_ != DaemonEnd::kRunning) return;
  leaving_ = true;
  scope_.Spawn(Leave(why));
}

Task<void> Daemon::Leave(std::string why) {
  HF_LOG(LogLevel::kInfo, "holdfastd", "leaving", {{"why", why}, {"mounts", mounts_->list().size()}});
  Instant end = parts_.Now() + std::max(config_.timing.shutdown_timeout, Seconds(1));
  Instant next_request;
  // Burials too: a dead mount's recovery is this node's to begin.
  while ((!mounts_->empty() || burial_->running() > 0) && parts_.Now() < end && end_ == DaemonEnd::kRunning) {
    if (parts_.Now() >= next_request) {
      mounts_->RequestStop(why);
      next_request = parts_.Now() + Seconds(1);
    }
    waits_.Set("leave", "the clean stop of this node", std::to_string(mounts_->list().size()) + " mounts that are still in use");
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
    StatePtr state = parts_.engine->state();
    bool keep_key = state && state->fencing_size() > 0;
    co_await parts_.engine->Stop();
    if (quorum_) co_await quorum_->Release(keep_key);
  }
  HF_LOG(LogLevel::kInfo, "holdfastd", "left");
  co_await timeline_->Close();
  Finish(DaemonEnd::kLeft);
}

}  // namespace holdfast::cluster
