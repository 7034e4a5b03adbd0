// Timeline: what `holdfast history` shows. A recovery is what followed the failure of one life of a node or of one mount:
// its phases with milliseconds since the victim was last heard, as this node saw them. Events are single facts (joined,
// left, admitted). Kept in the node's store, the newest so many.
// Threading: one executor. Injected: KvStore, Clock.
#pragma once

#include <deque>
#include <map>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/executor.h"
#include "base/kv_store.h"
#include "base/status_tree.h"
#include "base/sync.h"

namespace holdfast::cluster {

enum class Phase : uint8_t {
  kLastHeard,
  kDetected,
  kDecided,
  kFencing,
  kFenced,
  kLocksRebuilt,
  kReplayStarted,
  kReplayed,       // as the replayer or the register says
  kReadersEnded,
  kResumed,
};
const char* PhaseName(Phase phase);

class Timeline {
 public:
  static constexpr size_t kRecoveriesMax = 200, kEventsMax = 500, kPhasesMax = 64;

  Timeline(KvStore* store, Executor* executor) : store_(store), executor_(executor) {}

  Task<void> Load();
  // Begins a recovery, or finds the one that is there. `zero`: when the victim was last heard (unknown: now).
  void Begin(const std::string& victim, const std::string& reason, Instant zero);
  bool Has(const std::string& victim) const { return open_.contains(victim); }
  // The first of each (phase, detail) counts. No effect without Begin.
  void Note(const std::string& victim, Phase phase, const std::string& detail);
  void NoteAt(const std::string& victim, Phase phase, const std::string& detail, Instant when);
  void Event(const std::string& what, const std::string& detail);
  StatusTree Show(size_t limit) const;
  // Waits for writes under way: REQUIRED before the store closes.
  Task<void> Close() { return scope_.Join(); }

 private:
  struct Mark {
    std::string phase, detail;
    int64_t ms = 0;  // since zero
  };
  struct Recovery {
    std::string key, at, victim, reason;
    Instant zero;
    std::vector<Mark> marks;
  };
  struct Single {
    std::string key, at, what, detail;
  };
  std::string NewKey(const char* prefix);
  void Save(std::string key, const StatusTree& tree, const std::string& drop);
  Task<void> Write(KvBatch batch);
  static StatusTree ToTree(const Recovery& recovery);
  std::string WallText(Duration before) const;

  KvStore* store_;
  Executor* executor_;
  std::deque<Recovery> recoveries_;
  std::deque<Single> events_;
  std::map<std::string, std::string> open_;  // victim -> key of its recovery in this life
  uint64_t serial_ = 0;
  Mutex writing_;  // one write after another: a key's newest value wins
  Scope scope_;
};

}  // namespace holdfast::cluster
