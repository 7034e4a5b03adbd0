#include "cluster/daemon/mounts.h"

#include "base/control.pb.h"
#include "base/log.h"
#include "cluster/control_codec.h"
#include "cluster/daemon/mount_burial.h"
#include "cluster/daemon/timeline.h"
#include "cluster/daemon/views.h"

namespace holdfast::cluster {

using control::ControlFrame;

void Reply(const std::shared_ptr<ControlLine>& connection, uint64_t number, ControlFrame frame) {
  if (!connection->open()) return;
  frame.set_number(number);
  Status sent = connection->Send(EncodeFrame(frame));
  if (!sent.ok()) HF_LOG(LogLevel::kWarn, "control", "not_sent", {{"error", sent.error().ToString()}, {"pid", connection->peer_pid()}});
}

void ReplyError(const std::shared_ptr<ControlLine>& connection, uint64_t number, const Error& error) {
  ControlFrame frame;
  ToProto(error, frame.mutable_failure());
  Reply(connection, number, std::move(frame));
}

void ReplyDone(const std::shared_ptr<ControlLine>& connection, uint64_t number) {
  ControlFrame frame;
  frame.set_done(true);
  Reply(connection, number, std::move(frame));
}

const char* StateName(MountEntry::State state) {
  switch (state) {
    case MountEntry::State::kJoining: return "joining";
    case MountEntry::State::kJoined: return "mounted";
    case MountEntry::State::kLeaving: return "leaving";
    case MountEntry::State::kGone: return "gone";
  }
  return "?";
}

std::vector<MountPtr> Mounts::list() const {
  std::vector<MountPtr> out;
  for (const auto& [connection, mount] : mounts_) out.push_back(mount);
  std::sort(out.begin(), out.end(), [](const MountPtr& a, const MountPtr& b) {
    return std::tie(a->lockspace, a->mount, a->nonce) < std::tie(b->lockspace, b->mount, b->nonce);
  });
  return out;
}

MountPtr Mounts::Find(const std::shared_ptr<ControlLine>& connection) const {
  auto it = mounts_.find(connection.get());
  return it == mounts_.end() ? nullptr : it->second;
}

bool Mounts::OnFrame(const std::shared_ptr<ControlLine>& connection, const ControlFrame& frame) {
  MountPtr mount = Find(connection);
  uint64_t number = frame.number();
  if (frame.has_join()) {
    if (mount) {
      ReplyError(connection, number, Error(Errc::kInvalid, "this connection has joined already"));
      return true;
    }
    const auto& in = frame.join();
    mount = std::make_shared<MountEntry>();
    mount->connection = connection;
    mount->pid = connection->peer_pid();
    mount->lockspace = in.lockspace();
    mount->volume_uuid = in.volume_uuid();
    mount->volume_url = in.volume_url();
    mount->address = in.address();
    mount->nonce = in.nonce();
    mount->mounts_max = in.mounts_max();
    mount->since = parts_->Now();
    if (in.cluster() != parts_->config->cluster) {
      ReplyError(connection, number, Error(Errc::kInvalid, "the volume is of cluster '" + in.cluster() + "', this node of '" + parts_->config->cluster + "'"));
      return true;
    }
    if (in.spectator() || mount->lockspace.empty() || mount->nonce == 0 || mount->mounts_max == 0) {
      ReplyError(connection, number, Error(Errc::kInvalid, "a join needs lockspace, nonce and number of journals; spectators are not supported"));
      return true;
    }
    mounts_[connection.get()] = mount;
    parts_->scope->Spawn(Join(mount, number));
    return true;
  }
  if (frame.has_readers_ended()) {
    burial_->ReadersEnded(FromProto(frame.readers_ended().victim()));
    ReplyDone(connection, number);
    return true;
  }
  bool ours = frame.has_claim_replay() || frame.has_replay_done() || frame.has_leave() || frame.has_withdrawn() ||
              frame.has_mount_status() || frame.has_report_step() || frame.has_mounted();
  if (!ours) return false;
  if (!mount || mount->state == MountEntry::State::kJoining) {
    ReplyError(connection, number, Error(Errc::kInvalid, "not joined"));
    return true;
  }
  if (frame.has_claim_replay()) parts_->scope->Spawn(ClaimReplay(mount, number, FromProto(frame.claim_replay().victim())));
  if (frame.has_replay_done()) parts_->scope->Spawn(ReplayDone(mount, number, FromProto(frame.replay_done().victim())));
  if (frame.has_leave()) parts_->scope->Spawn(Leave(mount, number));
  if (frame.has_withdrawn()) parts_->scope->Spawn(Withdraw(mount, number, frame.withdrawn().why()));
  if (frame.has_report_step()) ReportStep(mount, frame);
  if (frame.has_mounted()) {
    mount->mountpoint = frame.mounted().mountpoint();
    mount->device = frame.mounted().device();
  }
  if (frame.has_mount_status()) {
    mount->status = FromProto(frame.mount_status());
    mount->status_fresh = true;
  }
  return true;
}

void Mounts::OnClosed(const std::shared_ptr<ControlLine>& connection) {
  MountPtr mount = Find(connection);
  if (!mount) return;
  MountEntry::State state = mount->state;
  Drop(mount);
  // A join that is under way finds the connection closed and buries by itself.
  if (state != MountEntry::State::kJoined || parts_->over) return;
  HF_LOG(LogLevel::kWarn, "mount", "connection_lost", {{"lockspace", mount->lockspace}, {"member", mount->member}, {"pid", mount->pid}});
  burial_->Bury(*mount, "mount process ended without a clean leave", false);
}

void Mounts::Drop(const MountPtr& mount) {
  mount->state = MountEntry::State::kGone;
  parts_->waits->Clear("join " + std::to_string(mount->nonce));
  mounts_.erase(mount->connection.get());
}

Task<Status> Mounts::Enter(MountPtr mount) {
  std::string key = "join " + std::to_string(mount->nonce);
  LockspaceJoinArgs args;
  args.name = mount->lockspace;
  args.volume_uuid = mount->volume_uuid;
  args.volume_url = mount->volume_url;
  args.nonce = mount->nonce;
  args.address = mount->address;
  args.mounts_max = mount->mounts_max;
  for (;;) {
    if (parts_->over) co_return Error(Errc::kFenced, "this node has been evicted; it joins again by itself");
    if (!mount->connection->open()) co_return Error(Errc::kDisconnected, "the mount is gone");
    if (!parts_->engine || !parts_->engine->member()) {
      parts_->waits->Set(key, "mount of " + mount->lockspace, "this node's membership of the cluster");
      co_await SleepFor(Milliseconds(50));
      continue;
    }
    args.by = parts_->engine->self();
    if (args.change == 0) args.change = parts_->engine->NewChangeId();
    ChangeFn enter = [args](const ClusterState& state) { return LockspaceJoin(state, args); };
    auto joined = co_await parts_->engine->Change(enter);
    MemberId member{args.by.node, args.by.incarnation, mount->nonce};
    if (joined.ok()) {
      const LockspaceMember* found = FindLockspaceMember(**joined, mount->lockspace, member);
      if (!found) co_return Error(Errc::kFenced, "the register has let this mount go again");
      mount->member = member;
      mount->mount = MountNo(found->mount());
      co_return Status();
    }
    switch (joined.code()) {
      case Errc::kNoQuorum:
      case Errc::kTimeout:
        parts_->waits->Set(key, "mount of " + mount->lockspace, "a quorum");
        break;
      case Errc::kNoSpace: {
        StatePtr state = parts_->engine->state();
        const Lockspace* ls = state ? FindLockspace(*state, mount->lockspace) : nullptr;
        if (!ls || ls->victims_size() == 0) co_return joined.error();
        parts_->waits->Set(key, "mount of " + mount->lockspace, "the replay of an owed journal: all others are in use");
        co_await SleepFor(Milliseconds(200));
        break;
      }
      default: co_return joined.error();
    }
    co_await SleepFor(Milliseconds(50));
  }
}

Task<void> Mounts::Join(MountPtr mount, uint64_t number) {
  Status entered = co_await Enter(mount);
  parts_->waits->Clear("join " + std::to_string(mount->nonce));
  bool gone = mount->state == MountEntry::State::kGone;
  if (!entered.ok()) {
    if (!gone) {
      ReplyError(mount->connection, number, entered.error());
      Drop(mount);
    }
    // A join whose outcome is unknown may have put it into the register: the burial finds out.
    if (entered.code() == Errc::kDisconnected && parts_->engine && parts_->engine->member()) {
      Life self = parts_->engine->self();
      mount->member = MemberId{self.node, self.incarnation, mount->nonce};
      StatePtr state = parts_->engine->state();
      if (state && FindLockspaceMember(*state, mount->lockspace, mount->member))
        burial_->Bury(*mount, "mount process ended while it joined", false);
    }
    co_return;
  }
  if (gone || !mount->connection->open()) {
    burial_->Bury(*mount, "mount process ended while it joined", false);
    co_return;
  }
  mount->state = MountEntry::State::kJoined;
  mount->view = MakeView(*parts_->engine->state(), mount->lockspace, *parts_->config);
  ControlFrame frame;
  auto* joined = frame.mutable_joined();
  ToProto(mount->member, joined->mutable_self());
  joined->set_mount(mount->mount.v);
  joined->set_key(ReservationKeyOf(parts_->self->id, parts_->nonce, mount->mount.v + 1));
  joined->set_lease_path(parts_->lease->path());
  ToProto(mount->view, joined->mutable_view());
  Reply(mount->connection, number, std::move(frame));
  HF_LOG(LogLevel::kInfo, "mount", "joined", {{"lockspace", mount->lockspace}, {"member", mount->member}, {"mount", mount->mount}, {"pid", mount->pid}});
  parts_->timeline->Event("mounted", mount->lockspace + " as mount " + std::to_string(mount->mount.v) + ", " + ToString(mount->member));
}

void Mounts::OnState(const StatePtr& state) {
  for (const MountPtr& mount : list()) {
    if (mount->state != MountEntry::State::kJoined) continue;
    if (!FindLockspaceMember(*state, mount->lockspace, mount->member)) {
      ControlFrame frame;
      frame.set_evicted("the register lists this mount no longer");
      Reply(mount->connection, 0, std::move(frame));
      continue;
    }
    dlm::View view = MakeView(*state, mount->lockspace, *parts_->config);
    if (SameView(view, mount->view)) continue;
    mount->view = view;
    ControlFrame frame;
    ToProto(view, frame.mutable_view());
    Reply(mount->connection, 0, std::move(frame));
  }
}

void Mounts::Evict(const std::string& why) {
  for (const MountPtr& mount : list()) {
    ControlFrame frame;
    frame.set_evicted(why);
    Reply(mount->connection, 0, std::move(frame));
  }
}

void Mounts::RequestStop(const std::string& why) {
  for (const MountPtr& mount : list()) {
    ControlFrame frame;
    frame.set_stop_requested(why);
    Reply(mount->connection, 0, std::move(frame));
  }
}

Task<void> Mounts::AskStatus(Duration limit) {
  for (const MountPtr& mount : list()) {
    if (mount->state != MountEntry::State::kJoined) continue;
    mount->status_fresh = false;
    ControlFrame frame;
    frame.set_mount_status_request(true);
    Reply(mount->connection, 1, std::move(frame));
  }
  Instant end = parts_->Now() + limit;
  auto all = [this] {
    for (const auto& [connection, mount] : mounts_)
      if (mount->state == MountEntry::State::kJoined && !mount->status_fresh) return false;
    return true;
  };
  while (!all() && parts_->Now() < end) co_await SleepFor(Milliseconds(5));
}

Task<void> Mounts::Leave(MountPtr mount, uint64_t number) {
  mount->state = MountEntry::State::kLeaving;
  LockspaceArgs args{parts_->engine->NewChangeId(), mount->lockspace, mount->member};
  ChangeFn leave = [args](const ClusterState& state) { return LockspaceLeave(state, args); };
  auto left = co_await Persist(parts_, leave);
  if (!left.ok()) {
    ReplyError(mount->connection, number, left.error());
    co_return;
  }
  HF_LOG(LogLevel::kInfo, "mount", "left", {{"lockspace", mount->lockspace}, {"member", mount->member}});
  parts_->timeline->Event("unmounted", mount->lockspace + ", " + ToString(mount->member));
  ReplyDone(mount->connection, number);
  if (mount->state != MountEntry::State::kGone) Drop(mount);
}

Task<void> Mounts::Withdraw(MountPtr mount, uint64_t number, std::string why) {
  HF_LOG(LogLevel::kWarn, "mount", "withdrew", {{"lockspace", mount->lockspace}, {"member", mount->member}, {"why", why}});
  mount->state = MountEntry::State::kLeaving;
  burial_->Bury(*mount, "withdrew: " + why, true);
  ReplyDone(mount->connection, number);
  co_return;
}

Task<void> Mounts::ClaimReplay(MountPtr mount, uint64_t number, MemberId victim) {
  // The lowest member goes first; each later one waits its rank, so that a stuck one does not stop all.
  size_t rank = 0;
  for (const auto& m : mount->view.members) rank += m.id < mount->member ? 1 : 0;
  if (rank > 0) co_await SleepFor(Milliseconds(300) * static_cast<int64_t>(std::min<size_t>(rank, 10)));
  ReplayArgs args{parts_->engine->NewChangeId(), mount->lockspace, mount->member, victim};
  ChangeFn claim = [args](const ClusterState& state) { return cluster::ClaimReplay(state, args); };
  auto claimed = co_await Persist(parts_, claim);
  if (!claimed.ok()) co_return ReplyError(mount->connection, number, claimed.error());
  const Lockspace* ls = FindLockspace(**claimed, mount->lockspace);
  ControlFrame frame;
  auto* out = frame.mutable_replay_claimed();
  ToProto(victim, out->mutable_victim());
  bool found = false;
  for (int i = 0; ls && i < ls->victims_size(); ++i) {
    const auto& v = ls->victims(i);
    if (v.node() != victim.node.v || v.incarnation() != victim.incarnation.v || v.nonce() != victim.nonce) continue;
    out->set_mount(v.mount());
    out->set_fenced_at(v.fenced_version());
    out->set_proof(v.proof());
    found = true;
  }
  if (!found) co_return ReplyError(mount->connection, number, Error(Errc::kNotFound, "nothing is owed any more"));
  HF_LOG(LogLevel::kInfo, "mount", "replay_claimed", {{"lockspace", mount->lockspace}, {"victim", victim}, {"by", mount->member}});
  Reply(mount->connection, number, std::move(frame));
}

Task<void> Mounts::ReplayDone(MountPtr mount, uint64_t number, MemberId victim) {
  ReplayArgs args{parts_->engine->NewChangeId(), mount->lockspace, mount->member, victim};
  ChangeFn finish = [args](const ClusterState& state) { return cluster::ReplayDone(state, args); };
  auto done = co_await Persist(parts_, finish);
  if (!done.ok()) co_return ReplyError(mount->connection, number, done.error());
  ReplyDone(mount->connection, number);
}

void Mounts::ReportStep(const MountPtr& mount, const ControlFrame& frame) {
  MemberId victim = FromProto(frame.report_step().victim());
  Phase phase = Phase::kResumed;
  switch (frame.report_step().step()) {
    case control::LOCKS_REBUILT: phase = Phase::kLocksRebuilt; break;
    case control::REPLAY_STARTED: phase = Phase::kReplayStarted; break;
    case control::REPLAYED: phase = Phase::kReplayed; break;
    default: break;
  }
  std::string life = ToString(Life{victim.node, victim.incarnation});
  std::string name = parts_->timeline->Has(ToString(victim)) || !parts_->timeline->Has(life) ? ToString(victim) : life;
  if (!parts_->timeline->Has(name)) parts_->timeline->Begin(name, "left owed by an earlier time", parts_->Now());
  std::string detail = frame.report_step().detail();
  parts_->timeline->Note(name, phase, mount->lockspace + (detail.empty() ? "" : ": " + detail));
}

}  // namespace holdfast::cluster
