#include "io/rocks_store.h"

#include <rocksdb/db.h>
#include <rocksdb/options.h>
#include <rocksdb/write_batch.h>

namespace holdfast::io {

struct RocksStore::Db {
  std::unique_ptr<rocksdb::DB> db;
};

namespace {

Error FromRocks(const rocksdb::Status& s) {
  Errc code = s.IsCorruption() ? Errc::kCorrupt : s.IsNoSpace() ? Errc::kNoSpace : s.IsBusy() ? Errc::kBusy : Errc::kIo;
  std::string text = s.ToString();
  if (text.find("lock") != std::string::npos && s.IsIOError()) code = Errc::kBusy;
  return Error(code, std::move(text));
}

rocksdb::Options SmallOptions() {
  rocksdb::Options o;
  o.create_if_missing = true;
  o.write_buffer_size = 1 << 20;
  o.max_background_jobs = 2;
  o.max_open_files = 64;
  o.keep_log_file_num = 2;
  o.max_log_file_size = 1 << 20;
  o.recycle_log_file_num = 0;
  o.paranoid_checks = true;
  o.compression = rocksdb::kNoCompression;
  // What was synced must be found again; a torn tail of the log that was not synced may go.
  o.wal_recovery_mode = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
  return o;
}

}  // namespace

Result<std::unique_ptr<RocksStore>> RocksStore::Open(Pool* pool, const std::string& path) {
  rocksdb::DB* raw = nullptr;
  rocksdb::Status opened = rocksdb::DB::Open(SmallOptions(), path, &raw);
  if (!opened.ok()) return FromRocks(opened);
  std::unique_ptr<RocksStore> store(new RocksStore());
  store->pool_ = pool;
  store->db_ = std::make_shared<Db>();
  store->db_->db.reset(raw);
  return store;
}

RocksStore::~RocksStore() = default;

// g++ 12 destroys a lambda's captures twice when the lambda is a temporary inside a co_await: hence `work`.
Task<Result<std::optional<std::string>>> RocksStore::Get(std::string key) {
  using R = Result<std::optional<std::string>>;
  std::function<R()> work = [db = db_, key = std::move(key)]() -> R {
    std::string value;
    rocksdb::Status s = db->db->Get(rocksdb::ReadOptions(), key, &value);
    if (s.IsNotFound()) return std::optional<std::string>();
    if (!s.ok()) return FromRocks(s);
    return std::optional<std::string>(std::move(value));
  };
  auto result = co_await pool_->Run<R>(std::move(work));
  co_return std::move(result);
}

Task<Status> RocksStore::Write(KvBatch batch, bool sync) {
  auto guard = co_await order_.Lock();
  auto shared = std::make_shared<KvBatch>(std::move(batch));
  std::function<Status()> work = [db = db_, shared, sync]() -> Status {
    rocksdb::WriteBatch out;
    for (const auto& [key, value] : shared->puts) out.Put(key, value);
    for (const std::string& key : shared->deletes) out.Delete(key);
    rocksdb::WriteOptions options;
    options.sync = sync;
    rocksdb::Status s = db->db->Write(options, &out);
    return s.ok() ? Status() : Status(FromRocks(s));
  };
  auto status = co_await pool_->Run<Status>(std::move(work));
  co_return status;
}

Task<Result<std::vector<std::pair<std::string, std::string>>>> RocksStore::Scan(std::string prefix, size_t limit) {
  using R = Result<std::vector<std::pair<std::string, std::string>>>;
  std::function<R()> work = [db = db_, prefix = std::move(prefix), limit]() -> R {
    std::vector<std::pair<std::string, std::string>> found;
    std::unique_ptr<rocksdb::Iterator> it(db->db->NewIterator(rocksdb::ReadOptions()));
    for (it->Seek(prefix); it->Valid() && found.size() < limit && it->key().starts_with(prefix); it->Next())
      found.push_back({it->key().ToString(), it->value().ToString()});
    if (!it->status().ok()) return FromRocks(it->status());
    return found;
  };
  auto result = co_await pool_->Run<R>(std::move(work));
  co_return std::move(result);
}

}  // namespace holdfast::io
