// StorageFence: the storage step of fencing, by persistent reservations:
//   register a key of the fencer's own -> reserve (type 7, if it does not stand) -> PREEMPT [AND ABORT] all the victim's
//   keys -> DRAIN (LOGICAL UNIT RESET answered) -> verify: keys gone, reservation stands.
// A preempt alone is no fence: a write that the array had accepted landed 1.4 s later over a survivor's data (measured).
// The session is the fencer's own and works for volumes that this node has not mounted. Its key is taken back at the
// end unless it would be the last one, because the reservation must stand while the victim is fenced by it.
// Every step may be repeated, also by another node in the middle. Threading: one executor.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/executor.h"
#include "base/reservation_sessions.h"
#include "base/result.h"
#include "base/task.h"
#include "fence/types.h"

namespace holdfast::fence {

// Reservation keys: nodeid 16 | start nonce 32 | process 16 (decided.md).
inline constexpr ReservationKey MakeKey(NodeId node, uint32_t nonce, uint16_t process) {
  return uint64_t{node.v} << 48 | uint64_t{nonce} << 16 | process;
}
inline constexpr uint16_t kFencerProcess = 0xffff;
inline constexpr uint64_t KeyLife(ReservationKey key) { return key >> 16; }  // node and nonce: one life of a node

struct StorageProof {
  bool persistent = false;  // the keys survive the array's power loss (APTPL)
  std::string details;
};

// Called when a sub-step starts and ends: action "preempt", "drain", "verify"; an empty outcome text means success.
using StorageSteps = std::function<void(const std::string& action, const std::string& volume, const Status* outcome)>;

class StorageFence {
 public:
  virtual ~StorageFence() = default;
  virtual bool Supports(const std::string& volume) const = 0;
  // The whole step on one volume. whole_life: also keys of the same node and nonce that only the array knows.
  virtual Task<Result<StorageProof>> Fence(std::string volume, std::vector<ReservationKey> keys, bool whole_life, StorageSteps steps) = 0;
  // The drain alone: what the array had accepted before has landed.
  virtual Task<Status> Drain(std::string volume) = 0;
};

class PrFence final : public StorageFence {
 public:
  // own_key: MakeKey(node, nonce of this life, kFencerProcess).
  PrFence(ReservationSessions* sessions, ReservationKey own_key) : sessions_(sessions), own_key_(own_key) {}

  bool Supports(const std::string& volume) const override { return sessions_->Supports(volume); }
  Task<Result<StorageProof>> Fence(std::string volume, std::vector<ReservationKey> keys, bool whole_life, StorageSteps steps) override;
  Task<Status> Drain(std::string volume) override;

  // A mount died on a living node: its own key alone.
  Task<Result<StorageProof>> FenceMount(std::string volume, ReservationKey mount_key);
  // Are keys of this life still registered on the volume?
  Task<Result<bool>> HasKeys(std::string volume, std::vector<ReservationKey> keys);

 private:
  Task<Result<StorageProof>> Steps(Reservations* reservations, std::string volume, std::vector<ReservationKey> keys, bool whole_life,
                                   StorageSteps steps);
  ReservationSessions* sessions_;
  ReservationKey own_key_;
};

}  // namespace holdfast::fence
