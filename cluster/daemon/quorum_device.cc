#include "cluster/daemon/quorum_device.h"

#include "base/log.h"
#include "io/file_device.h"
#include "io/iscsi_device.h"
#include "io/open_device.h"

namespace holdfast::cluster {
namespace {

// After the session was lost, logged in again and drained: our key comes back only if nobody has preempted it, or if the
// target has lost all keys (a restart without APTPL): we write only our own slots.
Task<Status> Reregister(io::IscsiDevice* device, ReservationKey key) {
  Status registered = co_await device->Restore(key);
  co_return registered;
}

}  // namespace

Task<Result<std::unique_ptr<QuorumDevice>>> QuorumDevice::Open(Parts* parts, std::function<void(std::string)> on_fenced) {
  io::OpenDeviceOptions options;
  auto device = co_await io::OpenDevice(parts->reactor, parts->pool, parts->config->quorum_device, options);
  if (!device.ok()) co_return device.error();
  std::unique_ptr<QuorumDevice> quorum(new QuorumDevice(parts));
  quorum->device_ = std::move(*device);
  quorum->key_ = ReservationKeyOf(parts->self->id, parts->nonce, 0);
  quorum->reservations_ = dynamic_cast<Reservations*>(quorum->device_.get());
  if (auto* iscsi = dynamic_cast<io::IscsiDevice*>(quorum->device_.get())) {
    ReservationKey key = quorum->key_;
    iscsi->session().OnFenced([on_fenced](const Error& why) { on_fenced(why.message); });
    iscsi->session().SetReconnectGuard([iscsi, key] { return Reregister(iscsi, key); });
  }
  co_return quorum;
}

Task<Status> QuorumDevice::Claim() {
  if (auto* file = dynamic_cast<io::FileDevice*>(device_.get())) {
    Status locked = file->LockByte(parts_->self->id.v - 1);
    co_return locked;
  }
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
  if (auto* file = dynamic_cast<io::FileDevice*>(device_.get())) {
    Status locked = file->LockByte(parts_->self->id.v - 1);
    co_return locked;
  }
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
