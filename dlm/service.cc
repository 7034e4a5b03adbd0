#include "dlm/service.h"

#include "base/log.h"
#include "dlm/standalone.h"
#include "dlm/wire.h"

namespace holdfast::dlm {

std::unique_ptr<LockSpace> MakeLockSpace(Executor& executor, Channel* channel, MemberId self, Knobs knobs) {
  return std::make_unique<Service>(executor, channel, self, knobs);
}

std::unique_ptr<LockSpace> MakeStandaloneLockSpace(Executor& executor, MemberId self, MountNo mount) {
  auto space = std::make_unique<Service>(executor, nullptr, self, Knobs{});
  View view;
  view.version = RegisterVersion(1);
  view.generation = Generation(1);
  view.members.push_back({self, mount, {}});
  space->SetView(view);
  return space;
}

Service::Service(Executor& executor, Channel* channel, MemberId self, Knobs knobs)
    : executor_(executor), channel_(channel), core_(self, knobs) {
  if (channel_) channel_->SetReceiver([this](const ChannelMessage& m) { OnMessage(m); });
}

Service::~Service() {
  *alive_ = false;
  if (timer_ != 0) executor_.Cancel(timer_);
  if (channel_) channel_->SetReceiver([](const ChannelMessage&) {});
  for (auto& [op, waiter] : waiters_) waiter->Set({Errc::kFenced, false, {}});
}

void Service::Enter() { core_.SetNow(executor_.clock().Now()); }

void Service::PostGuarded(std::function<void()> fn) {
  executor_.Post([alive = alive_, fn = std::move(fn)] {
    if (*alive) fn();
  });
}

void Service::Drain() {
  for (Outgoing& out : core_.TakeMessages()) SendOut(std::move(out));
  auto upcalls = core_.TakeUpcalls();
  for (Upcall& up : upcalls) Deliver(std::move(up));
  if (!upcalls.empty()) changed_.WakeAll();
  ArmTimer();
}

void Service::SendOut(Outgoing out) {
  Bytes body = Encode(out.message);
  Status sent = channel_ ? channel_->Send(out.to, out.message.generation, static_cast<uint32_t>(out.message.kind), body)
                         : Status(Errc::kNotFound);
  if (sent.ok()) return;
  HF_LOG(LogLevel::kWarn, "dlm", "send_failed", {{"to", out.to}, {"error", ErrcName(sent.code())}});
  // A peer that takes nothing while it stays a member: what is lost now would be missing for ever.
  if (sent.code() == Errc::kExhausted) PostGuarded([this] { Fail("a member takes no messages"); });
}

void Service::Deliver(Upcall up) {
  switch (up.what) {
    case Upcall::What::kDone: {
      auto it = waiters_.find(up.op);
      if (it == waiters_.end()) return;
      Waiter* waiter = it->second;
      waiters_.erase(it);
      waiter->Set({up.status, up.frozen, std::move(up.conflict)});
      return;
    }
    case Upcall::What::kBlocking:
      PostGuarded([this, lock = up.lock, mode = up.mode] {
        auto it = callbacks_.find(lock);
        if (it == callbacks_.end()) return;
        BlockingCallback callback = it->second;  // it may destroy its own lock
        callback(lock, mode);
      });
      return;
    case Upcall::What::kRecovered:
      PostGuarded([this, generation = up.generation] {
        if (on_recovered_) on_recovered_(generation);
      });
      return;
    case Upcall::What::kApp:
      PostGuarded([this, from = up.from, payload = std::move(up.payload)] {
        if (app_receiver_) app_receiver_(from, payload);
      });
      return;
    case Upcall::What::kWithdrawn:
      if (!core_.broken().empty()) PostGuarded([this] { Fail("the members of the lockspace contradict each other: " + core_.broken()); });
      HF_LOG(leaving_ ? LogLevel::kInfo : LogLevel::kWarn, "dlm", leaving_ ? "left" : "withdrawn", {{"self", self()}});
      return;
  }
}

void Service::ArmTimer() {
  auto next = core_.NextDeadline();
  if (timer_ != 0 && next && *next >= timer_at_) return;  // it fires early and looks again
  if (timer_ != 0) executor_.Cancel(std::exchange(timer_, 0));
  if (!next) return;
  timer_at_ = *next;
  timer_ = executor_.PostAt(*next, [this] {
    timer_ = 0;
    Enter();
    core_.Tick();
    Drain();
  });
}

void Service::OnMessage(const ChannelMessage& m) {
  auto message = Decode(m.kind, m.body);
  if (!message.ok()) {
    HF_LOG(LogLevel::kError, "dlm", "bad_message", {{"from", m.from}, {"error", message.error().ToString()}});
    return;
  }
  message->generation = m.generation;
  Enter();
  core_.Step(m.from, std::move(*message));
  Drain();
}

Task<Service::Outcome> Service::Await(Result<uint64_t> op) {
  core_.Settle();
  if (!op.ok()) {
    Drain();
    co_return Outcome{op.code(), false, {}};
  }
  Waiter waiter;
  waiters_[*op] = &waiter;
  Drain();
  auto outcome = co_await waiter;
  co_return outcome;
}

// ---- locks --------------------------------------------------------------------------------------------------------

LockId Service::Create(ResourceName name, BlockingCallback on_blocking) {
  HF_CHECK(!name.bytes().empty() && name.bytes().size() <= kMaxNameBytes, "resource name of %zu bytes", name.bytes().size());
  LockId id = core_.requester().Create(std::move(name));
  if (on_blocking) callbacks_[id] = std::move(on_blocking);
  return id;
}

void Service::Destroy(LockId lock) {
  Status done = core_.requester().Destroy(lock);
  HF_CHECK(done.ok(), "lock %llu is destroyed while it is granted or in use", static_cast<unsigned long long>(lock.v));
  callbacks_.erase(lock);
}

Task<Status> Service::Request(LockId lock, Mode mode, Flags flags, RequestOptions options) {
  if (core_.withdrawn()) co_return Errc::kFenced;
  Enter();
  auto outcome = co_await Await(core_.requester().Request(lock, mode, flags, options));
  co_return outcome.status;
}

Task<Status> Service::Unlock(LockId lock, std::optional<ValueBytes> value) {
  if (core_.withdrawn()) co_return Errc::kFenced;
  Enter();
  auto outcome = co_await Await(core_.requester().Unlock(lock, value));
  co_return outcome.status;
}

void Service::Cancel(LockId lock) {
  if (core_.withdrawn()) return;
  Enter();
  core_.requester().Cancel(lock);
  core_.Settle();
  Drain();
}

// ---- range locks --------------------------------------------------------------------------------------------------

namespace {
RangeArgs ToArgs(const RangeRequest& r) {
  return {r.space, r.owner, r.handle, r.pid, r.start, r.end, r.type, r.wait, DropWhat::kOwner};
}
}  // namespace

Task<Status> Service::RangeSet(RangeRequest request) {
  if (core_.withdrawn()) co_return Errc::kFenced;
  Enter();
  auto outcome = co_await Await(core_.requester().RangeSet(request.name, ToArgs(request), request.token));
  co_return outcome.status;
}

Task<Result<std::optional<RangeConflict>>> Service::RangeTest(RangeRequest request) {
  if (core_.withdrawn()) co_return Errc::kFenced;
  Enter();
  auto outcome = co_await Await(core_.requester().RangeTest(request.name, ToArgs(request)));
  if (outcome.status != Errc::kOk) co_return outcome.status;
  co_return std::move(outcome.conflict);
}

void Service::RangeCancel(uint64_t token) {
  if (core_.withdrawn()) return;
  Enter();
  core_.requester().RangeCancel(token);
  core_.Settle();
  Drain();
}

Task<Status> Service::RangeDropOwner(ResourceName name, RangeSpace space, RangeOwner owner) {
  if (core_.withdrawn()) co_return Errc::kFenced;
  RangeArgs what;
  what.space = space;
  what.owner = owner;
  Enter();
  auto outcome = co_await Await(core_.requester().RangeDrop(name, what));
  co_return outcome.status;
}

Task<Status> Service::RangeDropHandle(ResourceName name, uint64_t handle) {
  if (core_.withdrawn()) co_return Errc::kFenced;
  RangeArgs what;
  what.drop = DropWhat::kHandle;
  what.handle = handle;
  Enter();
  auto outcome = co_await Await(core_.requester().RangeDrop(name, what));
  co_return outcome.status;
}

// ---- messages, membership -----------------------------------------------------------------------------------------

void Service::SendApp(MemberId to, Bytes message) {
  Enter();
  core_.SendApp(to, std::move(message));
  Drain();
}

void Service::SetAppReceiver(std::function<void(MemberId, std::span<const std::byte>)> receiver) {
  app_receiver_ = std::move(receiver);
}

void Service::SetChannelPeers() {
  if (!channel_) return;
  std::vector<std::pair<MemberId, Endpoint>> peers;
  if (!core_.withdrawn())
    for (const Member& m : core_.view().members)
      if (m.id != self()) peers.emplace_back(m.id, m.endpoint);
  channel_->SetPeers(peers);
}

void Service::SetView(const View& view) {
  Enter();
  core_.SetView(view);
  SetChannelPeers();
  Drain();
  changed_.WakeAll();
}

Task<Status> Service::Recovered(Generation generation) {
  while (!core_.withdrawn()) {
    if (core_.running() && core_.view().generation >= generation) co_return Status();
    co_await changed_.Wait();
  }
  co_return Errc::kFenced;
}

Task<Result<bool>> Service::Frozen(ResourceName name) {
  if (core_.withdrawn()) co_return Errc::kFenced;
  Enter();
  auto outcome = co_await Await(core_.requester().Query(name));
  if (outcome.status != Errc::kOk) co_return outcome.status;
  co_return outcome.frozen;
}

void Service::GiveUpEverything() {
  for (auto& [lock, mode] : core_.requester().GrantedLocks()) (void)core_.requester().Unlock(lock, std::nullopt).ok();
  for (const ResourceName& name : core_.requester().RangeNames()) {
    RangeTable table = *core_.requester().Ranges(name);
    for (const HeldRange& h : table.held())
      (void)core_.requester().RangeSet(name, {h.space, h.owner, h.handle, h.pid, h.start, h.end, RangeType::kUnlock}, 0).ok();
  }
  core_.Settle();
}

Task<Status> Service::Leave() {
  leaving_ = true;
  while (!core_.withdrawn()) {
    Enter();
    // Not before nothing is owed: a replay of our own may still hold its journal lock.
    if (core_.requester().operations() == 0 && !core_.replay_owed()) GiveUpEverything();
    Drain();
    if (core_.requester().operations() == 0 && core_.running() && !core_.replay_owed()) co_return Status();
    co_await changed_.Wait();
  }
  co_return Errc::kFenced;
}

void Service::Withdraw(std::string reason) {
  if (core_.withdrawn()) return;
  HF_LOG(LogLevel::kError, "dlm", "withdraw", {{"self", self()}, {"reason", reason}});
  Enter();
  core_.Withdraw();
  SetChannelPeers();
  Drain();
  changed_.WakeAll();
}

// Not asked for by the owner, who must hear of it: what this member holds counts until it is evicted and replayed.
void Service::Fail(std::string why) {
  HF_LOG(LogLevel::kError, "dlm", "failed", {{"self", self()}, {"why", why}});
  Withdraw(why);
  SetChannelPeers();
  changed_.WakeAll();
  if (auto tell = std::exchange(on_withdrawn_, {})) tell(std::move(why));
}

}  // namespace holdfast::dlm
