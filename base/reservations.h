// Reservations: SCSI-3/NVMe persistent reservations on the shared volume, the storage half of fencing
// (SPC-4 5.13; docs/operations). Type is always Write Exclusive, All Registrants (SCSI type 7): with type 5 the
// holder's clean leave drops the reservation and a preempted zombie writes again (measured).
// Production: io/iscsi_reservations.h, kernel PR ioctls; simulation: tests/sim/disk.h.
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "base/task.h"

namespace holdfast {

using ReservationKey = uint64_t;  // nodeid 16 | random start nonce 32 | process 16 (0 = holdfastd, mount number + 1)

struct ReservationState {
  uint32_t generation = 0;
  std::vector<ReservationKey> keys;  // may list one key twice after a reconnect
  bool reserved = false;             // by whatever type
  bool all_registrants_write_exclusive = false;
};

struct ReservationCapabilities {
  bool preempt_and_abort = false;
  bool persist_through_power_loss = false;  // APTPL: without it a storage proof alone is weak
};

class Reservations {
 public:
  virtual ~Reservations() = default;
  virtual Task<Result<ReservationCapabilities>> Capabilities() = 0;
  virtual Task<Status> Register(ReservationKey key) = 0;
  virtual Task<Status> Unregister(ReservationKey key) = 0;
  // Takes the reservation (type 7); success when it stands already.
  virtual Task<Status> Reserve(ReservationKey own_key) = 0;
  // PREEMPT AND ABORT where supported, else PREEMPT. Success when the victim's key is not registered (any more).
  virtual Task<Status> Preempt(ReservationKey own_key, ReservationKey victim) = 0;
  // Returns when no command accepted from a preempted initiator can land any more (LOGICAL UNIT RESET answered).
  virtual Task<Status> Drain() = 0;
  virtual Task<Result<ReservationState>> Read() = 0;
};

}  // namespace holdfast
