// A node's acceptor. See node_acceptor.h. Keys: register/storage, register/promised, register/accepted (ballot, value).
#include "cluster/node_acceptor.h"

#include <cstring>
#include <optional>
#include <utility>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/le.h"

namespace holdfast::cluster {
namespace {

constexpr const char* kStorageKey = "register/storage";
constexpr const char* kPromisedKey = "register/promised";
constexpr const char* kAcceptedKey = "register/accepted";

struct StoredBallot {
  Le64 counter;
  Le64 nonce;
  Le32 node;
  Le32 crc;  // of what follows and the fields above
};

std::string Encode(const Ballot& ballot, std::string_view rest) {
  StoredBallot stored;
  stored.counter = ballot.counter;
  stored.nonce = ballot.nonce;
  stored.node = ballot.node.v;
  stored.crc = 0;
  std::string out(reinterpret_cast<const char*>(&stored), sizeof(stored));
  out += rest;
  stored.crc = Crc32c(AsBytes(out));
  out.replace(0, sizeof(stored), reinterpret_cast<const char*>(&stored), sizeof(stored));
  return out;
}

Result<std::pair<Ballot, std::string>> Decode(std::string bytes) {
  StoredBallot stored;
  if (bytes.size() < sizeof(stored)) return Error(Errc::kCorrupt, "the register's state in the store is too short");
  std::memcpy(&stored, bytes.data(), sizeof(stored));
  uint32_t crc = stored.crc;
  stored.crc = 0;
  bytes.replace(0, sizeof(stored), reinterpret_cast<const char*>(&stored), sizeof(stored));
  if (Crc32c(AsBytes(bytes)) != crc) return Error(Errc::kCorrupt, "the register's state in the store is damaged");
  return std::pair(Ballot{stored.counter, NodeId(stored.node), stored.nonce}, bytes.substr(sizeof(stored)));
}

}  // namespace

Task<Status> NodeAcceptor::Load() {
  auto guard = co_await order_.Lock();
  std::string key = kStorageKey;
  auto get_storage = store_->Get(key);
  auto storage = co_await std::move(get_storage);
  if (!storage.ok()) co_return storage.error();
  if (!storage->has_value()) {
    guard.Release();
    auto status = co_await Forget();
    co_return status;
  }
  if ((*storage)->size() != 8) co_return Error(Errc::kCorrupt, "the storage id in the store is damaged");
  std::memcpy(&storage_, (*storage)->data(), 8);
  key = kPromisedKey;
  auto get_promised = store_->Get(key);
  auto promised = co_await std::move(get_promised);
  if (!promised.ok()) co_return promised.error();
  if (promised->has_value()) {
    auto decoded = Decode(**promised);
    if (!decoded.ok()) co_return decoded.error();
    promised_ = decoded->first;
  }
  key = kAcceptedKey;
  auto get_accepted = store_->Get(key);
  auto accepted = co_await std::move(get_accepted);
  if (!accepted.ok()) co_return accepted.error();
  if (accepted->has_value()) {
    auto decoded = Decode(**accepted);
    if (!decoded.ok()) co_return decoded.error();
    accepted_ = decoded->first;
    value_ = decoded->second;
  }
  if (accepted_ > promised_) promised_ = accepted_;
  co_return Status();
}

Task<Status> NodeAcceptor::Forget() {
  auto guard = co_await order_.Lock();
  uint64_t storage = 0;
  while (storage == 0) storage = random_->Next();
  KvBatch batch;
  batch.puts.emplace_back(kStorageKey, std::string(reinterpret_cast<const char*>(&storage), 8));
  batch.deletes = {kPromisedKey, kAcceptedKey};
  auto write = store_->Write(std::move(batch), true);
  auto status = co_await std::move(write);
  if (!status.ok()) co_return status.error();
  storage_ = storage;
  promised_ = accepted_ = {};
  value_.clear();
  co_return Status();
}

Task<Result<NodeAnswer>> NodeAcceptor::Prepare(Ballot ballot) {
  auto guard = co_await order_.Lock();
  if (ballot < promised_) co_return NodeAnswer{false, promised_, accepted_, {}};
  if (ballot > promised_) {
    KvBatch batch;
    batch.puts.emplace_back(kPromisedKey, Encode(ballot, ""));
    auto write = store_->Write(std::move(batch), true);
    auto status = co_await std::move(write);
    if (!status.ok()) co_return status.error();
    promised_ = ballot;
  }
  co_return NodeAnswer{true, promised_, accepted_, value_};
}

Task<Result<NodeAnswer>> NodeAcceptor::Accept(Ballot ballot, std::string value) {
  auto guard = co_await order_.Lock();
  if (ballot < promised_) co_return NodeAnswer{false, promised_, accepted_, {}};
  if (ballot != accepted_ || value != value_) {
    KvBatch batch;
    batch.puts.emplace_back(kPromisedKey, Encode(ballot, ""));
    batch.puts.emplace_back(kAcceptedKey, Encode(ballot, value));
    auto write = store_->Write(std::move(batch), true);
    auto status = co_await std::move(write);
    if (!status.ok()) co_return status.error();
    promised_ = accepted_ = ballot;
    value_ = std::move(value);
  }
  co_return NodeAnswer{true, promised_, accepted_, {}};
}

}  // namespace holdfast::cluster
