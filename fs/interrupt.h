// Interrupt: the wish that one operation ends while it waits for a lock, since the process that asked has been killed.
// The glue owns one per request and hands it to the operation, which hands it to whatever it waits for before it has
// changed anything: locks, space. What is waited for on everybody's behalf (a refill, a grant that is on its way)
// goes on without it. Threading: one executor.
#pragma once

#include <functional>
#include <memory>
#include <utility>

#include "base/result.h"
#include "base/sync.h"
#include "base/task.h"

namespace holdfast::fs {

class Interrupt {
 public:
  Interrupt() = default;
  Interrupt(const Interrupt&) = delete;

  bool raised() const { return killed_ || stale_; }
  bool killed() const { return killed_; }
  // Ends the wait under way with kInterrupted; from now on none begins.
  void Raise() {
    killed_ = true;
    EndWait();
  }
  // The same for a caller that lives: it shall ask again (KernelReply::Fail answers kStale; rule 1 of filesystem.md).
  void RaiseStale() {
    stale_ = true;
    EndWait();
  }
  void EndWait() {
    if (end_wait_) std::exchange(end_wait_, nullptr)();
  }
  // For whoever waits: an operation waits for one thing at a time. Cleared with nullptr when the wait is over.
  void Waits(std::function<void()> end_wait) { end_wait_ = std::move(end_wait); }

 private:
  bool killed_ = false;
  bool stale_ = false;
  std::function<void()> end_wait_;
};

inline bool Raised(const Interrupt* interrupt) { return interrupt != nullptr && interrupt->raised(); }

namespace interrupt_internal {
template <class R>
struct Answer {
  Completion<R> done;
  void Set(R result) {
    if (!done.done()) done.Set(std::move(result));
  }
};
template <class R>
Task<void> Finish(std::shared_ptr<Answer<R>> answer, Task<R> work) {
  auto result = co_await work;
  answer->Set(std::move(result));
}
}  // namespace interrupt_internal

// Waits for the work, or for the interrupt: then the work goes on in `scope` without anybody, and what it returns is
// dropped. Only for work that may come to its end late.
template <class R>
Task<R> OrInterrupted(Scope* scope, Interrupt* interrupt, Task<R> work) {
  if (interrupt == nullptr) {
    auto result = co_await work;
    co_return result;
  }
  auto answer = std::make_shared<interrupt_internal::Answer<R>>();
  interrupt->Waits([answer] { answer->Set(Errc::kInterrupted); });
  scope->Spawn(interrupt_internal::Finish<R>(answer, std::move(work)));
  if (interrupt->raised()) interrupt->EndWait();
  auto result = co_await answer->done;
  interrupt->Waits(nullptr);
  co_return result;
}

}  // namespace holdfast::fs
