// Assembly of the cores: loops, messages, verdicts into transitions. See engine.h. The parts decide; this file only carries
// what one says to the other:
//   Beat     every heartbeat: our row and version to everybody; acknowledgements come back to the lease
//   Tick     every quarter heartbeat: the membership's verdict; one action at a time goes to the register
//   DiskLoop every heartbeat: drain and twin check first; then write our beat, read all, learn newer decided values
#include "cluster/engine.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "cluster/disk_acceptor.h"
#include "cluster/disk_beats.h"
#include "cluster/lease.h"
#include "cluster/membership.h"
#include "cluster/node_acceptor.h"
#include "cluster/register.h"

namespace holdfast::cluster {

namespace {

NodeId Highest(const std::vector<NodeId>& nodes) { return nodes.empty() ? NodeId(1) : *std::max_element(nodes.begin(), nodes.end()); }

RegisterOptions RegisterOptionsOf(const EngineOptions& options) {
  RegisterOptions out;
  out.self = options.self;
  out.nonce = options.nonce;
  out.nodes = options.nodes;
  out.attempt = options.timing.attempt;
  out.mutants = options.mutants;
  return out;
}

DiskAcceptorOptions DiskOptionsOf(const EngineOptions& options) {
  DiskAcceptorOptions out;
  out.self = options.self;
  out.nonce = options.nonce;
  out.offset = options.disk_offset;
  out.nodes = options.nodes;
  out.drain = options.drain;
  out.mutants = options.mutants;
  return out;
}

}  // namespace

struct Engine::Impl {
  Impl(EngineOptions o, Executor* e, Random* r, KvStore* store, PeerSender* s, EngineHandler* h)
      : options(std::move(o)), executor(e), random(r), sender(s), handler(h), acceptor(store, r),
        membership(options.self, options.nonce, options.nodes, options.timing, options.disk != nullptr, r),
        lease(options.timing.lease) {
    std::sort(options.nodes.begin(), options.nodes.end());
    if (options.disk != nullptr) {
      disk = std::make_unique<DiskAcceptor>(DiskOptionsOf(options), options.disk);
      beats = std::make_unique<DiskBeats>(options.disk, options.disk_offset, options.self, Highest(options.nodes));
    }
    reg = std::make_unique<Register>(RegisterOptionsOf(options), e, r, &acceptor, disk.get(),
                                     [this](NodeId to, const RegisterMessage& message) { SendRegister(to, message); });
    reg->SetWatcher([this] { OnDecided(); });
    reg->SetForked([this](std::string why) { End(std::move(why)); });
  }

  Instant Now() const { return executor->clock().Now(); }
  Life self() const { return {options.self, incarnation}; }
  bool IsMemberNow() const { return state != nullptr && !over && IsMember(*state, self()); }

  // ---- sending ----
  void Send(NodeId to, PeerMessage& message) {
    message.set_nonce(options.nonce);
    message.set_cluster(options.cluster_name);
    sender->Send(to, message.SerializeAsString());
  }
  void SendRegister(NodeId to, const RegisterMessage& body) {
    PeerMessage message;
    *message.mutable_reg() = body;
    Send(to, message);
  }
  void Beat() {
    Instant now = Now();
    last_row = membership.Hears(now);
    ++sequence;
    PeerMessage message;
    auto* beat = message.mutable_heartbeat();
    beat->set_incarnation(incarnation.v);
    beat->set_sequence(sequence);
    beat->set_version(state == nullptr ? 0 : state->version());
    beat->set_joining(!IsMemberNow());
    beat->set_leaving(leaving);
    beat->set_disk_ok(membership.disk_ok(now));
    beat->set_storage(acceptor.storage());
    beat->set_hears(ToBytes(last_row));
    beat->set_sees_disk(ToBytes(membership.SeesOnDisk(now)));
    lease.Sent(sequence, now);
    lease_before_disk = sequence;
    if (!AcceptedWithout(options.self, options.nonce)) lease.Acked(sequence, options.self.v, acceptor.storage());
    for (NodeId node : options.nodes)
      if (node != options.self) Send(node, message);
    EvaluateLease();
  }

