// IscsiSession's commands: admission, issuing them again, what an answer means, and the drain. See iscsi_session.h.

#include <algorithm>

#include "base/log.h"
#include "io/iscsi_attempt.h"

namespace holdfast::io {

namespace {

constexpr unsigned kUnitAttentionsMax = 32;  // a target queues a handful per nexus
constexpr unsigned kLossesMax = 16;          // a command that kills sixteen sessions is at fault itself
constexpr unsigned kBusyMax = 600;           // with kBusyWait: a minute
constexpr Duration kBusyWait = Milliseconds(100);

std::string Hex(int value) {
  char text[16];
  snprintf(text, sizeof text, "%04x", static_cast<unsigned>(value));
  return text;
}

}  // namespace

Task<Status> IscsiSession::Admit() {
  for (;;) {
    if (state_ == IscsiState::kFenced) co_return Error(Errc::kConflict, name_ + ": this node's reservation key is gone");
    if (closing_) co_return Error(Errc::kCancelled, name_ + " is being closed");
    if (state_ == IscsiState::kReady && !broken_) {
      if (at_target_ < options_.depth_max) co_return Status{};
    } else if (options_.stall_limit.ns > 0 && reactor_->clock().Now() >= lost_since_ + options_.stall_limit) {
      co_return Error(Errc::kDisconnected, name_ + ": no session for " + std::to_string(options_.stall_limit.ms()) + " ms");
    }
    co_await gate_.Wait();
  }
}

Task<Result<size_t>> IscsiSession::Execute(ScsiCommand command) {
  unsigned attentions = 0, losses = 0, busy = 0;
  for (;;) {
    if (command.control) {
      if (state_ == IscsiState::kFenced) co_return Error(Errc::kConflict, name_ + ": this node's reservation key is gone");
      if (!logged_in_ || broken_) co_return Error(Errc::kDisconnected, name_ + ": no session");
    } else {
      auto admitted = co_await Admit();
      if (!admitted.ok()) co_return admitted.error();
    }
    Attempt attempt;
    Start(&attempt, command);
    co_await attempt.done;
    switch (attempt.end) {
      case End::kGood:
        co_return attempt.moved;
      case End::kLost:
        if (command.control) co_return attempt.error;
        if (++losses > kLossesMax) co_return Error(Errc::kIo, name_ + ": the command ends every session");
        break;
      case End::kAgain:
        if (++attentions > kUnitAttentionsMax) co_return attempt.error;
        break;
      case End::kBusy: {
        if (++busy > kBusyMax) co_return attempt.error;
        (void)co_await Nap(kBusyWait);
        break;
      }
      case End::kConflict:
        if (!command.control) Fence(Error(Errc::kConflict, "reservation conflict on " + name_));
        co_return attempt.error;
      case End::kError:
        co_return attempt.error;
    }
  }
}

void IscsiSession::Start(Attempt* attempt, const ScsiCommand& command) {
  attempt->session = this;
  attempt->deadline = reactor_->clock().Now() + options_.command_timeout;
  at_target_++;
  active_.insert(attempt);
  bool write = !command.out.empty();
  attempt->length = write ? command.out.size() : command.in.size();
  attempt->iov.iov_base = write ? const_cast<std::byte*>(command.out.data()) : command.in.data();
  attempt->iov.iov_len = attempt->length;
  int direction = attempt->length == 0 ? SCSI_XFER_NONE : write ? SCSI_XFER_WRITE : SCSI_XFER_READ;
  auto cdb = command.cdb;
  scsi_task* task = scsi_create_task(command.cdb_size, cdb.data(), direction, static_cast<int>(attempt->length));
  HF_CHECK(task != nullptr, "no memory for a SCSI task");
  if (direction == SCSI_XFER_WRITE) scsi_task_set_iov_out(task, &attempt->iov, 1);
  if (direction == SCSI_XFER_READ) scsi_task_set_iov_in(task, &attempt->iov, 1);
  if (iscsi_scsi_command_async(context_, url_.lun, task, &IscsiSession::OnScsi, nullptr, attempt) != 0) {
    scsi_free_scsi_task(task);
    broken_ = true;
    broken_why_ = std::string("submit: ") + iscsi_get_error(context_);
    Finish(attempt, End::kLost, Error(Errc::kDisconnected, broken_why_), 0);
    return;
  }
  Pump();
}

void IscsiSession::Finish(Attempt* attempt, End end, Error error, size_t moved) {
  if (active_.erase(attempt) == 0) return;
  if (!attempt->management) at_target_--;
  attempt->end = end;
  attempt->error = std::move(error);
  attempt->moved = moved;
  attempt->done.Set(true);
  if (attempt->management) reset_ended_.WakeAll();
  if (closing_) {
    gate_.WakeAll();
  } else {
    gate_.WakeOne();
  }
}

void IscsiSession::OnScsi(iscsi_context* context, int status, void* data, void* private_data) {
  auto* attempt = static_cast<Attempt*>(private_data);
  IscsiSession* s = attempt->session;
  auto* task = static_cast<scsi_task*>(data);
  switch (status) {
    case SCSI_STATUS_GOOD:
    case SCSI_STATUS_CONDITION_MET: {
      size_t missing = task->residual_status == SCSI_RESIDUAL_UNDERFLOW ? task->residual : 0;
      s->Finish(attempt, End::kGood, Errc::kOk, attempt->length - std::min(missing, attempt->length));
      break;
    }
    case SCSI_STATUS_RESERVATION_CONFLICT:
      s->Finish(attempt, End::kConflict, Error(Errc::kConflict, "reservation conflict on " + s->name_), 0);
      break;
    case SCSI_STATUS_TASK_ABORTED:  // somebody's LOGICAL UNIT RESET
      s->Finish(attempt, End::kAgain, Error(Errc::kIo, "task aborted on " + s->name_), 0);
      break;
    case SCSI_STATUS_BUSY:
    case SCSI_STATUS_TASK_SET_FULL:
    case SCSI_STATUS_ACA_ACTIVE:
      s->Finish(attempt, End::kBusy, Error(Errc::kIo, s->name_ + " is busy"), 0);
      break;
    case SCSI_STATUS_CHECK_CONDITION: {
      int key = task->sense.key, ascq = task->sense.ascq;
      const char* key_name = scsi_sense_key_str(key);  // null where the library has no name
      const char* code_name = scsi_sense_ascq_str(ascq);
      std::string words = s->name_ + ": " + (key_name ? std::string(key_name) : "sense key " + std::to_string(key)) + " " + Hex(ascq) + " " +
                          (code_name ? code_name : "");
      if (key == SCSI_SENSE_UNIT_ATTENTION) {
        HF_LOG(LogLevel::kDebug, "iscsi", "unit_attention", {{"volume", s->name_}, {"code", Hex(ascq)}});
        s->Finish(attempt, End::kAgain, Error(Errc::kIo, words), 0);
      } else if (key == SCSI_SENSE_COMMAND_ABORTED) {
        s->Finish(attempt, End::kAgain, Error(Errc::kIo, words), 0);
      } else if (key == SCSI_SENSE_NOT_READY) {
        s->Finish(attempt, End::kBusy, Error(Errc::kIo, words), 0);
      } else if (key == SCSI_SENSE_ILLEGAL_REQUEST) {
        s->Finish(attempt, End::kError, Error(Errc::kUnsupported, words), 0);
      } else if (key == SCSI_SENSE_DATA_PROTECTION) {
        s->Finish(attempt, End::kError, Error(ascq == 0x2707 ? Errc::kNoSpace : Errc::kReadOnly, words), 0);
      } else {
        s->Finish(attempt, End::kError, Error(Errc::kIo, words), 0);
      }
      break;
    }
    default:  // CANCELLED, ERROR, TIMEOUT: the connection is of no more use
      s->broken_ = true;
      s->broken_why_ = std::string("command ended without an answer: ") + iscsi_get_error(context);
      s->Finish(attempt, End::kLost, Error(Errc::kDisconnected, s->broken_why_), 0);
      break;
  }
  if (task) scsi_free_scsi_task(task);
}

// --- drain --------------------------------------------------------------------------------------------------------

void IscsiSession::OnManagement(iscsi_context*, int status, void* data, void* private_data) {
  auto* attempt = static_cast<Attempt*>(private_data);
  if (status != SCSI_STATUS_GOOD || !data) {
    attempt->session->Finish(attempt, End::kLost, Error(Errc::kDisconnected, "no answer to the reset"), 0);
    return;
  }
  uint32_t response = *static_cast<uint32_t*>(data);
  if (response == ISCSI_TMR_FUNC_COMPLETE) {
    attempt->session->Finish(attempt, End::kGood, Errc::kOk, 0);
  } else {
    attempt->session->Finish(attempt, End::kError,
                             Error(Errc::kUnsupported, "LOGICAL UNIT RESET refused, response " + std::to_string(response)), 0);
  }
}

IscsiSession::Attempt* IscsiSession::SendReset(Instant deadline) {
  auto attempt = std::make_shared<Attempt>();
  attempt->session = this;
  attempt->management = true;
  attempt->deadline = deadline;
  // Not iscsi_task_mgmt_lun_reset_async: that one cancels our own commands here, whatever becomes of them there.
  if (iscsi_task_mgmt_async(context_, url_.lun, ISCSI_TM_LUN_RESET, 0xffffffff, 0, &IscsiSession::OnManagement, attempt.get()) != 0) {
    broken_ = true;
    broken_why_ = std::string("submit: ") + iscsi_get_error(context_);
    return nullptr;
  }
  active_.insert(attempt.get());
  resets_.push_back(std::move(attempt));
  Pump();
  return resets_.back().get();
}

// One answer to any of our resets will do: each of them was sent after what is to be drained had been accepted.
Task<Status> IscsiSession::ResetUnit() {
  if (!logged_in_ || broken_) co_return Error(Errc::kDisconnected, name_ + ": no session");
  uint64_t session = logins_;
  Instant deadline = reactor_->clock().Now() + options_.drain_timeout;
  std::vector<Attempt*> sent;
  Status outcome = Error(Errc::kDisconnected, "session lost");
  while (logged_in_ && !broken_ && logins_ == session) {
    Attempt* reset = SendReset(deadline);
    if (!reset) break;
    sent.push_back(reset);
    auto alive = alive_;
    TimerId timer = reactor_->PostAt(reactor_->clock().Now() + options_.drain_again, [this, alive] {
      if (*alive) reset_ended_.WakeAll();
    });
    Instant again = reactor_->clock().Now() + options_.drain_again;
    const Attempt* ended = nullptr;
    while (!ended && logins_ == session && logged_in_ && reactor_->clock().Now() < again) {
      co_await reset_ended_.Wait();
      if (logins_ != session || !logged_in_) break;  // the attempts went with their context
      for (const Attempt* attempt : sent) ended = attempt->done.done() ? attempt : ended;
    }
    reactor_->Cancel(timer);
    if (!ended) continue;
    outcome = ended->end == End::kGood ? Status{} : Status(ended->error);
    break;
  }
  if (logins_ == session && logged_in_) {
    for (Attempt* attempt : sent) active_.erase(attempt);  // an answer to one of the others is of no interest any more
  }
  if (!outcome.ok()) co_return outcome;
  // Every nexus gets a UNIT ATTENTION now; ours is taken here.
  ScsiCommand test;
  test.cdb_size = 6;
  test.control = true;
  auto ready = co_await Execute(test);
  if (!ready.ok() && ready.code() == Errc::kDisconnected) co_return ready.error();
  co_return Status{};
}

Task<Status> IscsiSession::Drain() {
  auto status = co_await ResetUnit();
  co_return status;
}

}  // namespace holdfast::io
