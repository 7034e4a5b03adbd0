// SimKvStore: a node's small durable state. SimKvMedium is the medium that outlives its node's processes; SimKvStore is
// one process's handle on it. A crash loses unsynced batches from some point on (a log's tail); Wipe() is memory loss.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/kv_store.h"
#include "tests/sim/world.h"

namespace holdfast::sim {

struct KvKnobs {
  Duration latency_min = Microseconds(20);
  Duration latency_max = Milliseconds(2);
  uint32_t error = 0;  // per million writes that fail with kIo and change nothing
};

class SimKvMedium {
 public:
  explicit SimKvMedium(World* world, KvKnobs knobs = {}) : world_(world), knobs_(knobs) {}
  // The node lost power: some of the unsynced batches at the end are gone.
  void Crash();
  // The store comes back empty.
  void Wipe();
  const std::map<std::string, std::string>& contents() const { return now_; }
  KvKnobs& knobs() { return knobs_; }

 private:
  friend class SimKvStore;
  void Apply(const KvBatch& batch, bool sync);
  World* world_;
  KvKnobs knobs_;
  std::map<std::string, std::string> now_, durable_;
  std::vector<KvBatch> unsynced_;
  uint64_t crashes_ = 0;  // a write under way in an older life never applies
};

class SimKvStore final : public KvStore {
 public:
  SimKvStore(SimExecutor* executor, SimKvMedium* medium) : executor_(executor), medium_(medium) {}
  Task<Result<std::optional<std::string>>> Get(std::string key) override;
  Task<Status> Write(KvBatch batch, bool sync) override;
  Task<Result<std::vector<std::pair<std::string, std::string>>>> Scan(std::string prefix, size_t limit) override;

 private:
  Task<void> Wait();
  SimExecutor* executor_;
  SimKvMedium* medium_;
  Mutex order_;  // writes apply in the order in which they were called
};

}  // namespace holdfast::sim
