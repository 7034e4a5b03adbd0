// How this node proves that a dead mount's I/O has ended: by its byte of an image file or block device, or by its own
// reservation key on an iscsi:// volume.
#pragma once

#include "cluster/daemon/mount_burial.h"
#include "fence/local_fence.h"
#include "fence/pr_fence.h"

namespace holdfast::cluster {

class VolumeMountProver final : public MountProver {
 public:
  VolumeMountProver(fence::PrFence* storage, fence::LocalFence* local) : storage_(storage), local_(local) {}

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
};

}  // namespace holdfast::cluster
