// See iscsi_session.h. Every entry into libiscsi happens here. Its callbacks run inside iscsi_service or
// iscsi_destroy_context and only record what happened: a context is never destroyed from within one.

#include "io/iscsi_session.h"

#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/log.h"

namespace holdfast::io {

namespace {

constexpr unsigned kUnitAttentionsMax = 32;  // a target queues a handful per nexus
constexpr unsigned kLossesMax = 16;          // a command that kills sixteen sessions is at fault itself
constexpr unsigned kBusyMax = 600;           // with kBusyWait: a minute
constexpr Duration kBusyWait = Milliseconds(100);
constexpr Duration kTick = Milliseconds(100);

std::string Hex(int value) {
  char text[16];
  snprintf(text, sizeof text, "%04x", static_cast<unsigned>(value));
  return text;
}

std::string DefaultInitiator() {
  char host[128] = "node";
  gethostname(host, sizeof host - 1);
  std::string name = "iqn.2026-11.org.holdfast:";
  for (const char* p = host; *p; p++) name += isalnum(static_cast<unsigned char>(*p)) || *p == '-' ? *p : '-';
  return name;
}

}  // namespace

std::string_view IscsiStateName(IscsiState state) {
  switch (state) {
    case IscsiState::kConnecting: return "connecting";
    case IscsiState::kDraining: return "draining";
    case IscsiState::kGuard: return "waiting for the cluster";
    case IscsiState::kReady: return "ready";
    case IscsiState::kFenced: return "fenced";
    case IscsiState::kClosed: return "closed";
  }
  return "?";
}

// One command at the target. Lives in its coroutine's frame, with the iovec that libiscsi keeps a pointer to.
struct IscsiSession::Attempt {
  IscsiSession* session = nullptr;
  scsi_iovec iov{};
  size_t length = 0;
  Instant deadline;
  bool management = false;
  End end = End::kLost;
  Error error = Errc::kOk;
  size_t moved = 0;
  Completion<bool> done;
};

// --- opening and closing ------------------------------------------------------------------------------------------

Status IscsiSession::Parse(const std::string& url) {
  iscsi_context* context = iscsi_create_context("iqn.2026-11.org.holdfast:parse");
  if (!context) return Error(Errc::kExhausted, "no memory for an iSCSI context");
  iscsi_url* parsed = iscsi_parse_full_url(context, url.c_str());
  if (!parsed) {
    iscsi_destroy_context(context);
    // The library's words may quote the URL with its password.
    return Error(Errc::kInvalid, "not a volume URL; the form is iscsi://[user[%password]@]host[:port]/target-iqn/lun");
  }
  url_ = {parsed->portal, parsed->target, parsed->user, parsed->passwd, parsed->lun};
  iscsi_destroy_url(parsed);
  iscsi_destroy_context(context);
  name_ = "iscsi://" + (url_.user.empty() ? "" : url_.user + "@") + url_.portal + "/" + url_.target + "/" + std::to_string(url_.lun);
  if (options_.initiator_name.empty()) options_.initiator_name = DefaultInitiator();
  return {};
}

Task<Result<std::unique_ptr<IscsiSession>>> IscsiSession::Open(Reactor* reactor, std::string url, IscsiOptions options) {
  std::unique_ptr<IscsiSession> session(new IscsiSession(reactor, std::move(options)));
  HF_CO_TRY(session->Parse(url));
  signal(SIGPIPE, SIG_IGN);  // a connection that the target has closed must be an error, not our end
  session->lost_since_ = reactor->clock().Now();
  session->Tick();
  auto status = co_await session->Recover(session->options_.drain_at_open);
  if (!status.ok()) {
    co_await session->Close();
    co_return status.error();
  }
  session->scope_.Spawn(session->Keep());
  co_return std::move(session);
}

IscsiSession::~IscsiSession() {
  *alive_ = false;
  closing_ = true;
  Drop();
  if (tick_) reactor_->Cancel(tick_);
  scope_.Abandon();
}

Task<void> IscsiSession::Close() {
  if (state_ == IscsiState::kClosed) co_return;
  closing_ = true;
  gate_.WakeAll();
  lost_.Set();  // the keeper looks at closing_
  while (at_target_ > 0 && logged_in_ && !broken_) co_await gate_.Wait();
  if (context_ && logged_in_ && !broken_) {
    login_ = std::make_unique<Completion<Status>>();
    auto over = [](iscsi_context*, int, void*, void* self) {
      auto& login = static_cast<IscsiSession*>(self)->login_;
      if (login && !login->done()) login->Set({});
    };
    if (iscsi_logout_async(context_, over, this) == 0) {
      UpdateEvents();
      auto alive = alive_;
      TimerId timer = reactor_->PostAt(reactor_->clock().Now() + Milliseconds(500), [this, alive] {
        if (*alive && login_ && !login_->done()) login_->Set(Errc::kTimeout);
      });
      Completion<Status>& over_now = *login_;
      (void)co_await over_now;
      reactor_->Cancel(timer);
    }
  }
  Drop();
  Enter(IscsiState::kClosed, "closed");
  gate_.WakeAll();
  co_await scope_.Join();
  if (tick_) reactor_->Cancel(std::exchange(tick_, 0));
}

// --- the session's life -------------------------------------------------------------------------------------------

void IscsiSession::OnConnected(iscsi_context* context, int status, void*, void* self) {
  auto* s = static_cast<IscsiSession*>(self);
  if (s->login_ && !s->login_->done()) {
    if (status == SCSI_STATUS_GOOD) {
      s->login_->Set({});
    } else {
      s->login_->Set(Error(Errc::kDisconnected, "login at " + s->name_ + ": " + iscsi_get_error(context)));
    }
    return;
  }
  s->broken_ = true;  // the second call: the connection is torn down
  s->broken_why_ = "connection closed";
}

Task<Status> IscsiSession::Login() {
  Drop();
  context_ = iscsi_create_context(options_.initiator_name.c_str());
  if (!context_) co_return Error(Errc::kExhausted, "no memory for an iSCSI context");
  iscsi_set_targetname(context_, url_.target.c_str());
  iscsi_set_session_type(context_, ISCSI_SESSION_NORMAL);
  iscsi_set_header_digest(context_, ISCSI_HEADER_DIGEST_NONE_CRC32C);
  iscsi_set_noautoreconnect(context_, 1);
  if (!url_.user.empty()) iscsi_set_initiator_username_pwd(context_, url_.user.c_str(), url_.password.c_str());
  broken_ = false;
  login_ = std::make_unique<Completion<Status>>();
  if (iscsi_full_connect_async(context_, url_.portal.c_str(), url_.lun, &IscsiSession::OnConnected, this) != 0) {
    Error error(Errc::kDisconnected, "connect to " + url_.portal + ": " + iscsi_get_error(context_));
    login_.reset();
    Drop();
    co_return error;
  }
  UpdateEvents();
  auto alive = alive_;
  TimerId timer = reactor_->PostAt(reactor_->clock().Now() + options_.login_timeout, [this, alive] {
    if (*alive && login_ && !login_->done()) login_->Set(Error(Errc::kTimeout, "login at " + name_ + " timed out"));
  });
  Completion<Status>& answered = *login_;
  auto status = co_await answered;
  reactor_->Cancel(timer);
  if (!status.ok()) {
    Drop();
    co_return status;
  }
  logged_in_ = true;
  logins_++;
  co_return Status{};
}

// Login, drain, guard. On success the session is ready.
Task<Status> IscsiSession::Recover(bool drain) {
  drain_owed_ = drain_owed_ || drain;
  Enter(IscsiState::kConnecting, "");
  auto login = co_await Login();
  if (!login.ok()) co_return login;
  if (drain_owed_) {
    Enter(IscsiState::kDraining, "");
    auto drained = co_await ResetUnit();
    if (!drained.ok()) {
      Drop();
      co_return drained;
    }
    drain_owed_ = false;
  }
  Enter(IscsiState::kGuard, "");
  if (guard_) {
    auto allowed = co_await guard_();
    if (!allowed.ok()) {
      Drop();
      co_return allowed;
    }
  }
  if (broken_ || closing_ || !logged_in_) {
    drain_owed_ = true;  // a control command of the guard may be in flight
    Drop();
    co_return Error(Errc::kDisconnected, "session lost while it was set up");
  }
  lost_.Reset();
  Enter(IscsiState::kReady, "");
  gate_.WakeAll();
  co_return Status{};
}

Task<void> IscsiSession::Keep() {
  Duration backoff = options_.backoff_min;
  while (!closing_ && state_ != IscsiState::kFenced) {
    if (state_ == IscsiState::kReady) {
      co_await lost_.Wait();
      backoff = options_.backoff_min;
      continue;
    }
    auto status = co_await Recover(options_.drain_at_reconnect);
    if (status.ok() || closing_) continue;
    if (status.code() == Errc::kConflict || status.code() == Errc::kFenced) {
      Fence(status.error());
      break;
    }
    HF_LOG(LogLevel::kInfo, "iscsi", "session_retry", {{"volume", name_}, {"why", status.error().ToString()}});
    gate_.WakeAll();  // those past the stall limit give up
    co_await Nap(backoff);
    backoff = std::min(backoff * 2, options_.backoff_max);
  }
}

// Sleeps, but not past Close.
Task<Status> IscsiSession::Nap(Duration how_long) {
  Instant end = reactor_->clock().Now() + how_long;
  while (!closing_) {
    Instant now = reactor_->clock().Now();
    if (now >= end) break;
    co_await SleepFor(std::min(end - now, Milliseconds(50)));
  }
  co_return Status{};
}

void IscsiSession::Enter(IscsiState state, std::string why) {
  if (state_ == IscsiState::kClosed || state_ == state) return;
  if (state_ == IscsiState::kFenced && state != IscsiState::kClosed) return;
  state_ = state;
  HF_LOG(LogLevel::kDebug, "iscsi", "session", {{"volume", name_}, {"state", IscsiStateName(state)}, {"why", why}});
  if (!on_state_) return;
  auto alive = alive_;
  reactor_->Post([this, alive, state, why = std::move(why)] {
    if (*alive && on_state_) on_state_(state, why);
  });
}

void IscsiSession::Drop(const std::string& why) {
  if (watched_ >= 0) reactor_->Unwatch(std::exchange(watched_, -1));
  events_ = 0;
  logged_in_ = false;
  if (context_) iscsi_destroy_context(std::exchange(context_, nullptr));  // calls back with CANCELLED
  auto left = std::move(active_);
  active_.clear();
  for (Attempt* attempt : left) {
    active_.insert(attempt);
    Finish(attempt, End::kLost, Error(Errc::kDisconnected, why), 0);
  }
  resets_.clear();
  reset_ended_.WakeAll();
  if (login_ && !login_->done()) login_->Set(Error(Errc::kDisconnected, why));
}

void IscsiSession::Lose(std::string why) {
  if (!context_) return;
  bool was_ready = state_ == IscsiState::kReady;
  if (was_ready) {
    HF_LOG(LogLevel::kWarn, "iscsi", "session_lost", {{"volume", name_}, {"why", why}, {"in_flight", at_target_}});
    lost_since_ = reactor_->clock().Now();
    if (options_.drain_at_reconnect) drain_owed_ = true;
    Enter(IscsiState::kConnecting, why);
  }
  Drop(why);
  lost_.Set();
}

void IscsiSession::Fence(Error why) {
  if (state_ == IscsiState::kFenced || state_ == IscsiState::kClosed) return;
  HF_LOG(LogLevel::kError, "iscsi", "fenced", {{"volume", name_}, {"why", why.ToString()}});
  Enter(IscsiState::kFenced, why.message);
  Drop();
  lost_.Set();
  gate_.WakeAll();
  if (!on_fenced_) return;
  auto alive = alive_;
  reactor_->Post([this, alive, why] {
    if (*alive && on_fenced_) on_fenced_(why);
  });
}

// --- libiscsi's events --------------------------------------------------------------------------------------------

void IscsiSession::Service(uint32_t events) {
  if (!context_) return;
  in_service_ = true;
  int rc = iscsi_service(context_, static_cast<int>(events));
  in_service_ = false;
  bool hung_up = (events & (EPOLLHUP | EPOLLERR)) != 0 && logged_in_;
  if (rc < 0 || broken_ || hung_up) {
    Lose(broken_ ? broken_why_ : std::string("connection: ") + iscsi_get_error(context_));
    return;
  }
  UpdateEvents();
}

void IscsiSession::Pump() {
  if (pump_posted_) return;
  pump_posted_ = true;
  auto alive = alive_;
  reactor_->Post([this, alive] {
    if (!*alive) return;
    pump_posted_ = false;
    if (context_ && (iscsi_which_events(context_) & EPOLLOUT)) {
      Service(EPOLLOUT);  // saves a trip through epoll; libiscsi copes with EAGAIN
    }
  });
}

void IscsiSession::UpdateEvents() {
  if (!context_) return;
  int fd = iscsi_get_fd(context_);
  auto events = static_cast<uint32_t>(iscsi_which_events(context_));
  if (fd != watched_) {
    if (watched_ >= 0) reactor_->Unwatch(watched_);
    watched_ = -1;
    if (fd < 0) return;
    auto alive = alive_;
    auto status = reactor_->Watch(fd, events, [this, alive](uint32_t ready) {
      if (*alive) Service(ready);
    });
    if (!status.ok()) {
      broken_ = true;
      broken_why_ = status.error().message;
      return;
    }
    watched_ = fd;
  } else if (events != events_ && fd >= 0) {
    reactor_->Rewatch(fd, events);
  }
  events_ = events;
}

// Timeouts, and events that libiscsi did not want to name a moment ago.
void IscsiSession::Tick() {
  auto alive = alive_;
  tick_ = reactor_->PostAt(reactor_->clock().Now() + kTick, [this, alive] {
    if (*alive) Tick();
  });
  Instant now = reactor_->clock().Now();
  if (context_) {
    if (broken_) {
      Lose(broken_why_);
    } else if (std::any_of(active_.begin(), active_.end(), [now](const Attempt* a) { return now >= a->deadline; })) {
      Lose("a command timed out");
    } else {
      UpdateEvents();
    }
  }
  bool stalled = state_ != IscsiState::kReady && options_.stall_limit.ns > 0 && now >= lost_since_ + options_.stall_limit;
  if (stalled) gate_.WakeAll();
}

void IscsiSession::CutForTest() {
  if (context_) shutdown(iscsi_get_fd(context_), SHUT_RDWR);
}

// --- commands -----------------------------------------------------------------------------------------------------

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
