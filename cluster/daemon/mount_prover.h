// How this node proves that a dead mount's I/O has ended: by its byte of an image file or block device, or by its own
// reservation key on an iscsi:// volume.
#pragma once

#include <functional>

#include "cluster/daemon/mount_burial.h"
#include "fence/local_fence.h"
#include "fence/pr_fence.h"

namespace holdfast::cluster {

class VolumeMountProver final : public MountProver {
 public:
  // Ends a FUSE connection; empty: there are none (the simulator).
  using EndMount = std::function<Task<void>(std::string mountpoint, std::string device)>;
  VolumeMountProver(fence::PrFence* storage, fence::LocalFence* local, EndMount end_mount)
      : storage_(storage), local_(local), end_mount_(std::move(end_mount)) {}

  Task<void> EndConnection(std::string mountpoint, std::string device) override {
    if (end_mount_ && !mountpoint.empty()) co_await end_mount_(mountpoint, device);
  }

  Task<Result<std::string>> Prove(std::string volume_url, MountNo mount, int32_t pid, ReservationKey key) override {
    if (storage_->Supports(volume_url)) {
      auto done = co_await storage_->FenceMount(volume_url, key);
      if (!done.ok()) co_return done.error();
      co_return std::string("its reservation key preempted, array drained");
    }
    Status locked = co_await local_->ProveMountDead(volume_url, mount, pid, Seconds(1));
    if (!locked.ok()) co_return locked.error();
    co_return std::string("its byte of the volume locked");
  }

 private:
  fence::PrFence* storage_;
  fence::LocalFence* local_;
  EndMount end_mount_;
};

}  // namespace holdfast::cluster
