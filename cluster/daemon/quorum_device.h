// QuorumDevice: the shared disk as holdfastd uses it: its quorum area at kQuorumAreaOffset, this node's OFD byte on an
// image file or block device, or its own session, key and the reservation (type 7) on an iscsi:// volume.
// Drain() returns when nothing that an older life or session of this node sent can land any more.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/block_device.h"
#include "base/reservations.h"
#include "cluster/daemon/parts.h"

namespace holdfast::cluster {

// Byte 1 MiB: behind boot sectors and the superblock of a volume; the same on a quorum device of its own.
inline constexpr uint64_t kVolumeQuorumOffset = 1u << 20;

class QuorumDevice {
 public:
  // take_byte: for image files and block devices without reservations; it may be called again. Empty: neither.
  QuorumDevice(Parts* parts, std::unique_ptr<BlockDevice> device, Reservations* reservations, std::function<Status()> take_byte)
      : parts_(parts), device_(std::move(device)), reservations_(reservations), take_byte_(std::move(take_byte)),
        key_(ReservationKeyOf(parts->self->id, parts->nonce, 0)) {}
  // Takes this node's byte; registers our key and the reservation. kBusy: another holdfastd of this node holds it.
  Task<Status> Claim();
  Task<Status> Drain();
  // Clean leave. keep_key: it keeps somebody out and nobody else is left to hold it. This node's next life drops that key.
  Task<void> Release(bool keep_key);

  ReservationKey key() const { return key_; }
  BlockDevice* device() { return device_.get(); }
  bool reserved() const { return reservations_ != nullptr; }
  bool persistent() const { return persistent_; }  // keys survive the array's power loss

 private:
  Task<Status> DropKept();

  Parts* parts_;
  std::unique_ptr<BlockDevice> device_;
  Reservations* reservations_ = nullptr;  // the same object as device_
  std::function<Status()> take_byte_;
  ReservationKey key_ = 0;
  bool persistent_ = false;
};

}  // namespace holdfast::cluster