  // ---- the lease ----
  // Our acceptor has accepted, or we know as decided, a value in which that life is neither member nor joining.
  bool AcceptedWithout(NodeId node, uint64_t nonce) {
    for (const StatePtr& value : {reg->accepted_here(), state}) {
      if (value == nullptr) continue;
      const Node* entry = FindNode(*value, node);
      if (entry == nullptr || entry->nonce() != nonce || (entry->state() != MEMBER && entry->state() != JOINING)) return true;
    }
    return false;
  }
  void EvaluateLease() {
    if (!IsMemberNow() || leaving) return;
    Instant before = lease.deadline();
    lease.Evaluate(*state);
    if (lease.deadline() == before) return;
    Instant deadline = lease.deadline();
    Life life = self();
    Post([this, life, deadline] { handler->OnLease(life.incarnation, deadline); });
  }
  void Post(std::function<void()> fn) {
    auto alive = this->alive;
    executor->Post([alive, fn = std::move(fn)] {
      if (*alive) fn();
    });
  }

  // ---- receiving ----
  void OnMessage(NodeId from, std::span<const std::byte> bytes) {
    if (!running || from == options.self || std::find(options.nodes.begin(), options.nodes.end(), from) == options.nodes.end()) return;
    PeerMessage message;
    if (!message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())) || message.cluster() != options.cluster_name ||
        message.nonce() == 0) {
      ++refused;
      return;
    }
    if (message.has_reg()) reg->OnMessage(from, message.reg());
    if (message.has_heartbeat()) OnHeartbeat(from, message.nonce(), message.heartbeat());
    if (message.has_ack() && message.ack().to_nonce() == options.nonce) {
      lease.Acked(message.ack().sequence(), from.v, message.ack().storage());
      EvaluateLease();
    }
  }
  void OnHeartbeat(NodeId from, uint64_t nonce, const Heartbeat& beat) {
    membership.OnHeartbeat(from, nonce, beat, Now());
    if (beat.version() > (state == nullptr ? 0 : state->version())) reg->Fetch(from);
    if (!AcceptedWithout(from, nonce)) {
      PeerMessage message;
      message.mutable_ack()->set_to_nonce(nonce);
      message.mutable_ack()->set_sequence(beat.sequence());
      message.mutable_ack()->set_storage(acceptor.storage());
      Send(from, message);
    }
    RowChanged();
  }
  // Whom we hear has changed: everybody hears of it now, not with the next beat.
  void RowChanged() {
    if (membership.Hears(Now()) == last_row) return;
    Beat();
    disk_wake.WakeAll();
  }

  // ---- a newer decided state ----
  void OnDecided() {
    state = reg->decided();
    Instant now = Now();
    membership.OnState(state, now);
    for (const auto& entry : state->fencing())
      eviction_seen.try_emplace(Life{NodeId(entry.node()), Incarnation(entry.incarnation())}, now);
    std::erase_if(eviction_seen, [this](const auto& seen) { return FindFencing(*state, seen.first) == nullptr; });
    const Node* node = FindNode(*state, options.self);
    if (node != nullptr && node->nonce() == options.nonce) {
      incarnation = Incarnation(node->incarnation());
      if (node->state() != JOINING && node->state() != MEMBER && !left) End("evicted from the cluster: " + Reason());
    } else if (incarnation.v != 0) {
      End("another life of this node has joined");
    }
    StatePtr told = state;
    Post([this, told] { handler->OnState(told); });
    EvaluateLease();
  }
  std::string Reason() const {
    const Fencing* entry = FindFencing(*state, self());
    return entry == nullptr ? StateName(FindNode(*state, options.self)->state()) : entry->reason();
  }
  void End(std::string why) {
    if (over) return;
    over = true;
    lease.Drop();
    HF_LOG(LogLevel::kWarn, "cluster", "life_over", {{"node", options.self}, {"why", why}});
    Post([this, why] { handler->OnEvicted(why); });
  }

  // ---- timers ----
  void ArmBeat() {
    beat_timer = executor->PostAt(Now() + options.timing.heartbeat, [this] {
      if (!running) return;
      Beat();
      ArmBeat();
    });
  }
  void ArmTick() {
    tick_timer = executor->PostAt(Now() + options.timing.heartbeat / 4, [this] {
      if (!running) return;
      Tick();
      ArmTick();
    });
  }
  void Tick() {
    RowChanged();
    if (over || leaving) return;
    Verdict verdict = membership.Tick(Now());
    if (acting || stopping) return;
    ChangeFn change;
    bool confirmed = false;
    if (!joined_asked() && options.join && disk_tried) {
      change = JoinChange();
    } else if (NeedsReadmission(&change)) {
      confirmed = true;
    } else if (verdict.kind != Verdict::Kind::kNothing) {
      change = ChangeOf(verdict);
    }
    if (!change) return;
    acting = true;
    auto act = Act(std::move(change), confirmed);
    background.Spawn(std::move(act));
  }
  bool joined_asked() const {
    const Node* node = state == nullptr ? nullptr : FindNode(*state, options.self);
    return node != nullptr && node->nonce() == options.nonce;
  }
  ChangeFn JoinChange() {
    BeginJoinArgs args;
    args.change = NewId();
    args.node = options.self;
    args.nonce = options.nonce;
    args.boot_id = options.boot_id;
    args.endpoint = options.endpoint;
    args.cluster_name = options.cluster_name;
    args.config_version = options.config_version;
    args.config_hash = options.config_hash;
    return [args](const ClusterState& s) { return BeginJoin(s, args); };
  }
  bool NeedsReadmission(ChangeFn* change) {
    if (state == nullptr) return false;
    for (const auto& entry : state->acceptors().acceptors()) {
      if (entry.node() != options.self.v || entry.storage() == acceptor.storage()) continue;
      ReadmitStorageArgs args{NewId(), options.self, entry.storage(), acceptor.storage()};
      *change = [args](const ClusterState& s) { return ReadmitStorage(s, args); };
      return true;
    }
    return false;
  }
  ChangeFn ChangeOf(const Verdict& verdict) {
    switch (verdict.kind) {
      case Verdict::Kind::kEvict: {
        EvictArgs args{NewId(), self(), verdict.victims, verdict.reason};
        for (const auto& victim : verdict.victims)
          HF_LOG(LogLevel::kWarn, "cluster", "evict_proposed", {{"victim", ToString(victim)}, {"why", verdict.reason}});
        return [this, args](const ClusterState& s) -> Result<ClusterState> {
          if (!membership.StillEvicts(args.victims)) return Error(Errc::kConflict, "the picture has changed");
          return Evict(s, args);
        };
      }
      case Verdict::Kind::kAdmit: {
        AdmitJoinArgs args{NewId(), self(), verdict.joiners};
        return [args](const ClusterState& s) { return AdmitJoin(s, args); };
      }
      case Verdict::Kind::kColdStart: {
        ColdStartArgs args{NewId(), self(), verdict.joiners, verdict.victims};
        return [args](const ClusterState& s) { return ColdStart(s, args); };
      }
      default:
        return {};
    }
  }
  Task<void> Act(ChangeFn change, bool confirmed) {
    ChangeOptions how;
    how.confirmed = confirmed;
    how.limit = options.timing.token;  // the verdict is a fresh one after that
    auto changing = reg->Change(std::move(change), how);
    auto result = co_await std::move(changing);
    action_error = result.ok() ? std::string() : result.error().ToString();
    if (!result.ok() && (result.code() == Errc::kInvalid || result.code() == Errc::kStale)) {
      // A refusal that will be the same next time: not too often.
      if (!stopping) co_await SleepFor(options.timing.token);
    }
    acting = false;
  }
  uint64_t NewId() {
    uint64_t id = 0;
    while (id == 0) id = random->Next();
    return id;
  }

  // ---- the disk ----
  Task<Status> AttachDisk() {
    auto attached = co_await disk->Attach();
    if (!attached.ok()) co_return attached.error();
    // A store that is behind what this node had noted on the disk is an old copy: its memory counts as lost.
    OwnAcceptor noted = disk->noted();
    if (noted.storage != 0 && noted.storage == acceptor.storage() && noted.accepted > acceptor.accepted()) {
      auto forgotten = co_await acceptor.Forget();
      if (!forgotten.ok()) co_return forgotten.error();
    }
    auto twin = co_await beats->CheckTwin(disk->area_id(), options.nonce, options.timing.heartbeat * 5 / 2);
    co_return twin;
  }
  DiskBeat OwnDiskBeat() {
    DiskBeat beat;
    beat.incarnation = incarnation.v;
    beat.nonce = options.nonce;
    beat.decided_version = state == nullptr ? 0 : state->version();
    beat.decided_ballot = reg->decided_ballot();
    beat.flags = (leaving ? kBeatLeaving : 0) | (IsMemberNow() ? 0 : kBeatJoining);
    NodeSet row = membership.Hears(Now());
    for (size_t i = 0; i < 256; ++i)
      if (row.test(i)) beat.hears[i / 64] |= uint64_t{1} << (i % 64);
    return beat;
  }
  Task<Status> DiskTurn() {
    uint64_t covers = lease_before_disk;  // the newest network beat before this one
    auto writing = beats->Write(OwnDiskBeat());
    auto written = co_await std::move(writing);
    if (!written.ok()) co_return written.error();
    auto read = co_await beats->ReadAll();
    if (!read.ok()) co_return read.error();
    membership.OnDiskBeats(*read, Now());
    DiskBeat newest;
    for (const auto& beat : *read)
      if (beat.decided_version > newest.decided_version) newest = beat;
    if (newest.decided_version > (state == nullptr ? 0 : state->version()) && newest.decided_version != 0)
      co_await reg->FetchFromDisk(newest.decided_ballot);
    if (IsMemberNow() && lease.DiskWouldHelp(*state, covers, disk->area_id())) {
      auto highest = co_await disk->HighestAccepted();
      if (!highest.ok()) co_return highest.error();
      if (*highest <= reg->decided_ballot()) {
        lease.Acked(covers, 0, disk->area_id());
        EvaluateLease();
      } else if (!acting && !stopping) {
        // Something newer stands there, decided or not: settle it before the disk's votes count for us.
        acting = true;
        ChangeFn settle;
        auto act = Act(std::move(settle), false);
        background.Spawn(std::move(act));
      }
    }
    co_return Status();
  }
  Task<void> WaitDisk(Duration delay) {
    TimerId timer = executor->PostAt(Now() + delay, [this] { disk_wake.WakeAll(); });
    co_await disk_wake.Wait();
    executor->Cancel(timer);
  }
  Task<void> DiskLoop() {
    while (!stopping) {
      if (!disk->attached()) {
        auto attaching = AttachDisk();
        auto attached = co_await std::move(attaching);
        disk_trouble = attached.ok() ? std::string() : attached.error().ToString();
        if (attached.code() == Errc::kBusy) {
          twin = true;
          first_attach.Set();
          co_return;
        }
        first_attach.Set();
        if (!attached.ok()) {
          if (!stopping) co_await WaitDisk(options.timing.token);
          continue;
        }
      }
      Instant begin = Now();
      auto turning = DiskTurn();
      auto turn = co_await std::move(turning);
      disk_trouble = turn.ok() ? std::string() : turn.error().ToString();
      Duration spent = Now() - begin;
      Duration rest = std::max(options.timing.heartbeat - spent, options.timing.heartbeat / 10);
      if (!stopping) co_await WaitDisk(rest);
    }
  }

  EngineOptions options;
  Executor* executor;
  Random* random;
  PeerSender* sender;
  EngineHandler* handler;
  NodeAcceptor acceptor;
  Membership membership;
  Lease lease;
  std::unique_ptr<DiskAcceptor> disk;
  std::unique_ptr<DiskBeats> beats;
  std::unique_ptr<Register> reg;
  StatePtr state;
  Incarnation incarnation;
  std::map<Life, Instant> eviction_seen;
  NodeSet last_row;
  uint64_t sequence = 0;
  uint64_t lease_before_disk = 0;
  bool running = false, stopping = false, leaving = false, left = false, over = false, acting = false;
  bool disk_tried = false, twin = false;
  std::string action_error, disk_trouble;
  uint64_t refused = 0;
  TimerId beat_timer = 0, tick_timer = 0;
  Event first_attach;
  WaitList disk_wake;
  Scope background;
  std::shared_ptr<bool> alive = std::make_shared<bool>(true);
};

