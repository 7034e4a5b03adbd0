// Core: one member's lock manager as a pure state machine: Step(from, message), SetView, the user's calls, Tick(now) in;
// TakeMessages and TakeUpcalls out. No I/O, no clock, no threads. It sorts messages by generation and hands them to the
// part they belong to: directory.h, master.h, requester.h, recovery.h.
// INVARIANT: between survivors nothing is lost: answers of older generations are processed, requests of older generations
// are dropped here and sent again by their askers, messages of newer generations wait. docs/protocols/dlm.md
#pragma once

#include <deque>

#include "dlm/directory.h"
#include "dlm/master.h"
#include "dlm/recovery.h"
#include "dlm/requester.h"

namespace holdfast::dlm {

class Core {
 public:
  explicit Core(MemberId self, Knobs knobs = {});

  // Time only moves forward. Timeouts and disuse are looked at by Tick.
  void SetNow(Instant now) { context_.now = std::max(context_.now, now); }
  void Tick();
  std::optional<Instant> NextDeadline() const;

  void SetView(const View& view);
  void Step(const MemberId& from, Message message);
  void SendApp(const MemberId& to, Bytes payload);
  void Withdraw();

  // The user's calls; Settle() must follow (it works off messages to ourselves).
  Requester& requester() { return requester_; }
  const Requester& requester() const { return requester_; }
  void Settle();

  std::vector<Outgoing> TakeMessages() { return std::exchange(context_.out, {}); }
  std::vector<Upcall> TakeUpcalls() { return std::exchange(context_.upcalls, {}); }

  const View& view() const { return context_.view; }
  bool running() const { return context_.running; }
  bool withdrawn() const { return withdrawn_; }
  const std::string& broken() const { return context_.broken; }  // why it withdrew by itself; empty: it did not
  bool replay_owed() const { return context_.replayed.closed; }
  const MemberId& self() const { return context_.self; }
  LockSpaceDump Dump() const;
  const Counters& counters() const { return context_.counters; }
  const Master& master() const { return master_; }

 private:
  struct Waiting {
    MemberId from;
    Message message;
  };
  void Sort(const MemberId& from, Message message);
  void Keep(const MemberId& from, Message message);
  void Dispatch(const MemberId& from, Message message);
  void DispatchByName(const MemberId& from, Message message);
  void DeliverApp(const MemberId& from, Message message);
  void UpdateGates();
  void Advance();
  void WorkOffWaiting();
  bool GoneWrong();

  Context context_;
  Directory directory_;
  Master master_;
  Requester requester_;
  Recovery recovery_;
  std::deque<Waiting> waiting_;  // of a newer generation, or for after the barrier
  bool withdrawn_ = false;
};

}  // namespace holdfast::dlm
