// The thin shell around the core: LockSpace over an executor and a channel. Encodes and decodes, keeps who waits for which
// operation, posts callbacks, arms the timer. All decisions are the core's.
#pragma once

#include <map>
#include <memory>
#include <unordered_map>

#include "base/channel.h"
#include "base/executor.h"
#include "base/sync.h"
#include "dlm/core.h"

namespace holdfast::dlm {

// A member of a lockspace. The channel belongs to this lockspace alone (its receiver and its peers are set from here, from
// the view) and carries `self` as its own id. REQUIRES: executor and channel outlive it. nullptr: no other members.
std::unique_ptr<LockSpace> MakeLockSpace(Executor& executor, Channel* channel, MemberId self, Knobs knobs = {});

class Service : public LockSpace {
 public:
  Service(Executor& executor, Channel* channel, MemberId self, Knobs knobs);
  ~Service() override;

  MemberId self() const override { return core_.self(); }
  LockId Create(ResourceName name, BlockingCallback on_blocking) override;
  void Destroy(LockId lock) override;
  Task<Status> Request(LockId lock, Mode mode, Flags flags, RequestOptions options) override;
  Task<Status> Unlock(LockId lock, std::optional<ValueBytes> value) override;
  void Cancel(LockId lock) override;
  Mode GrantedMode(LockId lock) const override { return core_.requester().GrantedMode(lock); }
  ValueBlock Value(LockId lock) const override { return core_.requester().Value(lock); }
  Task<Status> RangeSet(RangeRequest request) override;
  Task<Result<std::optional<RangeConflict>>> RangeTest(RangeRequest request) override;
  void RangeCancel(uint64_t token) override;
  Task<Status> RangeDropOwner(ResourceName name, RangeSpace space, RangeOwner owner) override;
  Task<Status> RangeDropHandle(ResourceName name, uint64_t handle) override;
  bool HoldsRanges(const ResourceName& name) const override { return core_.requester().HoldsRanges(name); }
  void SendApp(MemberId to, Bytes message) override;
  void SetAppReceiver(std::function<void(MemberId, std::span<const std::byte>)> receiver) override;
  void SetView(const View& view) override;
  const View& view() const override { return core_.view(); }
  Task<Status> Recovered(Generation generation) override;
  void SetRecoveredCallback(std::function<void(Generation)> callback) override { on_recovered_ = std::move(callback); }
  void SetWithdrawnCallback(std::function<void(std::string)> callback) override { on_withdrawn_ = std::move(callback); }
  Task<Result<bool>> Frozen(ResourceName name) override;
  Task<Status> Leave() override;
  void Withdraw(std::string reason) override;
  LockSpaceDump Dump() const override { return core_.Dump(); }
  Counters counters() const override { return core_.counters(); }

 private:
  struct Outcome {
    Errc status = Errc::kOk;
    bool frozen = false;
    std::optional<RangeConflict> conflict;
  };
  using Waiter = Completion<Outcome>;

  void Enter();           // time, before a call into the core
  void Drain();           // after it: messages out, upcalls, timer
  void Deliver(Upcall up);
  void SendOut(Outgoing out);
  void ArmTimer();
  void OnMessage(const ChannelMessage& message);
  void SetChannelPeers();
  void GiveUpEverything();
  void Fail(std::string why);
  void PostGuarded(std::function<void()> fn);
  // Waits for an operation that was just started. REQUIRES: Enter() before, nothing in between.
  Task<Outcome> Await(Result<uint64_t> op);

  Executor& executor_;
  Channel* channel_;
  Core core_;
  std::map<uint64_t, Waiter*> waiters_;
  std::unordered_map<LockId, BlockingCallback> callbacks_;
  std::function<void(MemberId, std::span<const std::byte>)> app_receiver_;
  std::function<void(Generation)> on_recovered_;
  std::function<void(std::string)> on_withdrawn_;
  WaitList changed_;
  TimerId timer_ = 0;
  Instant timer_at_;
  bool leaving_ = false;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace holdfast::dlm