Engine::Engine(EngineOptions options, Executor* executor, Random* random, KvStore* store, PeerSender* sender,
               EngineHandler* handler)
    : impl_(std::make_unique<Impl>(std::move(options), executor, random, store, sender, handler)) {}

Engine::~Engine() { *impl_->alive = false; }

Task<Status> Engine::Start() {
  Impl& m = *impl_;
  HF_CHECK(!m.running && m.options.nonce != 0 && m.options.self.v != 0, "an engine starts once, with a nonce");
  auto loaded = co_await m.acceptor.Load();
  if (!loaded.ok()) co_return loaded.error();
  m.membership.Start(m.Now());
  m.running = true;
  if (m.disk != nullptr) {
    m.background.Spawn(m.DiskLoop());
    co_await m.first_attach.Wait();
    if (m.twin) {
      m.running = false;
      co_return Error(Errc::kBusy, m.disk_trouble);
    }
  }
  m.disk_tried = true;
  m.Beat();
  m.ArmBeat();
  m.ArmTick();
  co_return Status();
}

Task<void> Engine::Stop() {
  Impl& m = *impl_;
  m.stopping = true;
  m.running = false;
  m.executor->Cancel(m.beat_timer);
  m.executor->Cancel(m.tick_timer);
  m.disk_wake.WakeAll();
  co_await m.reg->Stop();
  co_await m.background.Join();
}

