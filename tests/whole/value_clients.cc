#include "tests/whole/value_clients.h"

#include <cstring>
#include <functional>
#include <map>
#include <set>

#include "base/log.h"
#include "base/probe.h"
#include "fs/resource.h"

namespace holdfast::whole {
namespace {

using dlm::Mode;

constexpr uint64_t kCounters = 2;

struct Counter {
  uint64_t written = 0;          // the last whose writing ended
  std::set<uint64_t> attempted;  // begun since, and no answer
  uint64_t next = 1;
};

dlm::ValueBytes Encode(uint64_t n) {
  dlm::ValueBytes out{};
  std::memcpy(out.data(), &n, sizeof n);
  return out;
}

class ValueClients final : public Clients {
 public:
  ValueClients(sim::World* world, std::unique_ptr<Clients> others, std::function<dlm::LockSpace*(NodeId)> space)
      : world_(world), others_(std::move(others)), space_(std::move(space)) {}

  void Attach(NodeId node, fs::Mount* mount, sim::SimExecutor* executor) override {
    others_->Attach(node, mount, executor);
    Place& place = places_[node];
    uint64_t life = place.life + 1;
    place = Place{};
    place.life = life;
    place.owner = mount->owner();
    place.running = true;
    executor->Spawn(Use(node, life, space_(node)));
  }
  Task<void> Detach(NodeId node) override {
    uint64_t life = places_[node].life;
    places_[node].stop = true;
    while (places_[node].life == life && places_[node].running) co_await SleepFor(Milliseconds(1));
    co_await others_->Detach(node);
  }
  void NodeDied(NodeId node) override {
    Ended(node);
    others_->NodeDied(node);
  }
  void MountDied(NodeId node) override {
    Ended(node);
    others_->MountDied(node);
  }
  Task<void> Withdraw(NodeId node, Error why) override {
    Ended(node);
    co_await others_->Withdraw(node, why);
  }
  void Replayed(const MemberId& victim) override {
    for (auto& [node, place] : places_)
      if (place.owner.node == victim.node && place.owner.nonce == victim.nonce) Ended(node);
    others_->Replayed(victim);
  }
  void Recovered(NodeId node) override { others_->Recovered(node); }
  void DiskErrors(NodeId node) override { others_->DiskErrors(node); }
  void Quiesce() override {
    quiet_ = true;
    others_->Quiesce();
  }
  bool Idle() const override {
    for (const auto& [node, place] : places_)
      if (place.running) return false;
    return others_->Idle();
  }
  Task<void> FinalCheck(NodeId node) override { return others_->FinalCheck(node); }
  Task<std::string> CheckCold(fs::Mount* mount) override { return others_->CheckCold(mount); }
  const std::string& Violation() const override { return violation_.empty() ? others_->Violation() : violation_; }
  std::string Verify() override { return violation_.empty() ? others_->Verify() : violation_; }
  std::string Dump() const override {
    std::string out = others_->Dump();
    for (const auto& [node, place] : places_)
      if (place.running) out += "value user on n" + std::to_string(node.v) + ": " + place.doing + "\n";
    return out;
  }
  uint64_t operations() const override { return others_->operations() + operations_; }

 private:
  struct Place {
    uint64_t life = 0;
    fs::OwnerStamp owner;
    bool running = false, stop = false;
    std::string doing;
  };

  // Dead, withdrawn, or replayed although it does not know: what it does from now on counts for nobody.
  void Ended(NodeId node) {
    ++places_[node].life;
    places_[node].running = false;
  }
  bool Lives(NodeId node, uint64_t life) { return places_[node].life == life; }

