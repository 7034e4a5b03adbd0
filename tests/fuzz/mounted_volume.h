// MountedVolume: the production mount (fs::Mount, nolock) on an image in memory, in a world of its own; what the fuzzers
// and the generator do with it; and what they demand:
//   - whatever is on the disk, mount, every operation, unmount and fsck end, with success or an error;
//   - what `fsck -n` calls clean can be mounted, read and changed without finding damage, and is clean afterwards;
//   - what `fsck -y` says to have repaired whole is clean when it is checked again.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "fs/check.h"
#include "fs/mount.h"
#include "tests/fuzz/volume_image.h"
#include "tests/sim/world.h"

namespace holdfast::fuzz {

class MountedVolume {
 public:
  explicit MountedVolume(sim::DiskImage image);
  ~MountedVolume();

  MemoryDevice& device() { return device_; }
  fs::Vfs& vfs() { return mount_->vfs(); }
  fs::Mount& mount() { return *mount_; }
  sim::SimExecutor& process() { return process_; }
  void Pass(Duration time) { world_.RunFor(time); }
  Status Mount();
  // Clean end, or withdrawal where that is refused.
  Status Unmount();
  void Withdraw();
  const std::string& fatal() const { return fatal_; }

  template <class T>
  T Run(Task<T> task) {
    return world_.Run(process_, std::move(task));
  }

  // Reads all that names lead to. Returns what went wrong: one line each, empty when nothing did.
  std::vector<std::string> Walk();
  // Changes a bit of everything. Errors that say of damage are returned, others (no such name, no space) are not.
  std::vector<std::string> Change();
  Result<fs::CheckReport> Check(bool repair);
  // What was asked of the device and never may be. Empty: nothing.
  std::string Outrage() const;

 private:
  void WalkDirectory(KernelInode node, std::string path, int depth, std::vector<std::string>* wrong);
  void WalkFile(const fs::DirEntry& entry, const std::string& path, std::vector<std::string>* wrong);
  void Settle();

  sim::World world_{1};
  sim::SimExecutor& process_;
  MemoryDevice device_;
  std::unique_ptr<dlm::LockSpace> space_;
  std::unique_ptr<fs::Mount> mount_;
  std::string fatal_;
  size_t visits_ = 0;
};

// The three demands. Empty, or what was broken.
std::string TryMount(const sim::DiskImage& image);
std::string TryCheck(const sim::DiskImage& image);
std::string TryRepair(const sim::DiskImage& image);
std::string Words(const fs::CheckReport& report);

}  // namespace holdfast::fuzz
