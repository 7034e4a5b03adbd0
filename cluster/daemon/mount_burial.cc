#include "cluster/daemon/mount_burial.h"

#include "base/log.h"
#include "cluster/daemon/mounts.h"
#include "cluster/daemon/timeline.h"

namespace holdfast::cluster {

void MountBurial::Bury(const MountEntry& mount, const std::string& reason, bool withdrawn) {
  Dead dead{mount.lockspace, mount.volume_url, reason, mount.mountpoint, mount.device, mount.member, mount.mount, mount.pid,
            withdrawn, parts_->Now()};
  parts_->scope->Spawn(Run(std::move(dead)));
}

Task<std::string> MountBurial::Proof(Dead dead) {
  std::string key = "burial " + ToString(dead.member);
  std::string what = "recovery of mount " + std::to_string(dead.mount.v) + " of " + dead.lockspace;
  if (!dead.withdrawn) {
    parts_->waits->Set(key, what, "the end of its process " + std::to_string(dead.pid));
    while (!parts_->over) {
      Status ended = co_await parts_->processes->AwaitExit(dead.pid, Seconds(1));
      if (ended.ok()) break;
      co_await prover_->EndConnection(dead.mountpoint, dead.device);
    }
  }
  ReservationKey reservation = ReservationKeyOf(parts_->self->id, parts_->nonce, dead.mount.v + 1);
  for (Duration wait = Milliseconds(10); !parts_->over; wait = std::min(wait * 2, Seconds(1))) {
    auto proof = co_await prover_->Prove(dead.volume_url, dead.mount, dead.withdrawn ? 0 : dead.pid, reservation);
    if (proof.ok()) {
      parts_->waits->Clear(key);
      co_return dead.withdrawn ? "withdrawn, " + *proof : "process ended, " + *proof;
    }
    parts_->waits->Set(key, what, "proof that its I/O has ended: " + proof.error().message);
    co_await SleepFor(wait);
  }
  co_return "";
}

Task<void> MountBurial::Run(Dead dead) {
  ++running_;
  std::string name = ToString(dead.member);
  parts_->timeline->Begin(name, "mount of " + dead.lockspace + " on " + parts_->self->name + ": " + dead.reason, dead.at);
  parts_->timeline->Note(name, Phase::kDetected, "");
  LockspaceArgs died{parts_->engine->NewChangeId(), dead.lockspace, dead.member};
  std::string reason = dead.reason;
  ChangeFn die = [died, reason](const ClusterState& state) { return MountDied(state, died, reason); };
  auto result = co_await Persist(parts_, die);
  if (result.ok()) {
    std::string words = co_await Proof(dead);
    MountProofArgs proof;
    proof.change = parts_->engine->NewChangeId();
    proof.by = parts_->engine->self();
    proof.name = dead.lockspace;
    proof.victim = dead.member;
    proof.proof = words;
    if (!parts_->over) {
      ChangeFn prove = [proof](const ClusterState& state) { return MountProof(state, proof); };
      result = co_await Persist(parts_, prove);
    }
    if (!parts_->over && result.ok()) {
      co_await AwaitReaders(dead.member, dead.at + parts_->config->timing.lease + parts_->config->timing.lease_margin);
      proof.change = parts_->engine->NewChangeId();
      proof.readers_ended = true;
      ChangeFn open_readers = [proof](const ClusterState& state) { return MountProof(state, proof); };
      result = co_await Persist(parts_, open_readers);
    }
  }
  if (!result.ok() && result.code() != Errc::kCancelled && result.code() != Errc::kNotFound)
    HF_LOG(LogLevel::kError, "mount", "burial_failed", {{"member", dead.member}, {"error", result.error().ToString()}});
  parts_->waits->Clear("burial " + ToString(dead.member));
  readers_ended_.erase(dead.member);
  --running_;
}

void MountBurial::ReadersEnded(const MemberId& member) {
  HF_LOG(LogLevel::kInfo, "mount", "readers_ended", {{"member", member}});
  readers_ended_.insert(member);
  testimony_.WakeAll();
}

Task<void> MountBurial::AwaitReaders(MemberId member, Instant limit) {
  TimerId timer = parts_->executor->PostAt(limit, [this] { testimony_.WakeAll(); });
  while (!readers_ended_.contains(member) && parts_->Now() < limit) co_await testimony_.Wait();
  parts_->executor->Cancel(timer);
}

}  // namespace holdfast::cluster
