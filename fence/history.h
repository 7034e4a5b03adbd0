// History: what happened on this node's watch, for `holdfast history`: the steps of fencings and the phases of
// recoveries, numbered, in the node's KvStore. Also remembers which ports were seen ON (fence/domain.h says why).
// Bounded: the oldest records go. A record is small and never holds a secret. Threading: one executor.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "base/kv_store.h"
#include "base/result.h"
#include "base/sync.h"
#include "base/task.h"
#include "fence/types.h"

namespace holdfast::fence {

struct HistoryRecord {
  uint64_t number = 0;  // given by Append
  WallTime at;
  NodeId node;          // whom it is about
  Incarnation incarnation;
  std::string phase;    // "detected", "decided", "fence", "fenced", "locks rebuilt", "replayed", "resumed", ...
  std::string what;     // "power/bmc2 off", a lockspace, ...
  std::string outcome;  // "succeeded", ...
  std::string details;
  Duration took;
};

HistoryRecord RecordOf(const FenceStep& step);
HistoryRecord RecordOf(NodeId node, Incarnation incarnation, const FenceProof& proof);

class History {
 public:
  explicit History(KvStore* store, size_t records_max = 5000) : store_(store), records_max_(records_max) {}

  // Finds the newest number and the ports. Before anything else.
  Task<Status> Load();
  // Order is kept; not synced: history is not worth a flush.
  Task<Status> Append(HistoryRecord record);
  // The newest `limit`, oldest first.
  Task<Result<std::vector<HistoryRecord>>> Newest(size_t limit);

  // A device's plug was seen ON now (synced) / has been seen ON.
  Task<Status> MarkSeenOn(std::string device, std::string plug, WallTime at);
  std::optional<WallTime> SeenOn(const std::string& device, const std::string& plug) const;

 private:
  KvStore* store_;
  size_t records_max_;
  uint64_t first_ = 1, next_ = 1;
  std::map<std::string, WallTime> seen_on_;
};

// Exposed for tests.
std::string EncodeRecord(const HistoryRecord& record);
Result<HistoryRecord> DecodeRecord(const std::string& text);

}  // namespace holdfast::fence
