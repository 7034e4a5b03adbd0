// SupervisorLink: the mount's side of its supervisor (supervisor.h): starts it, keeps the shared table of the kernel's
// inodes, starts another one when it dies. While there is none, `covered()` is false and the glue hands out nothing
// that the kernel may keep.
// Threading: the reactor's.
#pragma once

#include <functional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/ids.h"
#include "base/kernel.h"
#include "fs/fuse/supervisor.h"
#include "io/reactor.h"

namespace holdfast::fs::fuse {

class SupervisorLink {
 public:
  struct Options {
    std::string mountpoint;
    std::string device;      // its device number, "0:53"
    int fuse_fd = -1;
    std::string lease_path;  // empty: no lease (nolock)
    MemberId member;         // whose readers it speaks of
    std::string daemon;      // holdfastd's socket; empty: no cluster
  };
  SupervisorLink(io::Reactor& reactor, Options options);
  ~SupervisorLink();

  // Errors: kExhausted, kIo: no process or no memory for it.
  Status Start();
  bool covered() const { return ready_; }
  void Known(KernelInode inode, bool known);
  // Clean unmount: it goes without doing anything.
  void Bye();
  // It invalidates everything and ends the connection; completes when it has, or it is gone, or after `limit`.
  Task<void> Withdraw(Duration limit);
  int pid() const { return pid_; }

 private:
  Status MakeTable();
  Status Spawn();
  void OnSocket();
  void Lost();

  io::Reactor& reactor_;
  Options options_;
  int table_fd_ = -1;
  InodeTable* table_ = nullptr;
  std::unordered_map<KernelInode, uint64_t> slot_of_;
  std::vector<uint64_t> free_slots_;
  int socket_ = -1;
  int pid_ = -1;
  bool ready_ = false;
  bool ending_ = false;
  unsigned restarts_ = 0;
  WaitList ended_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace holdfast::fs::fuse