  Task<void> Use(NodeId node, uint64_t life, dlm::LockSpace* space) {
    sim::SimRandom& random = world_->random();
    dlm::LockId locks[kCounters];
    for (uint64_t i = 0; i < kCounters; ++i) locks[i] = space->Create(fs::DlmName({fs::LockType::kQuota, i}), nullptr);
    bool ok = true;
    while (ok && !quiet_ && Lives(node, life) && !places_[node].stop && violation_.empty()) {
      uint64_t which = random.Below(kCounters);
      places_[node].doing = "counter " + std::to_string(which);
      // Nothing is kept beside what is asked for: cycles over two counters would be this user's own fault.
      for (uint64_t i = 0; i < kCounters && ok; ++i) {
        if (i == which || space->GrantedMode(locks[i]) == Mode::kIV) continue;
        Status gone = co_await space->Unlock(locks[i]);
        ok = gone.ok();
      }
      if (!ok || !Lives(node, life)) break;
      ok = co_await Once(node, life, space, locks[which], which);
      ++operations_;
      if (!ok || !Lives(node, life)) break;
      co_await SleepFor(random.Between(Milliseconds(1), Milliseconds(60)));
    }
    for (dlm::LockId lock : locks) {
      if (!Lives(node, life)) co_return;
      places_[node].doing = "gives up";
      if (space->GrantedMode(lock) != Mode::kIV) (void)co_await space->Unlock(lock);
    }
    if (Lives(node, life)) places_[node].running = false;
  }

  // False: this mount is on its way out.
  Task<bool> Once(NodeId node, uint64_t life, dlm::LockSpace* space, dlm::LockId lock, uint64_t which) {
    sim::SimRandom& random = world_->random();
    Counter& counter = counters_[which];
    Mode mode = random.Chance(700'000) ? Mode::kEX : random.Chance(500'000) ? Mode::kPW : Mode::kPR;
    Mode had = space->GrantedMode(lock);
    if (had != Mode::kIV && had != Mode::kNL && !dlm::Covers(mode, had)) mode = Mode::kEX;
    Status got = co_await space->Request(lock, mode);
    if (!Lives(node, life)) co_return false;
    if (got.code() == Errc::kDeadlock) {
      Status gone = co_await space->Unlock(lock);
      co_return gone.ok();
    }
    if (!got.ok()) co_return false;
    dlm::ValueBlock value = space->Value(lock);
    uint64_t n = 0;
    std::memcpy(&n, value.bytes.data(), sizeof n);
    if (value.valid && n != counter.written && !counter.attempted.contains(n))
      Violate("I6: value block " + std::to_string(which) + " is valid on n" + std::to_string(node.v) + " and says " + std::to_string(n) +
              ", last written was " + std::to_string(counter.written));
    if (!value.valid) HF_PROBE("value block: not valid");
    bool writes = mode != Mode::kPR;
    uint64_t mine = 0;
    if (writes) {
      if (value.valid) counter.written = n;
      counter.attempted.clear();
      mine = counter.next++;
    }
    if (random.Chance(300'000)) co_await SleepFor(random.Between(Microseconds(10), Milliseconds(5)));
    if (!Lives(node, life)) co_return false;
    if (writes) counter.attempted.insert(mine);
    std::optional<dlm::ValueBytes> bytes;
    if (writes) bytes = Encode(mine);
    static constexpr Mode kAfter[] = {Mode::kIV, Mode::kNL, Mode::kCR, Mode::kPR};
    Mode after = kAfter[random.Below(4)];
    Status done;
    if (after == Mode::kIV || !dlm::Covers(mode, after)) {
      done = co_await space->Unlock(lock, bytes);
    } else {
      dlm::RequestOptions options;
      options.value = bytes;
      done = co_await space->Request(lock, after, dlm::Flags::kNone, options);
    }
    if (!Lives(node, life) || !done.ok()) co_return false;
    if (writes && mine > counter.written) {
      counter.written = mine;
      counter.attempted.erase(counter.attempted.begin(), counter.attempted.upper_bound(mine));
    }
    co_return true;
  }

  void Violate(std::string what) {
    if (!violation_.empty()) return;
    violation_ = std::move(what);
    HF_LOG(LogLevel::kError, "values", "violation", {{"what", violation_}});
  }

  sim::World* world_;
  std::unique_ptr<Clients> others_;
  std::function<dlm::LockSpace*(NodeId)> space_;
  std::map<NodeId, Place> places_;
  std::map<uint64_t, Counter> counters_;
  std::string violation_;
  uint64_t operations_ = 0;
  bool quiet_ = false;
};

}  // namespace

std::unique_ptr<Clients> MakeValueClients(sim::World* world, std::unique_ptr<Clients> others, std::function<dlm::LockSpace*(NodeId)> space) {
  return std::make_unique<ValueClients>(world, std::move(others), std::move(space));
}

}  // namespace holdfast::whole
