// Parts: what the nouns of holdfastd share. Owned by DaemonCore; pointers stay valid for the process's life, but `engine` is
// null until it has been started. Threading: one executor.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "base/executor.h"
#include "base/kv_store.h"
#include "base/processes.h"
#include "base/random.h"
#include "base/sync.h"
#include "cluster/config.h"
#include "cluster/engine.h"
#include "cluster/lease_page.h"
#include "dlm/cluster_link.h"

namespace holdfast::cluster {

class Timeline;

// What waits on what, since when: one line per key, shown by status.
class WaitBoard {
 public:
  explicit WaitBoard(Clock* clock) : clock_(clock) {}
  // Keeps the time of the first Set with this key and text.
  void Set(const std::string& key, const std::string& what, const std::string& on) {
    Line& line = lines_[key];
    if (line.what != what || line.on != on) line = {what, on, clock_->Now()};
  }
  void Clear(const std::string& key) { lines_.erase(key); }
  std::vector<dlm::Waiting> Show() const {
    std::vector<dlm::Waiting> out;
    for (const auto& [key, line] : lines_) out.push_back({line.what, line.on, clock_->Now() - line.since});
    return out;
  }

 private:
  struct Line {
    std::string what, on;
    Instant since;
  };
  Clock* clock_;
  std::map<std::string, Line> lines_;
};

struct Parts {
  Executor* executor = nullptr;
  Random* random = nullptr;
  KvStore* store = nullptr;
  Processes* processes = nullptr;
  const Config* config = nullptr;
  const NodeConfig* self = nullptr;
  uint64_t nonce = 0;  // of this start
  std::string boot_id;
  Engine* engine = nullptr;
  Timeline* timeline = nullptr;
  LeaseWriter* lease = nullptr;
  WaitBoard* waits = nullptr;
  Scope* scope = nullptr;
  bool over = false;  // this life ends: loops give up

  Instant Now() const { return executor->clock().Now(); }
  std::string NodeName(NodeId id) const {
    const NodeConfig* node = config->FindNode(id);
    return node ? node->name : "node " + std::to_string(id.v);
  }
};

// Applies a change until it has an outcome: without quorum, or where the outcome is unknown, it is given again with the
// same id. Ends with kCancelled when this life is over. (Give `change` as a variable: g++ 12 destroys a lambda that is
// built inside a co_await expression twice.)
inline Task<Result<StatePtr>> Persist(Parts* parts, ChangeFn change) {
  for (;;) {
    if (parts->over || !parts->engine) co_return Error(Errc::kCancelled, "this life of holdfastd ends");
    auto result = co_await parts->engine->Change(change);
    Errc code = result.code();
    if (code != Errc::kNoQuorum && code != Errc::kTimeout && code != Errc::kDisconnected) co_return result;
    co_await SleepFor(Milliseconds(50));
  }
}

}  // namespace holdfast::cluster