Task<Status> Engine::Leave() {
  Impl& m = *impl_;
  Life life = m.self();
  if (m.over || life.incarnation.v == 0) co_return Status();
  CleanLeaveArgs args{m.NewId(), life};
  m.left = true;
  ChangeFn change = [args](const ClusterState& s) { return CleanLeave(s, args); };
  ChangeOptions how;
  auto changing = m.reg->Change(std::move(change), how);
  auto result = co_await std::move(changing);
  if (!result.ok()) {
    m.left = false;
    co_return result.error();
  }
  m.leaving = true;
  m.lease.Drop();
  m.Beat();
  co_return Status();
}

void Engine::OnMessage(NodeId from, std::span<const std::byte> message) { impl_->OnMessage(from, message); }

Task<Result<StatePtr>> Engine::Change(ChangeFn change, ChangeOptions options) {
  auto changing = impl_->reg->Change(std::move(change), options);
  auto result = co_await std::move(changing);
  co_return result;
}

Task<Result<StatePtr>> Engine::Read(ChangeOptions options) {
  auto reading = impl_->reg->Read(options);
  auto result = co_await std::move(reading);
  co_return result;
}

Task<Result<StatePtr>> Engine::Initialize(InitClusterArgs args) {
  auto init = impl_->reg->Initialize(std::move(args), Seconds(10));
  auto result = co_await std::move(init);
  co_return result;
}

