// SimPool: runs the work after a random delay, with no current executor, as a thread would.
#pragma once

#include "base/pool.h"
#include "tests/sim/world.h"

namespace holdfast::sim {

class SimPool final : public Pool {
 public:
  explicit SimPool(SimExecutor* executor, Duration delay_max = Milliseconds(5))
      : executor_(executor), delay_max_(delay_max) {}

  void Submit(std::function<void()> work, std::function<void()> done) override {
    Duration delay = executor_->world().random().Between(Duration{0}, delay_max_);
    Instant when = executor_->clock().Now() + delay;
    executor_->PostAt(when, [executor = executor_, work = std::move(work), done = std::move(done)] {
      {
        ExecutorTurn none(nullptr);
        work();
      }
      executor->Post(done);
    });
  }

 private:
  SimExecutor* executor_;
  Duration delay_max_;
};

}  // namespace holdfast::sim
