// MountBurial: a mount died or withdrew while its node lives. Process gone is not I/O gone: the proof is that its process
// has ended and its byte of the volume could be locked, or, on a volume with reservations, that its own key is preempted,
// the array drained, and the key seen gone (fence/mount_proof.h). Then others replay. The second gate opens when the
// mount's supervisor testifies that the connection to the kernel has ended and that all that was cached through it has been
// dropped since; without its word when lease and margin have passed.
// INVARIANT: a testimony names one life of one mount, which has one connection: it stays true, whenever it comes.
#pragma once

#include <set>
#include <string>

#include "cluster/daemon/parts.h"

namespace holdfast::cluster {

struct MountEntry;

class MountProver {
 public:
  virtual ~MountProver() = default;
  // One attempt. The proof in words; any error: not proven, try again.
  virtual Task<Result<std::string>> Prove(std::string volume_url, MountNo mount, int32_t pid, ReservationKey key) = 0;
  // A dead mount whose process does not end: its supervisor has not ended the connection to the kernel.
  virtual Task<void> EndConnection(std::string mountpoint, std::string device) = 0;
};

class MountBurial {
 public:
  MountBurial(Parts* parts, MountProver* prover) : parts_(parts), prover_(prover) {}
  // withdrawn: the mount said itself that its I/O has ended; its process may live on.
  void Bury(const MountEntry& mount, const std::string& reason, bool withdrawn);
  // The supervisor's word.
  void ReadersEnded(const MemberId& member);
  size_t running() const { return running_; }

 private:
  struct Dead {
    std::string lockspace, volume_url, reason, mountpoint, device;
    MemberId member;
    MountNo mount;
    int32_t pid = 0;
    bool withdrawn = false;
    Instant at;
  };
  Task<void> Run(Dead dead);
  Task<std::string> Proof(Dead dead);
  Task<void> AwaitReaders(MemberId member, Instant limit);

  Parts* parts_;
  MountProver* prover_;
  size_t running_ = 0;
  std::set<MemberId> readers_ended_;
  WaitList testimony_;
};

}  // namespace holdfast::cluster
