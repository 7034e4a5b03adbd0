// ModelLocks: a small lock manager for tests of LockTable: several members, FIFO queues, conversions before new
// requests, conversion deadlocks found at once, blocking callbacks, message delays from the seed.
#pragma once

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <vector>

#include "fs/lock_port.h"
#include "tests/sim/world.h"

namespace holdfast::fs::test {

class ModelLocks {
 public:
  explicit ModelLocks(sim::World* world) : world_(world) {}

  class Port : public LockPort {
   public:
    Port(ModelLocks* locks, sim::SimExecutor* executor, int member) : locks_(locks), executor_(executor), member_(member) {}
    void SetBlocking(Blocking blocking) override { blocking_ = std::move(blocking); }
    Task<Status> Acquire(Resource resource, LockMode from, LockMode to, bool noqueue) override {
      co_await SleepFor(locks_->Delay());
      Completion<Errc> done;
      locks_->Ask(resource, this, from, to, noqueue, &done);
      Errc code = co_await done;
      co_await SleepFor(locks_->Delay());
      co_return code;
    }
    Task<Status> Lower(Resource resource, LockMode, LockMode to) override {
      co_await SleepFor(locks_->Delay());
      locks_->Lower(resource, this, to);
      co_return Status();
    }
    void Cancel(Resource resource) override { locks_->Cancel(resource, this); }

   private:
    friend class ModelLocks;
    ModelLocks* locks_;
    sim::SimExecutor* executor_;
    int member_;
    Blocking blocking_;
  };

  std::unique_ptr<Port> Join(sim::SimExecutor* executor) { return std::make_unique<Port>(this, executor, next_member_++); }
  LockMode Granted(Resource resource, const Port* port) {
    for (auto& h : table_[resource].holders)
      if (h.port == port) return h.mode;
    return LockMode::kNone;
  }
  // A member has died: what it held is nobody's, what it asked for is not asked.
  void Died(const Port* port) {
    for (auto& [resource, r] : table_) {
      std::erase_if(r.converting, [port](const Ask_& ask) { return ask.port == port; });
      std::erase_if(r.waiting, [port](const Ask_& ask) { return ask.port == port; });
      Lower(resource, port, LockMode::kNone);
    }
  }
  // I3: no two incompatible grants. Returns what is wrong.
  std::string Check() const {
    for (auto& [resource, r] : table_)
      for (auto& a : r.holders)
        for (auto& b : r.holders)
          if (a.port != b.port && !Share(a.mode, b.mode)) return "two incompatible grants of " + ToString(resource);
    return "";
  }

 private:
  struct Holder {
    Port* port;
    LockMode mode;
  };
  struct Ask_ {
    Port* port;
    LockMode to;
    bool convert;
    Completion<Errc>* done;
  };
  struct Res {
    std::vector<Holder> holders;
    std::deque<Ask_> converting, waiting;
  };
  // What has not arrived yet is granted in its time.
  void Cancel(Resource resource, const Port* port) {
    Res& r = table_[resource];
    for (std::deque<Ask_>* queue : {&r.converting, &r.waiting}) {
      for (auto ask = queue->begin(); ask != queue->end(); ++ask) {
        if (ask->port != port) continue;
        Completion<Errc>* done = ask->done;
        queue->erase(ask);
        done->Set(Errc::kCancelled);
        return;
      }
    }
  }
  Duration Delay() { return world_->random().Between(Microseconds(20), Microseconds(800)); }

  bool Fits(const Res& r, const Port* port, LockMode to) const {
    return std::all_of(r.holders.begin(), r.holders.end(), [&](auto& h) { return h.port == port || Share(h.mode, to); });
  }
  void Grant(Res& r, Ask_ ask) {
    auto it = std::find_if(r.holders.begin(), r.holders.end(), [&](auto& h) { return h.port == ask.port; });
    if (it == r.holders.end()) {
      r.holders.push_back({ask.port, ask.to});
    } else {
      it->mode = ask.to;
    }
    ask.done->Set(Errc::kOk);
  }
  void Ask(Resource resource, Port* port, LockMode from, LockMode to, bool noqueue, Completion<Errc>* done) {
    Res& r = table_[resource];
    Ask_ ask{port, to, from != LockMode::kNone, done};
    bool free = Fits(r, port, to) && (ask.convert ? r.converting.empty() : r.converting.empty() && r.waiting.empty());
    if (free) return Grant(r, ask);
    Tell(resource, r, port, to);
    if (noqueue) return done->Set(Errc::kWouldBlock);
    if (ask.convert && !r.converting.empty()) return done->Set(Errc::kDeadlock);
    (ask.convert ? r.converting : r.waiting).push_back(ask);
  }
  void Lower(Resource resource, const Port* port, LockMode to) {
    Res& r = table_[resource];
    for (auto& h : r.holders)
      if (h.port == port) h.mode = to;
    std::erase_if(r.holders, [](auto& h) { return h.mode == LockMode::kNone; });
    while (!r.converting.empty() && Fits(r, r.converting.front().port, r.converting.front().to)) {
      Ask_ ask = r.converting.front();
      r.converting.pop_front();
      Grant(r, ask);
    }
    while (r.converting.empty() && !r.waiting.empty() && Fits(r, r.waiting.front().port, r.waiting.front().to)) {
      Ask_ ask = r.waiting.front();
      r.waiting.pop_front();
      Grant(r, ask);
    }
    // Those granted now stand in the way of the next ones.
    if (!r.converting.empty()) Tell(resource, r, r.converting.front().port, r.converting.front().to);
    if (!r.waiting.empty()) Tell(resource, r, r.waiting.front().port, r.waiting.front().to);
  }
  void Tell(Resource resource, Res& r, Port* asker, LockMode to) {
    for (auto& h : r.holders) {
      if (h.port == asker || Share(h.mode, to)) continue;
      Port* port = h.port;
      world_->After(Delay(), [port, resource, to] {
        port->executor_->Post([port, resource, to] {
          if (port->blocking_) port->blocking_(resource, to);
        });
      });
    }
  }

  sim::World* world_;
  int next_member_ = 1;
  std::map<Resource, Res> table_;
};

}  // namespace holdfast::fs::test
