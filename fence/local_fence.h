// LocalFence: fencing for labs on one machine. It ends a node's processes and proves that nothing of them can write:
//   1. cgroup.kill of the node's version 2 cgroup (frozen ones die too), or SIGKILL of the processes in pidfile=
//   2. cgroup.events says "populated 0" (the pidfds are readable)
//   3. the victim's bytes on the volume are locked through a descriptor of our own: a request in flight keeps its
//      descriptor, and with it the lock, so a free byte means that the last write has landed. "Process gone" alone does
//      not: with a helper sharing the descriptors waitpid returned 2.8 s before the write landed (measured).
// Step 3 is also how any other proof is completed on an image file (the barrier), and how a mount that died on a living
// node is proven dead. A cgroup or pidfile that does not exist is a failure, never "already dead".
// Device attributes: cgroup= (absolute, or below cgroup_root=, or below the version 2 hierarchy), pidfile= (several by
// comma). Refuses a cgroup that this process is in. Threading: one executor; the calls it makes do not block.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/executor.h"
#include "base/result.h"
#include "base/task.h"
#include "fence/types.h"

namespace holdfast::fence {

// decided.md: byte 2^40 + i; i = 0..255 holdfastd of node i + 1; 256 + mount number: a mount.
inline constexpr uint64_t kVolumeByteBase = uint64_t{1} << 40;
inline constexpr uint64_t DaemonByte(NodeId node) { return node.v - 1; }
inline constexpr uint64_t MountByte(MountNo mount) { return 256 + uint64_t{mount.v}; }

class LocalFence {
 public:
  explicit LocalFence(Executor* executor, Duration poll_interval = Milliseconds(5))
      : executor_(executor), poll_interval_(poll_interval) {}
  virtual ~LocalFence() = default;

  // Is the volume an image file, where bytes can be locked?
  virtual bool Supports(const std::string& volume) const;
  // Steps 1 and 2. `stop` is asked while it waits. kNotFound: no such cgroup. kTimeout: still alive.
  virtual Task<Result<std::string>> Isolate(FenceDevice device, Duration limit, std::function<bool()> stop);
  // Step 3 for a victim's bytes of one volume; they are let go again. kTimeout: somebody still holds one.
  virtual Task<Status> AwaitBytes(std::string volume, std::vector<uint64_t> bytes, Duration limit, std::function<bool()> stop);
  // Status of the device for `fence check`: the cgroup or the processes are there and alive.
  virtual Task<Result<bool>> Populated(FenceDevice device);

  // A mount died on a living node: its process is gone (pid > 0: waited for through a pidfd) and its byte is ours.
  virtual Task<Status> ProveMountDead(std::string volume, MountNo mount, int32_t pid, Duration limit);

 private:
  Task<Status> AwaitPidGone(int32_t pid, bool kill, Duration limit, std::function<bool()> stop);
  Executor* executor_;
  Duration poll_interval_;
};

// The bytes of a victim on one of its volumes.
std::vector<uint64_t> BytesOf(NodeId node, const VictimVolume& volume);

}  // namespace holdfast::fence
