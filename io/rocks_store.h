// RocksStore: the production KvStore. Calls run in the pool; writes keep their order; a synced write is in the log on
// disk when it completes. Small by intent: a few thousand keys (acceptor state, config versions, histories).
#pragma once

#include <memory>
#include <string>

#include "base/kv_store.h"
#include "base/pool.h"
#include "base/sync.h"

namespace holdfast::io {

class RocksStore final : public KvStore {
 public:
  // Makes the folder if it is missing. kBusy: another process has it open; kCorrupt; kIo. Blocks: call it at start.
  static Result<std::unique_ptr<RocksStore>> Open(Pool* pool, const std::string& path);
  // REQUIRES: no call under way.
  ~RocksStore() override;

  Task<Result<std::optional<std::string>>> Get(std::string key) override;
  Task<Status> Write(KvBatch batch, bool sync) override;
  Task<Result<std::vector<std::pair<std::string, std::string>>>> Scan(std::string prefix, size_t limit) override;

 private:
  struct Db;
  RocksStore() = default;
  Pool* pool_ = nullptr;
  std::shared_ptr<Db> db_;
  Mutex order_;
};

}  // namespace holdfast::io
