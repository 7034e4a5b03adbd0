#include "cluster/daemon/quorum_device.h"

#include <cstdlib>

#include "base/log.h"

namespace holdfast::cluster {
namespace {

constexpr const char* kKeptKey = "disk/kept_key";

}  // namespace

Task<Status> QuorumDevice::Claim() {
  if (take_byte_) co_return take_byte_();
  if (!reservations_) co_return Status();
  Status registered = co_await reservations_->Register(key_);
  if (!registered.ok()) co_return registered;
  Status reserved = co_await reservations_->Reserve(key_);
  if (!reserved.ok()) co_return reserved;
  Status dropped = co_await DropKept();
  if (!dropped.ok()) co_return dropped;
  auto capabilities = co_await reservations_->Capabilities();
  persistent_ = capabilities.ok() && capabilities->persist_through_power_loss;
  HF_LOG(LogLevel::kInfo, "disk", "reserved", {{"key", key_}, {"persistent", persistent_}});
  co_return Status();
}

Task<Status> QuorumDevice::Drain() {
  if (reservations_) {
    Status drained = co_await reservations_->Drain();
    co_return drained;
  }
  // A request in flight of an older life keeps that life's byte lock: holding the byte means that all have landed.
  if (take_byte_) co_return take_byte_();
  co_return Status();
}

// The reservation is ours now: the key that a former life of this node left behind has done its work.
Task<Status> QuorumDevice::DropKept() {
  auto kept = co_await parts_->store->Get(kKeptKey);
  if (!kept.ok()) co_return kept.error();
  if (!kept->has_value()) co_return Status();
  ReservationKey old = std::strtoull((*kept)->c_str(), nullptr, 10);
  if (old != 0 && old != key_) {
    Status gone = co_await reservations_->Preempt(key_, old);
    if (!gone.ok()) co_return gone;
  }
  KvBatch batch;
  batch.deletes.push_back(kKeptKey);
  Status written = co_await parts_->store->Write(std::move(batch), false);
  co_return written;
}

Task<void> QuorumDevice::Release(bool keep_key) {
  if (reservations_ && keep_key) {
    HF_LOG(LogLevel::kInfo, "disk", "key_left_behind", {{"key", key_}, {"why", "a fenced node has not come back, nobody else holds the reservation"}});
    KvBatch batch;
    batch.puts.emplace_back(kKeptKey, std::to_string(key_));
    Status noted = co_await parts_->store->Write(std::move(batch), true);
    if (!noted.ok()) HF_LOG(LogLevel::kWarn, "disk", "key_not_noted", {{"error", noted.error().ToString()}});
  }
  if (reservations_ && !keep_key) {
    Status gone = co_await reservations_->Unregister(key_);
    if (!gone.ok()) HF_LOG(LogLevel::kWarn, "disk", "key_not_given_up", {{"error", gone.error().ToString()}});
  }
  co_await device_->Close();
}

}  // namespace holdfast::cluster
