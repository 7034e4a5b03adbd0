// ReservationSessions: a fencer's own way to a volume's reservations, also for volumes that it has not mounted.
// Production: io/iscsi_reservations.h; tests: a fake over the simulated disk.
#pragma once

#include <memory>
#include <string>

#include "base/reservations.h"
#include "base/result.h"
#include "base/task.h"

namespace holdfast {

class ReservationSession {
 public:
  virtual ~ReservationSession() = default;
  virtual Reservations& reservations() = 0;
  // Ends the session; registrations stay as they are.
  virtual Task<void> Close() = 0;
};

class ReservationSessions {
 public:
  virtual ~ReservationSessions() = default;
  // Does this kind of volume have reservations that we can reach? An image file has none.
  virtual bool Supports(const std::string& volume) const = 0;
  // A session that carries no I/O. kTimeout, kDisconnected: the array cannot be reached; kInvalid: no such URL.
  virtual Task<Result<std::unique_ptr<ReservationSession>>> Open(std::string volume) = 0;
};

}  // namespace holdfast
