// Context: what all parts of one member's core share: who we are, the view and its gates, the time, the output.
// Written by the Core (core.h) alone, except for Send and the upcalls. No I/O, no clock of its own.
#pragma once

#include <deque>
#include <set>
#include <string>
#include <vector>

#include "dlm/lockspace.h"
#include "dlm/message.h"

namespace holdfast::dlm {

struct Knobs {
  Duration idle_ttl = Seconds(10);   // an unused resource keeps its master this long
  size_t idle_max = 200'000;         // at most so many unused resources are kept
  size_t guess_max = 65'536;         // masters remembered for names of which we hold nothing
  size_t report_batch = 256;         // entries per recovery message
  size_t early_max = 1'000'000;      // messages kept for a later generation, or for after the barrier
};

// One of the two gates. A resource that a gate holds remembers the gate's epoch; when the gate opens the epoch moves on,
// so nothing has to be visited to be opened.
struct Gate {
  bool closed = false;
  uint64_t epoch = 1;
  std::set<MemberId> owed;

  // True if the gate opened (or all that it was closed for is done).
  bool Update(std::set<MemberId> now_owed);
  bool Holds(uint64_t resource_epoch) const { return closed && resource_epoch == epoch; }
};

struct Outgoing {
  MemberId to;
  Message message;
};

struct Upcall {
  enum class What { kDone, kBlocking, kRecovered, kApp, kWithdrawn } what;
  uint64_t op = 0;      // kDone
  Errc status = Errc::kOk;
  bool frozen = false;  // kDone of a query
  std::optional<RangeConflict> conflict;
  LockId lock;          // kBlocking
  Mode mode = Mode::kIV;
  Generation generation;  // kRecovered
  MemberId from;          // kApp
  Bytes payload;
};

struct Context {
  MemberId self;
  Knobs knobs;
  View view;
  bool running = false;  // past the barrier of view.generation
  Instant now;
  Gate replayed;         // gate 1
  Gate readers;          // gate 2
  Counters counters;
  std::vector<Outgoing> out;    // to others
  std::deque<Message> loop;     // to ourselves; handled before the step ends
  std::vector<Upcall> upcalls;
  std::string broken;           // the first contradiction, in words; the core withdraws before it says anything more

  bool IsMember(const MemberId& m) const;
  const Victim* FindVictim(const MemberId& m) const;
  // The member that answers for this name in this generation: rendezvous hashing.
  const MemberId& Directory(const ResourceName& name) const;
  void Send(const MemberId& to, Message message);
  void SendToOthers(Kind kind, uint64_t count = 0);
  // What others say contradicts itself, or what we know: two masters of a name, two locks that exclude each other. One of
  // us is wrong, and nobody can tell who: this member ends, and is fenced and replayed, before it grants on that ground.
  void Broken(const char* format, ...) __attribute__((format(printf, 2, 3)));
};

}  // namespace holdfast::dlm
