#include "tests/whole/image_locks.h"

#include <algorithm>

#include "base/mutants.h"
#include "tests/whole/cluster.h"

namespace holdfast::whole {

bool ImageLocks::Free(const sim::SimDisk& disk, uint64_t byte) const {
  auto it = holders_.find(byte);
  if (it == holders_.end()) return true;
  const sim::SimExecutor* holder = it->second;
  return !holder->alive() && !disk.AnythingInFlight([holder](uint64_t executor) { return executor == holder->id(); });
}

Status ImageLocks::Take(const sim::SimDisk& disk, uint64_t byte, sim::SimExecutor* by) {
  if (!Free(disk, byte) && holders_.at(byte) != by) return Error(Errc::kBusy, "the byte is locked");
  holders_[byte] = by;
  return {};
}

namespace {

// Nothing here touches this machine.
class SimLocalFence final : public fence::LocalFence {
 public:
  SimLocalFence(Cluster* cluster, sim::SimExecutor* executor) : LocalFence(executor), cluster_(cluster), executor_(executor) {}

  bool Supports(const std::string& volume) const override { return volume == kImageUrl; }

  Task<Result<std::string>> Isolate(fence::FenceDevice device, Duration limit, std::function<bool()> stop) override {
    NodeId node(static_cast<uint32_t>(std::stoul(device.attributes.at("cgroup").substr(1))));
    sim::World& world = cluster_->world;
    co_await SleepFor(world.random().Between(Milliseconds(1), Milliseconds(100)));
    Cluster* cluster = cluster_;
    Switch how = cluster->machine(node).power;
    if (how == Switch::kFails) co_return Error(Errc::kNotFound, "no such cgroup");
    if (how == Switch::kLate) world.After(world.random().Between(Milliseconds(500), Seconds(6)), [cluster, node] { End(cluster, node); });
    if (how == Switch::kHangs || how == Switch::kLate) {
      Instant until = executor_->clock().Now() + limit;
      while (executor_->clock().Now() < until && !stop()) co_await SleepFor(Milliseconds(20));
      co_return Error(Errc::kTimeout, "still populated");
    }
    End(cluster, node);
    co_return std::string("its cgroup is empty");
  }

  Task<Status> AwaitBytes(std::string, std::vector<uint64_t> bytes, Duration limit, std::function<bool()> stop) override {
    Instant until = executor_->clock().Now() + limit;
    for (uint64_t byte : bytes) {
      while (!cluster_->image_locks.Free(*cluster_->disk, byte) && !HF_MUTANT(kBytesNotAwaited)) {
        if (stop && stop()) co_return Error(Errc::kCancelled, "stopped");
        if (executor_->clock().Now() >= until) co_return Error(Errc::kTimeout, "byte " + std::to_string(byte) + " is still locked");
        co_await SleepFor(Milliseconds(5));
      }
    }
    co_return Status();
  }

  Task<Status> ProveMountDead(std::string volume, MountNo mount, int32_t pid, Duration limit) override {
    Instant until = executor_->clock().Now() + limit;
    while (pid > 0 && cluster_->ProcessAlive(pid)) {
      if (executor_->clock().Now() >= until) co_return Error(Errc::kTimeout, "the process lives");
      co_await SleepFor(Milliseconds(5));
    }
    std::vector<uint64_t> bytes(1, fence::MountByte(mount));
    Status locked = co_await AwaitBytes(std::move(volume), std::move(bytes), limit, nullptr);
    co_return locked;
  }

  Task<Result<bool>> Populated(fence::FenceDevice) override { co_return true; }

 private:
  // Its processes end; somebody starts them again later.
  static void End(Cluster* cluster, NodeId node) {
    Machine& m = cluster->machine(node);
    cluster->PowerOff(node);
    if (m.boot_at.ns == 0 && !m.stays_off) m.boot_at = cluster->world.now() + cluster->options.boot_time;
  }

  Cluster* cluster_;
  sim::SimExecutor* executor_;
};

}  // namespace

std::unique_ptr<fence::LocalFence> MakeLocalFence(Cluster* cluster, sim::SimExecutor* executor) {
  return std::make_unique<SimLocalFence>(cluster, executor);
}

}  // namespace holdfast::whole
