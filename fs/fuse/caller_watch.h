// CallerWatch: is the process behind a request being killed? FUSE_INTERRUPT comes once per request, for whatever signal came
// first, and says nothing about it; a later SIGKILL is not told at all. So a request that was signalled is looked
// after until its answer: a fatal signal that waits for its process raises the request's Interrupt (rule 7 of
// filesystem.md: EINTR is no answer for a process that lives on).
// A process that is already ending (PF_EXITING) gets no signals any more: FLUSH has that looked after as well.
// Threading: the reactor's. /proc/TID/status and stat take no lock that a process may hold for long.
#pragma once

#include <functional>
#include <vector>

#include "base/clock.h"
#include "base/executor.h"
#include "fs/interrupt.h"

namespace holdfast::fs::fuse {

class CallerWatch {
 public:
  // One request's, from its arrival to its answer.
  class Call {
   public:
    // thread: as the kernel names it; 0: of a process namespace that we do not see.
    Call(CallerWatch* watch, int thread) : watch_(watch), thread_(thread) {}
    ~Call();
    Call(const Call&) = delete;
    Interrupt* interrupt() { return &interrupt_; }
    // What any signal does, besides (lock waits end).
    void OnSignal(std::function<void()> on_signal) { on_signal_ = std::move(on_signal); }
    bool signalled() const { return signalled_; }
    // A process that is ending does not wait much longer than this.
    void EndWhenExiting(Duration patience);
    // FUSE_INTERRUPT.
    void Signalled();

   private:
    friend class CallerWatch;
    bool Over() const;
    CallerWatch* watch_;
    int thread_;
    bool signalled_ = false;
    bool watched_ = false;
    bool exiting_too_ = false;
    Instant exiting_from_;
    std::function<void()> on_signal_;
    Interrupt interrupt_;
  };

  ~CallerWatch();
  size_t watched() const { return calls_.size(); }

 private:
  void Add(Call* call);
  void Remove(Call* call);
  void Look();

  std::vector<Call*> calls_;
  Executor* executor_ = nullptr;
  TimerId timer_{};
  bool timer_set_ = false;
};

// A signal whose default end is the process's, neither blocked, caught nor ignored, waits for this thread.
bool FatalSignalPending(int thread);
bool Exiting(int thread);

}  // namespace holdfast::fs::fuse
