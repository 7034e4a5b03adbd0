// Executor: the one serial queue on which a node's (or program's) core code runs, and its timers. Production:
// io/reactor.h (epoll); simulation: tests/sim/world.h, one executor per simulated node. Core code starts no threads.
// INVARIANT: what is posted runs in posting order, never inline in Post().
#pragma once

#include <coroutine>
#include <cstdint>
#include <functional>

#include "base/clock.h"

namespace holdfast {

using TimerId = uint64_t;  // 0 is never a timer

class Executor {
 public:
  virtual ~Executor() = default;

  virtual void Post(std::function<void()> fn) = 0;
  // The coroutine is resumed from the ready queue. All completions come through here.
  virtual void Post(std::coroutine_handle<> handle) = 0;
  // Runs fn once, at or after `when` on this executor's clock, unless cancelled before it started.
  virtual TimerId PostAt(Instant when, std::function<void()> fn) = 0;
  // No effect on a timer that has run. After Cancel returns fn will not run.
  virtual void Cancel(TimerId timer) = 0;
  virtual Clock& clock() = 0;

  // The executor whose turn it is on this thread; set by its run loop (ExecutorTurn). CHECKs that there is one.
  static Executor& Current();
  static Executor* CurrentOrNull();
};

// Marks `executor` as the running one for a scope. Run loops use it; core code does not.
class ExecutorTurn {
 public:
  explicit ExecutorTurn(Executor* executor);
  ~ExecutorTurn();
  ExecutorTurn(const ExecutorTurn&) = delete;
  ExecutorTurn& operator=(const ExecutorTurn&) = delete;

 private:
  Executor* previous_;
};

}  // namespace holdfast
