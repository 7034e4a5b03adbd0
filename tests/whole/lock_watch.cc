#include "tests/whole/lock_watch.h"

#include <unordered_map>

namespace holdfast::whole {
namespace {

using namespace dlm;

class WatchedLocks final : public LockSpace {
 public:
  WatchedLocks(Checker* checker, std::unique_ptr<LockSpace> space) : checker_(checker), space_(std::move(space)) {}

  MemberId self() const override { return space_->self(); }
  LockId Create(ResourceName name, BlockingCallback on_blocking) override {
    LockId id = space_->Create(name, std::move(on_blocking));
    names_.emplace(id.v, std::move(name));
    return id;
  }
  void Destroy(LockId lock) override {
    names_.erase(lock.v);
    space_->Destroy(lock);
  }
  Task<Status> Request(LockId lock, Mode mode, Flags flags, RequestOptions options) override {
    ResourceName name = names_.at(lock.v);
    Mode had = space_->GrantedMode(lock);
    bool down = had != Mode::kIV && Covers(had, mode);
    if (down) checker_->Believes(self(), lock, name, mode);  // it counts from the call on
    Generation asked_in = space_->view().generation;
    Status got = co_await space_->Request(lock, mode, flags, options);
    if (got.ok()) {
      checker_->Believes(self(), lock, name, mode);
      if (!down) checker_->Granted(self(), lock, name, mode, asked_in, Has(flags, Flags::kRecovery));
    }
    co_return got;
  }
  Task<Status> Unlock(LockId lock, std::optional<ValueBytes> value) override {
    checker_->Believes(self(), lock, names_.at(lock.v), Mode::kIV);
    Status done = co_await space_->Unlock(lock, value);
    co_return done;
  }
  void Cancel(LockId lock) override { space_->Cancel(lock); }
  Mode GrantedMode(LockId lock) const override { return space_->GrantedMode(lock); }
  ValueBlock Value(LockId lock) const override { return space_->Value(lock); }
  Task<Status> RangeSet(RangeRequest request) override { return space_->RangeSet(std::move(request)); }
  Task<Result<std::optional<RangeConflict>>> RangeTest(RangeRequest request) override { return space_->RangeTest(std::move(request)); }
  void RangeCancel(uint64_t token) override { space_->RangeCancel(token); }
  Task<Status> RangeDropOwner(ResourceName name, RangeSpace space, RangeOwner owner) override {
    return space_->RangeDropOwner(std::move(name), space, owner);
  }
  Task<Status> RangeDropHandle(ResourceName name, uint64_t handle) override { return space_->RangeDropHandle(std::move(name), handle); }
  bool HoldsRanges(const ResourceName& name) const override { return space_->HoldsRanges(name); }
  void SendApp(MemberId to, Bytes message) override { space_->SendApp(to, std::move(message)); }
  void SetAppReceiver(std::function<void(MemberId, std::span<const std::byte>)> receiver) override {
    space_->SetAppReceiver(std::move(receiver));
  }
  void SetView(const View& view) override { space_->SetView(view); }
  const View& view() const override { return space_->view(); }
  Task<Status> Recovered(Generation generation) override { return space_->Recovered(generation); }
  void SetRecoveredCallback(std::function<void(Generation)> callback) override { space_->SetRecoveredCallback(std::move(callback)); }
  void SetWithdrawnCallback(std::function<void(std::string)> callback) override { space_->SetWithdrawnCallback(std::move(callback)); }
  Task<Result<bool>> Frozen(ResourceName name) override { return space_->Frozen(std::move(name)); }
  Task<Status> Leave() override {
    Status left = co_await space_->Leave();
    if (left.ok()) checker_->HoldsNothing(self());
    co_return left;
  }
  void Withdraw(std::string reason) override { space_->Withdraw(std::move(reason)); }
  LockSpaceDump Dump() const override { return space_->Dump(); }
  Counters counters() const override { return space_->counters(); }

 private:
  Checker* checker_;
  std::unique_ptr<LockSpace> space_;
  std::unordered_map<uint64_t, ResourceName> names_;  // looked up only
};

}  // namespace

std::unique_ptr<dlm::LockSpace> WatchLocks(Checker* checker, std::unique_ptr<dlm::LockSpace> space) {
  return std::make_unique<WatchedLocks>(checker, std::move(space));
}

}  // namespace holdfast::whole
