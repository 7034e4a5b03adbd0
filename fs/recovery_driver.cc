#include "fs/recovery_driver.h"

#include <algorithm>

#include "base/log.h"
#include "base/mutants.h"
#include "base/probe.h"
#include "fs/replay.h"
#include "fs/resource.h"

namespace holdfast::fs {
namespace {

constexpr Duration kRetry = Milliseconds(200);

std::string Text(const dlm::Victim& victim) {
  return "journal " + std::to_string(victim.mount.v) + " of " + ToString(victim.id);
}

}  // namespace

RecoveryDriver::RecoveryDriver(Parts parts) : parts_(std::move(parts)) {}
RecoveryDriver::~RecoveryDriver() { scope_.Abandon(); }

void RecoveryDriver::Step(std::string what) {
  step_ = std::move(what);
  step_since_ = parts_.executor->clock().Now();
}

void RecoveryDriver::OnView(const dlm::View& view) {
  if (stopped_ || view.version < view_.version) return;
  view_ = view;
  others_.clear();
  again_ = true;
  if (adopting_ && (AnyOwed() || !MayAdopt(adopting_journal_))) InterruptAdoption();
  changed_.WakeAll();
  StartAdopting();
  if (!running_) {
    running_ = true;
    scope_.Spawn(Run());
  }
}

void RecoveryDriver::Stop() {
  stopped_ = true;
  changed_.WakeAll();
}

Task<void> RecoveryDriver::Join() { co_await scope_.Join(); }

bool RecoveryDriver::Owed(const MemberId& id) const {
  for (const dlm::Victim& victim : view_.victims) {
    if (victim.id == id) return !victim.replayed;
  }
  return false;
}

Task<Status> RecoveryDriver::NothingOwed() {
  for (;;) {
    if (stopped_) co_return Error(Errc::kFenced, "withdrawn while journals were owed");
    if (!AnyOwed()) co_return Status();
    co_await changed_.Wait();
  }
}

bool RecoveryDriver::AnyOwed() const {
  return std::any_of(view_.victims.begin(), view_.victims.end(), [](const dlm::Victim& v) { return !v.replayed; });
}

// A living owner of that journal finds what is left there itself, and holds its lock for its whole life.
bool RecoveryDriver::MayAdopt(MountNo journal) const {
  return std::none_of(view_.members.begin(), view_.members.end(), [journal](const dlm::Member& m) { return m.mount == journal; });
}

void RecoveryDriver::InterruptAdoption() {
  if (interrupt_ && !HF_MUTANT(kAdoptionHoldsOn) && !HF_MUTANT(kAdoptBeforeBury)) interrupt_->Raise();
}

void RecoveryDriver::SetAdopt(AdoptFn adopt) {
  adopt_ = std::move(adopt);
  StartAdopting();
}

void RecoveryDriver::StartAdopting() {
  if (adopting_ || !adopt_ || stopped_ || to_adopt_.empty() || (AnyOwed() && !HF_MUTANT(kAdoptBeforeBury))) return;
  adopting_ = true;
  scope_.Spawn(AdoptAll());
}

// Orphans and claims go by ordinary locks, which the freeze rule may hold until another victim's journal is replayed; and
// the journal that is adopted may be owed again meanwhile, by its next owner, whose replay needs its lock. So this runs
// beside the burying, only while nothing is owed, and lets everything go when something is.
Task<void> RecoveryDriver::AdoptAll() {
  while (!stopped_ && adopt_ && !to_adopt_.empty() && (!AnyOwed() || HF_MUTANT(kAdoptBeforeBury))) {
    MountNo journal = *to_adopt_.begin();
    to_adopt_.erase(to_adopt_.begin());
    if (!MayAdopt(journal)) {
      HF_PROBE("recovery: journal to adopt has an owner");
      continue;
    }
    adopting_journal_ = journal;
    interrupt_ = std::make_unique<Interrupt>();
    AdoptFn adopt = adopt_;
    Status adopted = co_await adopt(journal, interrupt_.get());
    if (adopted.code() == Errc::kInterrupted) {
      HF_PROBE("recovery: adoption interrupted");
      if (adopt_ && MayAdopt(journal)) to_adopt_.insert(journal);
    } else if (!adopted.ok()) {
      // Nothing is lost: the next owner of that journal finds both.
      HF_LOG(LogLevel::kWarn, "recovery", "not_adopted", {{"journal", journal}, {"error", adopted.error().ToString()}});
    }
  }
  adopting_ = false;
  changed_.WakeAll();
}

Task<void> RecoveryDriver::StopAdopting() {
  adopt_ = nullptr;
  to_adopt_.clear();
  InterruptAdoption();
  while (adopting_) co_await changed_.Wait();
}

// One victim after another, lowest first, until there is nothing for us to do in the newest view.
Task<void> RecoveryDriver::Run() {
  while (!stopped_) {
    again_ = false;
    bool retry = false;
    std::string failed;  // what status shows until the next try
    std::vector<dlm::Victim> victims = view_.victims;
    for (const dlm::Victim& victim : victims) {
      if (stopped_ || victim.replayed || !Owed(victim.id) || others_.contains(victim.id)) continue;
      if (!victim.fenced) {
        Step("waiting for the fencing of " + ToString(victim.id));
        continue;
      }
      Status buried = co_await Bury(victim);
      if (buried.ok() || stopped_) continue;
      HF_LOG(LogLevel::kWarn, "recovery", "again", {{"victim", victim.id}, {"error", buried.error().ToString()}});
      retry = true;
      failed = "burying " + Text(victim) + " failed, is tried again: " + buried.error().message;
    }
    if (stopped_ || (!again_ && !retry)) break;
    if (retry) Step(failed);
    if (!again_) co_await SleepFor(kRetry);
  }
  running_ = false;
  if (step_.rfind("waiting for the fencing", 0) != 0) Step("idle");
}

Task<Status> RecoveryDriver::Bury(dlm::Victim victim) {
  Step("claiming the replay of " + Text(victim));
  auto claim = co_await parts_.link->ClaimReplay(victim.id);
  if (!claim.ok()) {
    if (claim.code() == Errc::kBusy) {
      HF_PROBE("recovery: another is the replayer");
      others_.insert(victim.id);
      co_return Status();
    }
    if (claim.code() == Errc::kNotFound) {
      HF_PROBE("recovery: nothing owed any more");
      co_return Status();
    }
    co_return claim.error();
  }
  Step("waiting for the locks to be rebuilt");
  Status rebuilt = co_await parts_.space->Recovered(view_.generation);
  if (!rebuilt.ok()) co_return rebuilt;
  parts_.link->ReportStep(victim.id, dlm::RecoveryStep::kLocksRebuilt, "");

  Step("locking " + Text(victim));
  dlm::LockId lock = parts_.space->Create(DlmName(JournalResource(victim.mount)), {});
  Status locked = co_await parts_.space->Request(lock, dlm::Mode::kEX, HF_MUTANT(kReplayOrdinaryLock) ? dlm::Flags::kNone : dlm::Flags::kRecovery);
  Status done = locked, unlocked;
  if (locked.ok()) {
    done = co_await ReplayLocked(victim, *claim);
    unlocked = co_await parts_.space->Unlock(lock);
    if (done.ok() && !unlocked.ok()) done = unlocked;
  }
  // A withdraw or a clean leave meanwhile gives up all locks itself: this one goes with the mount.
  if (unlocked.ok()) parts_.space->Destroy(lock);
  if (!done.ok()) co_return done;
  // If we die before they are adopted, the next owner of the journal finds them where they are.
  if (victim.mount == parts_.self.mount) HF_PROBE("recovery: replayed the journal that is ours now");
  if (victim.mount != parts_.self.mount) {
    to_adopt_.insert(victim.mount);
    StartAdopting();
    while (HF_MUTANT(kAdoptBeforeBury) && adopting_) co_await changed_.Wait();
  }
  co_return Status();
}

// REQUIRES: the journal lock under RECOVERY, the claim.
Task<Status> RecoveryDriver::ReplayLocked(dlm::Victim victim, dlm::ReplayClaim claim) {
  Step("replaying " + Text(victim));
  parts_.link->ReportStep(victim.id, dlm::RecoveryStep::kReplayStarted, claim.proof);
  auto header = co_await ReadJournalHeader(*parts_.device, parts_.geometry, victim.mount);
  if (!header.ok()) {
    if (parts_.fatal && header.code() == Errc::kCorrupt) parts_.fatal(header.error());
    co_return header.error();
  }
  std::string detail = "clean";
  if (header->state != JournalState::kClean) {
    const OwnerStamp& owner = header->owner;
    bool same = owner.node == claim.victim.node && owner.incarnation == claim.victim.incarnation &&
                owner.nonce == claim.victim.nonce && owner.mount == claim.mount;
    if (!same && !HF_MUTANT(kReplayAnyOwner)) {
      HF_PROBE("recovery: journal of another owner");
      // The victim died before it took the journal over; what stands there is an older owner's. That one is either owed
      // under its own name or was replayed, so nobody may touch it under this token.
      co_return Error(Errc::kConflict, Text(victim) + " is owned by " +
                                           ToString(MemberId{owner.node, owner.incarnation, owner.nonce}) +
                                           ": the fence token names somebody else");
    }
    dlm::LockSpace* space = parts_.space;
    FrozenPredicate frozen = [space](Resource resource) { return space->Frozen(DlmName(resource)); };
    auto report = co_await ReplayJournal(*parts_.device, parts_.geometry, victim.mount, frozen);
    if (!report.ok()) co_return report.error();
    detail = std::to_string(report->records) + " records, " + std::to_string(report->applied) + " of " +
             std::to_string(report->images) + " blocks written";
  }
  parts_.link->ReportStep(victim.id, dlm::RecoveryStep::kReplayed, detail);
  HF_LOG(LogLevel::kInfo, "recovery", "replayed", {{"victim", victim.id}, {"journal", victim.mount}, {"detail", detail}});
  Step("recording the replay of " + Text(victim));
  Status recorded = co_await parts_.link->ReplayDone(victim.id);
  if (recorded.ok()) parts_.link->ReportStep(victim.id, dlm::RecoveryStep::kResumed, "");
  co_return recorded;
}

std::vector<dlm::Waiting> RecoveryDriver::Waits() const {
  std::vector<dlm::Waiting> waits;
  if (step_ == "idle") return waits;
  dlm::Waiting w;
  w.what = "recovery";
  w.on = step_;
  w.since = parts_.executor->clock().Now() - step_since_;
  waits.push_back(std::move(w));
  return waits;
}

}  // namespace holdfast::fs
