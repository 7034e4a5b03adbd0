// MountBurial: a mount died or withdrew while its node lives. Process gone is not I/O gone: the proof is that its process
// has ended and its byte of the volume could be locked, or, on a volume with reservations, that its own key is preempted,
// the array drained, and the key seen gone (fence/mount_proof.h). Then others replay; when lease and margin have passed
// its supervisor has ended its cached readers and the second gate opens.
#pragma once

#include <string>

#include "cluster/daemon/parts.h"

namespace holdfast::cluster {

struct MountEntry;

class MountProver {
 public:
  virtual ~MountProver() = default;
  // One attempt. The proof in words; any error: not proven, try again.
  virtual Task<Result<std::string>> Prove(std::string volume_url, MountNo mount, int32_t pid, ReservationKey key) = 0;
};

class MountBurial {
 public:
  MountBurial(Parts* parts, MountProver* prover) : parts_(parts), prover_(prover) {}
  // withdrawn: the mount said itself that its I/O has ended; its process may live on.
  void Bury(const MountEntry& mount, const std::string& reason, bool withdrawn);
  size_t running() const { return running_; }

 private:
  struct Dead {
    std::string lockspace, volume_url, reason;
    MemberId member;
    MountNo mount;
    int32_t pid = 0;
    bool withdrawn = false;
    Instant at;
  };
  Task<void> Run(Dead dead);
  Task<std::string> Proof(Dead dead);

  Parts* parts_;
  MountProver* prover_;
  size_t running_ = 0;
};

}  // namespace holdfast::cluster
