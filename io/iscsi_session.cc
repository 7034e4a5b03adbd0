// See iscsi_session.h: the session's life, from login to close; commands are in iscsi_commands.cc. libiscsi's callbacks run
// inside iscsi_service or iscsi_destroy_context and only record what happened: a context is never destroyed from within one.

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
#include "io/iscsi_attempt.h"

namespace holdfast::io {

namespace {

constexpr Duration kTick = Milliseconds(100);

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
  if (rewrite_) {
    auto rewritten = co_await rewrite_();
    if (!rewritten.ok()) {
      drain_owed_ = true;
      Drop();
      co_return rewritten;
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

}  // namespace holdfast::io
