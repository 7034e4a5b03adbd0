// ModelKernel: the operating system's cache of one mount, as far as the rules of filesystem.md measure it: attributes
// with attr_version, names and absent names under a directory's i_rwsem, page locks, replies that are used some time
// after they were sent, the epoch. One "server" (the test) answers its requests.
#pragma once

#include <map>
#include <set>
#include <string>

#include "base/kernel.h"
#include "base/sync.h"
#include "tests/sim/world.h"

namespace holdfast::fs::test {

class ModelKernel : public Kernel {
 public:
  explicit ModelKernel(sim::World* world, bool epoch) : world_(world), has_epoch_(epoch) {}

  struct Name {
    uint64_t value = 0;  // what the directory said: 0 = absent
    uint64_t epoch = 0;
    bool keep = false;
    uint64_t dentry = 0;  // grows when a local operation puts another one in its place
  };
  struct Inode {
    bool known = false;  // the reply of its first LOOKUP was used
    uint64_t attr = 0;
    bool attr_kept = false;
    uint64_t attr_version = 0;
    std::map<std::string, Name> names;
    Mutex i_rwsem;
    bool page = false;  // up to date
    uint64_t page_value = 0;
    Mutex page_lock;
  };
  Inode& Get(KernelInode i) { return inodes_[i]; }
  uint64_t NextVersion() { return ++version_; }
  uint64_t epoch() const { return epoch_; }
  Duration Delay() { return world_->random().Between(Microseconds(1), Microseconds(300)); }

  bool has_epoch() const override { return has_epoch_; }

  Task<Status> InvalidateInode(KernelInode inode, int64_t offset, int64_t) override {
    co_await SleepFor(Delay());
    Inode& i = Get(inode);
    if (!i.known) co_return Errc::kNotFound;
    i.attr_kept = false;
    i.attr_version = NextVersion();
    if (offset >= 0 && offset < 4096) {  // the model's files have one page
      Mutex::Guard locked = co_await i.page_lock.Lock();
      i.page = false;
    }
    co_return Status();
  }
  Task<Status> DropEntries(KernelInode parent, std::vector<KernelEntryDrop> names) override {
    for (const KernelEntryDrop& drop : names) {
      co_await SleepFor(Delay() / 10);
      Mutex::Guard locked = co_await Get(parent).i_rwsem.Lock();
      Get(parent).names[drop.name].keep = false;
    }
    co_return Status();
  }
  Status Epoch() override {
    if (!has_epoch_) return Errc::kUnsupported;
    ++epoch_;
    return Status();
  }
  Task<Result<SizeSeen>> AskSize(KernelInode, uint32_t) override { co_return Errc::kUnsupported; }

 private:
  sim::World* world_;
  bool has_epoch_;
  uint64_t epoch_ = 1;
  uint64_t version_ = 1;
  std::map<KernelInode, Inode> inodes_;
};

}  // namespace holdfast::fs::test
