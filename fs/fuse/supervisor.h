// The supervisor: one small process per mount that ends stale readers. It holds a duplicate of /dev/fuse, the lease page
// and a shared table of the inodes that the kernel knows; at the end of the lease it invalidates them all, when the
// mount dies or withdraws it invalidates, ends the connection and closes (cluster.md, "Stale readers": after kill -9
// an open descriptor would go on reading cached pages for ever). When the mount died it ends the connection first and
// then testifies to holdfastd that nothing that was cached can be read any more: the second gate opens at once.
// Flow: mount -> Hello (descriptors by SCM_RIGHTS) -> ready; then Bye (clean end) or Withdraw -> done; the end of the
// mount is seen by pidfd. The program is mount.holdfast itself, started as `hf-supervisor FD`.
// Threading: its own process; blocked notifications wait in threads of their own.
#pragma once

#include <atomic>
#include <cstdint>

namespace holdfast::fs::fuse {

// The shared table: slot = a kernel inode, 0 = free. One writer, the mount.
struct InodeTable {
  static constexpr uint64_t kMagic = 0x31'45'4c'42'41'54'46'48;  // "HFTABLE1"
  static constexpr uint64_t kSlotsMax = uint64_t{1} << 23;       // 64 MiB of sparse memory
  std::atomic<uint64_t> magic;
  std::atomic<uint64_t> used;      // slots below this may be taken
  std::atomic<uint64_t> overflow;  // more inodes than slots: say so, they are not covered
  std::atomic<uint64_t> slots[];
  static constexpr uint64_t Bytes() { return 24 + kSlotsMax * 8; }
};

enum class SupervisorMessage : uint32_t { kHello = 1, kReady = 2, kBye = 3, kWithdraw = 4, kDone = 5 };

// Sent with the descriptors: /dev/fuse, the table, the mount's pidfd, and the lease page unless lease == 0.
struct SupervisorHello {
  SupervisorMessage message = SupervisorMessage::kHello;
  uint32_t lease = 0;
  uint64_t incarnation = 0;
  uint32_t node = 0;
  uint32_t reserved = 0;
  uint64_t nonce = 0;
  char mountpoint[4096] = {};
  char device[32] = {};   // of the mount, "0:53"
  char daemon[108] = {};  // holdfastd's socket; empty: no cluster
};

inline constexpr const char* kSupervisorName = "hf-supervisor";

// The process's main. socket: its end of the pair. Returns the exit code.
int SupervisorMain(int socket);

}  // namespace holdfast::fs::fuse