StatePtr Engine::state() const { return impl_->state; }
Life Engine::self() const { return impl_->self(); }
bool Engine::member() const { return impl_->IsMemberNow(); }
uint64_t Engine::storage_id() const { return impl_->acceptor.storage(); }
bool Engine::PeerAlive(NodeId node) const { return impl_->membership.Alive(node, impl_->Now()); }
bool Engine::HearsOtherLife(NodeId node, uint64_t nonce) const { return impl_->membership.HearsOtherLife(node, nonce, impl_->Now()); }
Instant Engine::lease_deadline() const { return impl_->lease.deadline(); }
uint64_t Engine::NewChangeId() { return impl_->NewId(); }

std::optional<Instant> Engine::EvictionSeenAt(Life victim) const {
  auto it = impl_->eviction_seen.find(victim);
  if (it == impl_->eviction_seen.end()) return std::nullopt;
  return it->second;
}

Picture Engine::picture() const {
  const Impl& m = *impl_;
  Picture picture;
  Instant now = m.Now();
  m.membership.Fill(&picture, now);
  picture.lease_deadline = m.lease.deadline();
  picture.quorate = now < m.lease.deadline();
  if (m.state != nullptr) {
    picture.votes_heard = m.lease.VotesHeard(*m.state);
    for (const auto& acceptor : m.state->acceptors().acceptors()) {
      picture.votes_total += acceptor.votes();
      bool disk = acceptor.node() == 0 && m.disk != nullptr && m.disk->attached() && m.disk->trouble().empty();
      if (disk && m.membership.disk_ok(now) && acceptor.storage() == m.disk->area_id()) picture.votes_heard += acceptor.votes();
    }
  }
  if (picture.waiting.empty() && !m.IsMemberNow() && !m.action_error.empty()) {
    picture.waiting = m.action_error;
    picture.waiting_since = now;
  }
  return picture;
}

