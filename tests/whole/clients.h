// Clients: who uses the mounts of a simulated cluster, and the models that judge what they saw (I4, I6). The cluster says
// which mounts exist, what died, and when the survivors have replayed it; same calls as model/workload.h.
#pragma once

#include <memory>
#include <string>

#include "base/ids.h"
#include "base/result.h"
#include "base/task.h"
#include "fs/mount.h"
#include "tests/sim/world.h"

namespace holdfast::whole {

class Clients {
 public:
  virtual ~Clients() = default;
  // A mount of this node has started; applications begin.
  virtual void Attach(NodeId node, fs::Mount* mount, sim::SimExecutor* executor) = 0;
  // umount: applications end, nothing of theirs is running or will come. Then the caller runs mount->Stop().
  virtual Task<void> Detach(NodeId node) = 0;
  // At the instant of the crash.
  virtual void NodeDied(NodeId node) = 0;
  virtual void MountDied(NodeId node) = 0;
  // Calls mount->Withdraw(why) and ends the applications' requests.
  virtual Task<void> Withdraw(NodeId node, Error why) = 0;
  // That mount's journal is about to open to the others, whether it knows of its end or not.
  virtual void Replayed(const MemberId& victim) { (void)victim; }
  // Every life of this node that has ended is fenced and replayed.
  virtual void Recovered(NodeId node) = 0;
  // From now on this node's mount, as long as it lives, may give EIO where its disk did.
  virtual void DiskErrors(NodeId node) { (void)node; }
  virtual void Quiesce() = 0;
  virtual bool Idle() const = 0;
  // All that should be there, read through this node's mount. REQUIRES: quiet, every dead life recovered.
  virtual Task<void> FinalCheck(NodeId node) = 0;
  // What would be on the volume if everything had lost power at this moment, mounted alone: the promises must be there.
  // "" or what is missing.
  virtual Task<std::string> CheckCold(fs::Mount* mount) {
    (void)mount;
    co_return std::string();
  }
  virtual const std::string& Violation() const = 0;
  virtual std::string Verify() = 0;
  virtual std::string Dump() const = 0;
  virtual uint64_t operations() const = 0;
};

// Files with synced versions, renames and reads through Vfs alone, without a kernel's caches: quick.
std::unique_ptr<Clients> MakePlainClients(sim::World* world);

}  // namespace holdfast::whole
