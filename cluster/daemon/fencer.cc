#include "cluster/daemon/fencer.h"

#include "base/log.h"
#include "base/mutants.h"
#include "base/probe.h"
#include "cluster/daemon/timeline.h"

namespace holdfast::cluster {
namespace {

fence::FenceDevice Merge(const Config& config, const DeviceUse& use) {
  fence::FenceDevice device;
  device.name = use.name;
  if (const FenceDeviceConfig* base = config.FindDevice(use.name)) {
    device.agent = base->agent;
    for (const auto& [name, value] : base->attributes) device.attributes[name] = value;
  }
  for (const auto& [name, value] : use.attributes) device.attributes[name] = value;
  return device;
}

cluster::ProofKind KindOf(fence::ProofKind kind) {
  switch (kind) {
    case fence::ProofKind::kPower: return POWER;
    case fence::ProofKind::kPort:
    case fence::ProofKind::kStorage: return STORAGE;
    case fence::ProofKind::kLocal: return LOCAL;
    case fence::ProofKind::kManual: return MANUAL;
    case fence::ProofKind::kRebooted: return REBOOT;
  }
  return NO_PROOF;
}

std::string Words(const fence::FenceProof& proof) { return proof.method + (proof.device.empty() ? "" : "/" + fence::RedactedUrl(proof.device)); }

}  // namespace

std::vector<fence::FenceMethod> FenceMethods(const Config& config, const NodeConfig& node) {
  std::vector<fence::FenceMethod> methods;
  for (const auto& m : node.methods) {
    fence::FenceMethod method{m.name, {}};
    for (const auto& use : m.devices) method.devices.push_back(Merge(config, use));
    methods.push_back(std::move(method));
  }
  return methods;
}

std::vector<fence::FenceDevice> UnfenceDevices(const Config& config, const NodeConfig& node) {
  std::vector<fence::FenceDevice> devices;
  for (const auto& use : node.unfence) devices.push_back(Merge(config, use));
  return devices;
}

FenceArgs Fencer::Args(Life victim) { return {parts_->engine->NewChangeId(), parts_->engine->self(), victim}; }

bool Fencer::Alive(NodeId node) const { return node == parts_->self->id || parts_->engine->PeerAlive(node); }

NodeId Fencer::FencerNow(const ClusterState& state, Life victim) const {
  return FencerFor(state, victim, [this](NodeId node) { return Alive(node); });
}

void Fencer::Look() {
  if (!parts_->engine || parts_->over || resigning_) return;
  StatePtr state = parts_->engine->state();
  Life self = parts_->engine->self();
  if (!state || self.incarnation.v == 0) return;
  for (const Fencing& f : state->fencing()) {
    Life victim{NodeId(f.node()), Incarnation(f.incarnation())};
    if (victim == self || (f.has_token() && f.actions_ended() && f.readers_ended())) continue;
    NodeId fencer = FencerNow(*state, victim);
    auto at_it = works_.find(victim);
    if (at_it != works_.end()) {
      // The node is back and can prove its former life gone itself; ours has not succeeded yet and might hit the new one.
      const Node* node = FindNode(*state, victim.node);
      bool back = victim.node != self.node && node && node->state() == JOINING && node->incarnation() > victim.incarnation.v && Alive(victim.node);
      auto& run = at_it->second->run;
      if (back) HF_PROBE("fencer: the victim is back while it is fenced");
      if (back && run && !run->proven() && !f.has_token()) run->Cancel(parts_->NodeName(victim.node) + " is back");
      continue;
    }
    if (fencer != parts_->self->id || NextLifeComes(f)) continue;
    works_[victim] = std::make_shared<Work>();
    parts_->scope->Spawn(Do(victim));
  }
}

// A holdfastd that starts again is heard some beats before the register has its new life. Our methods would hit that one: a
// power switch does not ask which life it ends. It has a token's time to come; if it cannot join, its former life is fenced.
bool Fencer::NextLifeComes(const Fencing& fencing) const {
  NodeId node(fencing.node());
  if (node == parts_->self->id || !parts_->engine->HearsOtherLife(node, fencing.nonce())) return false;
  auto seen = parts_->engine->EvictionSeenAt({node, Incarnation(fencing.incarnation())});
  bool waits = seen && parts_->Now() < *seen + parts_->config->timing.token;
  if (waits) HF_PROBE("fencer: waits for the victim's next life");
  return waits;
}

Task<void> Fencer::Do(Life victim) {
  std::shared_ptr<Work> work = works_[victim];
  Status done = co_await Fence(victim, work);
  if (!done.ok() && done.code() != Errc::kCancelled && done.code() != Errc::kBusy && done.code() != Errc::kNotFound)
    HF_LOG(LogLevel::kWarn, "fence", "given_up_for_now", {{"victim", ToString(victim)}, {"error", done.error().ToString()}});
  // Somebody else is at it, or it failed: Look tries again later if it is still ours.
  if (!done.ok()) HF_PROBE("fencer: failed, looks again");
  if (!done.ok()) co_await SleepFor(Milliseconds(200));
  works_.erase(victim);
  Look();
}

Task<Status> Fencer::Fence(Life victim, std::shared_ptr<Work> work) {
  StatePtr state = parts_->engine->state();
  const Fencing* fencing = FindFencing(*state, victim);
  if (!fencing) co_return Status();
  if (!fencing->has_token() || !fencing->actions_ended()) {
    work->doing = "claiming";
    FenceArgs args = Args(victim);
    // Asked of the state that the claim changes: the victim's next life may have come into the register meanwhile.
    ChangeFn claim = [this, args, victim](const ClusterState& s) -> Result<ClusterState> {
      if (FencerNow(s, victim) != parts_->self->id) return Error(Errc::kConflict, "another node is to fence " + ToString(victim));
      return ClaimFencer(s, args);
    };
    auto claimed = co_await Persist(parts_, claim);
    if (!claimed.ok()) co_return claimed.error();
    fencing = FindFencing(**claimed, victim);
    if (!fencing) co_return Status();
    if (!fencing->has_token()) HF_CO_TRY(co_await Prove(victim, work));
    HF_CO_TRY(co_await EndActions(victim, work));
  }
  Status ended = co_await EndReaders(victim, work);
  co_return ended;
}

Task<Status> Fencer::Prove(Life victim, std::shared_ptr<Work> work) {
  StatePtr state = parts_->engine->state();
  const Fencing* fencing = FindFencing(*state, victim);
  if (!fencing) co_return Errc::kNotFound;
  std::string name = ToString(victim);
  parts_->timeline->Note(name, Phase::kFencing, "by " + parts_->self->name);
  HF_LOG(LogLevel::kWarn, "fence", "begin", {{"victim", name}, {"node", parts_->NodeName(victim.node)}, {"reason", fencing->reason()}});
  work->doing = "fencing";
  bool former_self = victim.node == parts_->self->id;
  Result<std::vector<FenceProof>> proofs = Errc::kNotFound;
  if (HF_MUTANT(kTokenBeforeProof)) {
    FenceProof believed;
    believed.set_kind(STORAGE);
    proofs = std::vector<FenceProof>(1, believed);
  } else if (former_self) {
    HF_PROBE("fencer: proves its former life gone");
    proofs = co_await ProveFormerSelf(victim, work);
  } else {
    proofs = co_await ProveOther(victim, work);
  }
  if (!proofs.ok()) co_return proofs.error();
  if (proofs->empty()) co_return Error(Errc::kInvalid, "fencing ended without a sufficient proof");
  std::vector<FenceProof> words = *proofs;
  FenceArgs args = Args(victim);
  ChangeFn write = [args, words](const ClusterState& s) { return WriteToken(s, args, words); };
  auto written = co_await Persist(parts_, write);
  if (!written.ok()) co_return written.error();
  HF_LOG(LogLevel::kInfo, "fence", "fenced", {{"victim", name}, {"proof", words[0].by()}});
  if (work->readers_ended) {
    args = Args(victim);
    ChangeFn open = [args](const ClusterState& s) { return ReadersEnded(s, args); };
    auto opened = co_await Persist(parts_, open);
    if (!opened.ok()) co_return opened.error();
  }
  co_return Status();
}

Task<Result<std::vector<FenceProof>>> Fencer::ProveOther(Life victim, std::shared_ptr<Work> work) {
  StatePtr state = parts_->engine->state();
  const Fencing* fencing = FindFencing(*state, victim);
  if (!fencing) co_return Errc::kNotFound;
  fence::Victim target = VictimOf(*fencing);
  std::vector<fence::FenceMethod> methods;
  if (const NodeConfig* node = parts_->config->FindNode(victim.node)) methods = FenceMethods(*parts_->config, *node);
  fence::StepSink sink = [this, victim](const fence::FenceStep& step) { OnStep(victim, step); };
  work->run = domain_->Fence(target, methods, sink);
  auto proofs = co_await work->run->AwaitProof();
  if (!proofs.ok()) {
    HF_PROBE("fencer: run gave up, resigns");
    // Given up: only when no action runs any more may another take over.
    co_await work->run->AwaitEnd();
    FenceArgs args = Args(victim);
    ChangeFn resign = [args](const ClusterState& s) { return ResignFencer(s, args); };
    (void)co_await Persist(parts_, resign);
    co_return proofs.error();
  }
  std::vector<FenceProof> out;
  for (const auto& p : *proofs) {
    if (!p.sufficient) continue;
    FenceProof proof;
    proof.set_kind(KindOf(p.kind));
    proof.set_by(Words(p));
    proof.set_detail(p.details);
    out.push_back(std::move(proof));
    work->readers_ended = work->readers_ended || p.readers_ended;
  }
  co_return out;
}

// Nothing here may hit this life: no power, no cgroup. Its own reservation keys preempted and drained, or its mounts'
// bytes locked by us. (Its holdfastd's byte is ours already: quorum_device.h.)
Task<Result<std::vector<FenceProof>>> Fencer::ProveFormerSelf(Life victim, std::shared_ptr<Work> work) {
  StatePtr state = parts_->engine->state();
  const Fencing* fencing = FindFencing(*state, victim);
  if (!fencing) co_return Errc::kNotFound;
  fence::Victim target = VictimOf(*fencing);
  std::vector<FenceProof> out;
  for (const fence::VictimVolume& volume : target.volumes) {
    work->doing = "proving that nothing of the former life writes to " + fence::RedactedUrl(volume.volume);
    for (;;) {
      if (parts_->over || resigning_) co_return Errc::kCancelled;
      auto proof = co_await ProveVolume(target, volume);
      if (proof.ok()) {
        out.push_back(*proof);
        break;
      }
      work->doing = "former life: " + proof.error().message;
      co_await SleepFor(Milliseconds(200));
    }
  }
  if (out.empty()) {
    FenceProof proof;
    proof.set_kind(LOCAL);
    proof.set_by("its only process was this node's holdfastd, which ended");
    out.push_back(std::move(proof));
  }
  co_return out;
}

Task<Result<FenceProof>> Fencer::ProveVolume(fence::Victim victim, fence::VictimVolume volume) {
  FenceProof proof;
  if (storage_->Supports(volume.volume)) {
    fence::StorageSteps steps = [](const std::string&, const std::string&, const Status*) {};
    auto done = co_await storage_->Fence(volume.volume, victim.keys, true, steps);
    if (!done.ok()) co_return done.error();
    proof.set_kind(STORAGE);
    proof.set_by("storage: former life's keys preempted, drained");
    proof.set_detail(done->details);
    co_return proof;
  }
  volume.daemon = false;
  std::vector<uint64_t> bytes = fence::BytesOf(victim.node, volume);
  std::function<bool()> stop = [this] { return parts_->over || resigning_; };
  Status locked = co_await local_->AwaitBytes(volume.volume, bytes, Seconds(1), stop);
  if (!locked.ok()) co_return locked.error();
  proof.set_kind(LOCAL);
  proof.set_by("byte locks of the former life's mounts taken");
  co_return proof;
}

Task<Status> Fencer::EndActions(Life victim, std::shared_ptr<Work> work) {
  work->doing = "waiting for the last action to end";
  if (work->run) co_await work->run->AwaitEnd();
  FenceArgs args = Args(victim);
  ChangeFn end = [args](const ClusterState& state) { return FenceActionsEnded(state, args); };
  auto ended = co_await Persist(parts_, end);
  if (!ended.ok()) co_return ended.error();
  co_return Status();
}

Task<Status> Fencer::EndReaders(Life victim, std::shared_ptr<Work> work) {
  StatePtr state = parts_->engine->state();
  const Fencing* fencing = FindFencing(*state, victim);
  if (!fencing || fencing->readers_ended()) co_return Status();
  work->doing = "waiting for its cached readers to end";
  const Timing& t = parts_->config->timing;
  Instant seen = parts_->engine->EvictionSeenAt(victim).value_or(parts_->Now());
  if (!HF_MUTANT(kReadersEndAtOnce)) co_await SleepUntil(seen + t.lease + t.lease_margin);
  FenceArgs args = Args(victim);
  ChangeFn open = [args](const ClusterState& s) { return ReadersEnded(s, args); };
  auto opened = co_await Persist(parts_, open);
  if (!opened.ok() && opened.code() != Errc::kConflict) co_return opened.error();
  co_return Status();
}

fence::Victim Fencer::VictimOf(const Fencing& fencing) const {
  fence::Victim victim;
  victim.node = NodeId(fencing.node());
  victim.name = parts_->NodeName(victim.node);
  victim.incarnation = Incarnation(fencing.incarnation());
  for (uint64_t key : fencing.keys()) victim.keys.push_back(key);
  std::map<std::string, fence::VictimVolume> volumes;
  if (!parts_->config->quorum_device.empty()) {
    auto& v = volumes[parts_->config->quorum_device];
    v.volume = parts_->config->quorum_device;
    v.daemon = true;
  }
  for (const auto& m : fencing.mounts()) {
    auto& v = volumes[m.volume_url()];
    v.volume = m.volume_url();
    v.mounts.push_back(MountNo(m.mount()));
  }
  for (auto& [url, volume] : volumes) victim.volumes.push_back(std::move(volume));
  return victim;
}

void Fencer::OnStep(Life victim, const fence::FenceStep& step) {
  std::string words = step.method + "/" + step.device + " " + step.action + " " + std::string(fence::OutcomeName(step.outcome)) +
                      (step.details.empty() ? "" : ": " + step.details);
  HF_LOG(LogLevel::kInfo, "fence", "step", {{"victim", ToString(victim)}, {"step", words}, {"ms", step.took.ms()}});
  if (step.outcome == fence::StepOutcome::kFailed || step.outcome == fence::StepOutcome::kTimedOut)
    parts_->timeline->Note(ToString(victim), Phase::kFencing, words);
}

void Fencer::Show(StatusTree& list) const {
  StatePtr state = parts_->engine ? parts_->engine->state() : nullptr;
  if (!state) return;
  for (const Fencing& f : state->fencing()) {
    Life victim{NodeId(f.node()), Incarnation(f.incarnation())};
    StatusTree& line = list.Add("victim");
    line.Add("victim", ToString(victim));
    line.Add("node", parts_->NodeName(victim.node));
    std::string proof = f.has_token() ? ProofName(f.token().kind()) : "";
    line.Add("state", !f.has_token() ? "fencing" : !f.actions_ended() ? "fenced, actions still run" : !f.readers_ended() ? "fenced, cached readers may live" : "fenced");
    line.Add("proof", proof);
    line.Add("fencer", f.fencer_node() == 0 ? "" : parts_->NodeName(NodeId(f.fencer_node())));
    line.Add("reason", f.reason());
    if (f.has_token() && f.token().proofs_size() > 0) line.Add("by", f.token().proofs(0).by());
    auto work = works_.find(victim);
    if (work != works_.end()) line.Add("doing", work->second->run && !f.has_token() ? work->second->run->doing() : work->second->doing);
  }
}

Task<Status> Fencer::Acknowledge(std::string node_name, std::string who) {
  const NodeConfig* node = parts_->config->FindNode(node_name);
  if (!node) co_return Error(Errc::kNotFound, "there is no node '" + node_name + "' in cluster.conf");
  StatePtr state = parts_->engine->state();
  bool waiting = false;
  for (int i = 0; state && i < state->fencing_size(); ++i)
    if (state->fencing(i).node() == node->id.v && !state->fencing(i).has_token()) {
      waiting = true;
      (void)domain_->Acknowledge(node->id, Incarnation(state->fencing(i).incarnation()), who);
    }
  if (!waiting) co_return Error(Errc::kNotFound, node_name + " does not wait for fencing");
  ManualAckArgs args{parts_->engine->NewChangeId(), node->id, who};
  ChangeFn acknowledge = [args](const ClusterState& s) { return ManualAck(s, args); };
  auto done = co_await parts_->engine->Change(acknowledge);
  if (!done.ok() && done.code() != Errc::kNotFound) co_return done.error();
  HF_LOG(LogLevel::kWarn, "fence", "acknowledged", {{"node", node_name}, {"who", who}});
  parts_->timeline->Event("fence ack", node_name + " by " + who);
  co_return Status();
}

Task<StatusTree> Fencer::Check() {
  StatusTree tree("check");
  bool all = true;
  StatusTree list("devices", "[]");
  for (const auto& node : parts_->config->nodes) {
    std::vector<fence::FenceMethod> methods = FenceMethods(*parts_->config, node);
    std::string name = node.name;
    auto results = co_await domain_->Check(name, methods);
    for (const auto& r : results) {
      StatusTree& line = list.Add("device");
      line.Add("node", node.name);
      line.Add("method", r.method);
      line.Add("device", r.device);
      line.Add("ok", r.ok ? "true" : "false");
      line.Add("details", r.details);
      all = all && r.ok;
    }
    if (methods.empty()) all = false;
  }
  tree.Add("ok", all ? "true" : "false");
  tree.children.push_back(std::move(list));
  co_return tree;
}

Task<void> Fencer::Unfence() {
  std::vector<fence::FenceDevice> devices = UnfenceDevices(*parts_->config, *parts_->self);
  if (devices.empty()) co_return;
  std::string name = parts_->self->name;
  fence::StepSink sink = [](const fence::FenceStep&) {};
  Status done = co_await domain_->Unfence(name, devices, sink);
  if (!done.ok()) HF_LOG(LogLevel::kError, "fence", "unfence_failed", {{"error", done.error().ToString()}});
}

Task<void> Fencer::Resign() {
  resigning_ = true;
  auto works = works_;
  for (auto& [victim, work] : works) {
    if (work->run) work->run->Cancel("this node leaves");
    FenceArgs args = Args(victim);
    ChangeFn resign = [args](const ClusterState& state) { return ResignFencer(state, args); };
    (void)co_await parts_->engine->Change(resign);
  }
}

}  // namespace holdfast::cluster
