// KvStore: a node's small durable state (acceptor, config versions, fence history). A batch is atomic and, with
// sync, durable when Write completes. Production: io/rocks_store.h; simulation: tests/sim/kv_store.h.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/task.h"

namespace holdfast {

struct KvBatch {
  std::vector<std::pair<std::string, std::string>> puts;
  std::vector<std::string> deletes;
};

class KvStore {
 public:
  virtual ~KvStore() = default;
  virtual Task<Result<std::optional<std::string>>> Get(std::string key) = 0;
  virtual Task<Status> Write(KvBatch batch, bool sync) = 0;
  // Keys with the prefix, in order, at most `limit`.
  virtual Task<Result<std::vector<std::pair<std::string, std::string>>>> Scan(std::string prefix, size_t limit) = 0;
};

}  // namespace holdfast