StatusTree Engine::Dump() const {
  const Impl& m = *impl_;
  StatusTree tree("engine");
  tree.Add("life", ToString(m.self()));
  tree.Add("member", m.IsMemberNow() ? "yes" : "no");
  tree.Add("version", std::to_string(m.state == nullptr ? 0 : m.state->version()));
  tree.Add("storage", std::to_string(m.acceptor.storage()));
  tree.Add("lease_ms", std::to_string((m.lease.deadline() - m.Now()).ms()));
  tree.Add("disk", m.disk == nullptr ? "none" : m.disk_trouble.empty() ? "answers" : m.disk_trouble);
  tree.Add("register", m.reg->trouble().empty() ? "answers" : m.reg->trouble());
  tree.Add("messages refused", std::to_string(m.refused));
  auto& peers = tree.Add("peers");
  Picture picture = this->picture();
  for (const auto& peer : picture.peers)
    peers.Add("n" + std::to_string(peer.node.v), std::string(peer.heard ? "heard" : "silent") +
                                                     (peer.on_disk ? ", on disk" : "") + (peer.hears_us ? ", hears us" : ""));
  if (!picture.waiting.empty()) tree.Add("waiting", picture.waiting);
  return tree;
}

NodeId FencerFor(const ClusterState& state, Life victim, const std::function<bool(NodeId)>& alive) {
  // Who has begun goes on: nobody else may, until it is evicted or resigns.
  const Fencing* entry = FindFencing(state, victim);
  if (entry != nullptr && entry->fencer_node() != 0) return NodeId(entry->fencer_node());
  const Node* own = FindNode(state, victim.node);
  if (own != nullptr && own->incarnation() > victim.incarnation.v && (own->state() == JOINING || own->state() == MEMBER) &&
      alive(victim.node))
    return victim.node;
  for (const auto& node : state.nodes())
    if (node.state() == MEMBER && alive(NodeId(node.id()))) return NodeId(node.id());
  return NodeId(0);
}

}  // namespace holdfast::cluster
