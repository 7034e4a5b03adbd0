#include "fs/app_messages.h"

#include <algorithm>

#include "base/le.h"
#include "base/log.h"

namespace holdfast::fs {
namespace {

enum class Kind : uint8_t { kReapAgain = 1, kCheckpoint = 2, kCheckpointDone = 3, kFreeDelta = 4, kShrink = 5 };

struct Wire {
  uint8_t version = 1;
  uint8_t kind = 0;
  uint8_t ok = 1;
  uint8_t reserved[5] = {};
  Le64 number = 0;
};
static_assert(sizeof(Wire) == 16);

constexpr Duration kBeat = Seconds(1);
constexpr Duration kCheckpointLimit = Seconds(10);
constexpr Duration kShrinkLimit = Seconds(3);
constexpr size_t kDoingMax = 1024;  // favours under way; who asks for more is not answered

Bytes Encode(Kind kind, uint64_t number, bool ok = true) {
  Wire wire;
  wire.kind = static_cast<uint8_t>(kind);
  wire.ok = ok ? 1 : 0;
  wire.number = number;
  const auto* bytes = reinterpret_cast<const std::byte*>(&wire);
  return Bytes(bytes, bytes + sizeof(wire));
}

}  // namespace

AppMessages::AppMessages(dlm::LockSpace& space, Handlers handlers) : space_(space), handlers_(std::move(handlers)) {}
AppMessages::~AppMessages() { scope_.Abandon(); }

void AppMessages::Start() {
  space_.SetAppReceiver([this](MemberId from, std::span<const std::byte> message) { OnMessage(from, message); });
  scope_.Spawn(Beat());
}

void AppMessages::Stop() {
  stopped_ = true;
  space_.SetAppReceiver({});
  for (auto& [id, pending] : pending_) pending->changed.WakeAll();
}

void AppMessages::SendAll(const Bytes& message) {
  for (const dlm::Member& member : space_.view().members) {
    if (member.id != space_.self()) space_.SendApp(member.id, message);
  }
}

void AppMessages::ReapAgain(InodeNo inode) { SendAll(Encode(Kind::kReapAgain, inode.v)); }

Task<void> AppMessages::Beat() {
  while (!stopped_) {
    co_await SleepFor(kBeat);
    if (stopped_) break;
    int64_t delta = handlers_.take_delta();
    if (delta != 0) SendAll(Encode(Kind::kFreeDelta, static_cast<uint64_t>(delta)));
  }
}

bool AppMessages::SomethingOwed(const std::set<MemberId>* of) const {
  for (const dlm::Victim& victim : space_.view().victims) {
    if (!victim.replayed && (!of || of->contains(victim.id))) return true;
  }
  return false;
}

Task<Status> AppMessages::CheckpointOthers() {
  if (SomethingOwed(nullptr)) co_return Error(Errc::kBusy, "a journal is owed");
  auto pending = std::make_shared<Pending>();
  co_await Ask(Favour::kCheckpoint, pending, kCheckpointLimit);
  co_return pending->result;
}

Task<void> AppMessages::ShrinkOthers() {
  auto pending = std::make_shared<Pending>();
  co_await Ask(Favour::kShrink, pending, kShrinkLimit);
}

// Until all have answered, or one cannot, or patience ends.
Task<void> AppMessages::Ask(Favour favour, std::shared_ptr<Pending> pending, Duration patience) {
  for (const dlm::Member& member : space_.view().members) {
    if (member.id != space_.self()) pending->left.insert(member.id);
  }
  uint64_t id = next_id_++;
  pending_[id] = pending;
  SendAll(Encode(favour == Favour::kShrink ? Kind::kShrink : Kind::kCheckpoint, id));
  Instant limit = Executor::Current().clock().Now() + patience;
  while (!pending->left.empty() && pending->result.ok() && !stopped_) {
    co_await SleepFor(Milliseconds(5));
    // One that has left has a clean journal; one that died owes it.
    std::set<MemberId> members;
    for (const dlm::Member& member : space_.view().members) members.insert(member.id);
    if (SomethingOwed(&pending->left)) pending->result = Error(Errc::kBusy, "a journal is owed");
    std::erase_if(pending->left, [&](const MemberId& m) { return !members.contains(m); });
    if (Executor::Current().clock().Now() >= limit) pending->result = Errc::kTimeout;
  }
  pending_.erase(id);
}

Task<void> AppMessages::Idle() {
  while (doing_ > 0) co_await done_.Wait();
}

Task<void> AppMessages::Do(Favour favour, MemberId from, uint64_t id) {
  Status done;
  if (favour == Favour::kShrink) {
    done = co_await handlers_.shrink();
  } else {
    done = co_await handlers_.checkpoint();
  }
  --doing_;
  done_.WakeAll();
  if (!stopped_) space_.SendApp(from, Encode(Kind::kCheckpointDone, id, done.ok()));
}

void AppMessages::OnMessage(MemberId from, std::span<const std::byte> message) {
  Wire wire;
  if (stopped_ || message.size() != sizeof(wire)) return;
  std::memcpy(&wire, message.data(), sizeof(wire));
  if (wire.version != 1) return;
  auto kind = static_cast<Kind>(wire.kind);
  uint64_t number = wire.number;
  switch (kind) {
    case Kind::kReapAgain:
      handlers_.reap_again(InodeNo(number));
      return;
    case Kind::kCheckpoint:
    case Kind::kShrink:
      if (doing_ >= kDoingMax) return;
      ++doing_;  // from now on Idle waits for it
      scope_.Spawn(Do(kind == Kind::kShrink ? Favour::kShrink : Favour::kCheckpoint, from, number));
      return;
    case Kind::kCheckpointDone: {
      auto it = pending_.find(number);
      if (it == pending_.end()) return;
      it->second->left.erase(from);
      if (wire.ok == 0) it->second->result = Error(Errc::kIo, "another mount could not do what was asked");
      return;
    }
    case Kind::kFreeDelta:
      handlers_.free_delta(static_cast<int64_t>(number));
      return;
  }
}

}  // namespace holdfast::fs
