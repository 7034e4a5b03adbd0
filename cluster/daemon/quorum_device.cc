#include "cluster/daemon/quorum_device.h"

#include "base/log.h"

namespace holdfast::cluster {

Task<Status> QuorumDevice::Claim() {
  if (take_byte_) co_return take_byte_();
  if (!reservations_) co_return Status();
  Status registered = co_await reservations_->Register(key_);
  if (!registered.ok()) co_return registered;
  Status reserved = co_await reservations_->Reserve(key_);
  if (!reserved.ok()) co_return reserved;
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

Task<void> QuorumDevice::Release(bool keep_key) {
  if (reservations_ && !keep_key) {
    Status gone = co_await reservations_->Unregister(key_);
    if (!gone.ok()) HF_LOG(LogLevel::kWarn, "disk", "key_not_given_up", {{"error", gone.error().ToString()}});
  }
  co_await device_->Close();
}

}  // namespace holdfast::cluster
