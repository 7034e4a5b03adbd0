// IscsiReservations: SCSI-3 persistent reservations through an iSCSI session (SPC-4 5.13), type 7 only.
// Targets differ, so nothing is believed that was not read back: APTPL is asked for and done without where it is refused;
// PREEMPT AND ABORT falls back to PREEMPT; a conflict of a PREEMPT is looked into by READ KEYS (docs/protocols/fencing.md).
// Threading: the reactor's. The session outlives this object.
#pragma once

#include <memory>
#include <string>

#include "base/reservation_sessions.h"
#include "base/reservations.h"
#include "io/iscsi_session.h"

namespace holdfast::io {

class IscsiReservations final : public Reservations {
 public:
  explicit IscsiReservations(IscsiSession* session) : session_(session) {}

  Task<Result<ReservationCapabilities>> Capabilities() override;
  Task<Status> Register(ReservationKey key) override;
  Task<Status> Unregister(ReservationKey key) override;
  Task<Status> Reserve(ReservationKey own_key) override;
  Task<Status> Preempt(ReservationKey own_key, ReservationKey victim) override;
  Task<Status> Drain() override;
  Task<Result<ReservationState>> Read() override;

  // For the reconnect guard, after the cluster has said that we are still a member: registers the key that the lost
  // session had, unless it has been preempted meanwhile. A membership answer alone cannot exclude that (asked, paused,
  // evicted, preempted, registered again = a zombie with a key), so the array is asked before and after:
  //   the nexus is still registered (arrays that know the initiator again): success;
  //   our stale key is listed, and once more after the new registration: success;
  //   it is not, or not any more: kConflict, and what was registered is taken back.
  // kStale: the array has lost all keys (restart without APTPL): it lists none, or not ours and counts from an earlier
  // generation than it did. All nodes stop until the reservation stands again; a mount does not register by itself then.
  // REQUIRES: no data command of this session is in flight (the guard's state).
  Task<Status> Reregister(ReservationKey key);
  // Reregister, and after kStale Register and Reserve anew. For holdfastd's session alone: it writes its own slots, which
  // no replay depends on, and an evicted holdfastd learns that from the register.
  Task<Status> Restore(ReservationKey key);

 private:
  Task<Status> Out(uint8_t action, ReservationKey key, ReservationKey action_key, bool persist);
  Task<Result<Bytes>> In(uint8_t action, size_t size);
  Task<Status> RegisterOnce(ReservationKey key, ReservationKey action_key);
  Task<Result<size_t>> CountKey(ReservationKey key);

  IscsiSession* session_;
  bool try_abort_ = true;    // PREEMPT AND ABORT has not been refused
  bool abort_works_ = false;
  bool try_persist_ = true;  // APTPL has not been refused
  bool persisted_ = false;   // it was accepted by our own registration
  uint32_t generation_ = 0;  // of the array's keys when we last looked
};

// Sessions of a fencer, one per action, without I/O.
class IscsiReservationSessions final : public ReservationSessions {
 public:
  IscsiReservationSessions(Reactor* reactor, std::string initiator_name)
      : reactor_(reactor), initiator_name_(std::move(initiator_name)) {}
  bool Supports(const std::string& volume) const override;
  Task<Result<std::unique_ptr<ReservationSession>>> Open(std::string volume) override;

 private:
  Reactor* reactor_;
  std::string initiator_name_;
};

}  // namespace holdfast::io
