#include "tests/sim/kv_store.h"

namespace holdfast::sim {
namespace {

void ApplyTo(std::map<std::string, std::string>& map, const KvBatch& batch) {
  for (const auto& [key, value] : batch.puts) map[key] = value;
  for (const std::string& key : batch.deletes) map.erase(key);
}

}  // namespace

void SimKvMedium::Apply(const KvBatch& batch, bool sync) {
  ApplyTo(now_, batch);
  unsynced_.push_back(batch);
  if (!sync) return;
  for (const KvBatch& b : unsynced_) ApplyTo(durable_, b);
  unsynced_.clear();
}

void SimKvMedium::Crash() {
  ++crashes_;
  size_t kept = unsynced_.empty() ? 0 : world_->random().Below(unsynced_.size() + 1);
  for (size_t i = 0; i < kept; ++i) ApplyTo(durable_, unsynced_[i]);
  unsynced_.clear();
  now_ = durable_;
}

void SimKvMedium::Wipe() {
  ++crashes_;
  now_.clear();
  durable_.clear();
  unsynced_.clear();
}

Task<void> SimKvStore::Wait() {
  Duration delay = executor_->world().random().Between(medium_->knobs_.latency_min, medium_->knobs_.latency_max);
  co_await SleepFor(delay);
}

Task<Result<std::optional<std::string>>> SimKvStore::Get(std::string key) {
  co_await Wait();
  auto it = medium_->now_.find(key);
  if (it == medium_->now_.end()) co_return std::optional<std::string>();
  co_return std::optional<std::string>(it->second);
}

Task<Status> SimKvStore::Write(KvBatch batch, bool sync) {
  auto guard = co_await order_.Lock();
  uint64_t life = medium_->crashes_;
  co_await Wait();
  if (medium_->crashes_ != life) co_return Errc::kIo;
  if (executor_->world().random().Chance(medium_->knobs_.error)) co_return Error(Errc::kIo, "injected");
  medium_->Apply(batch, sync);
  co_return Status();
}

Task<Result<std::vector<std::pair<std::string, std::string>>>> SimKvStore::Scan(std::string prefix, size_t limit) {
  co_await Wait();
  std::vector<std::pair<std::string, std::string>> found;
  for (auto it = medium_->now_.lower_bound(prefix); it != medium_->now_.end() && found.size() < limit; ++it) {
    if (it->first.compare(0, prefix.size(), prefix) != 0) break;
    found.push_back(*it);
  }
  co_return found;
}

}  // namespace holdfast::sim
