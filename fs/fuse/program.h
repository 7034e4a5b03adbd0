// Program: mount.holdfast put together: device, lock manager (standalone or of the cluster), Mount, kernel, supervisor.
// Up(): volume -> [transport, join, mount number, byte lock or key] -> Mount::Start -> kernel -> supervisor -> INIT.
// It ends when the kernel has unmounted us (clean), on a signal, or by withdrawing; the exit code says which.
// Threading: the reactor's. docs/operations.md says what an operator sees.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "base/channel.h"
#include "base/reservations.h"
#include "dlm/cluster_link.h"
#include "fs/fuse/daemon.h"
#include "fs/fuse/fuse_kernel.h"
#include "fs/fuse/mount_options.h"
#include "fs/fuse/server.h"
#include "fs/fuse/session.h"
#include "fs/fuse/supervisor_link.h"
#include "fs/mount.h"
#include "io/reactor.h"
#include "io/system_random.h"
#include "io/thread_pool.h"

namespace holdfast::fs::fuse {

class Program : public dlm::ClusterLinkHandler {
 public:
  Program(CommandLine line, Daemon& daemon);
  ~Program() override;
  // The whole life. Returns the exit code.
  int Run();

  // ClusterLinkHandler
  void OnView(const dlm::View& view) override;
  void OnEvicted(std::string why) override;
  void OnDaemonLost(std::string why) override;
  void OnStopRequested(std::string why) override;
  dlm::LinkStatus OnStatus() override;

 private:
  Task<Status> Up();
  Task<Status> OpenVolume();
  Task<Status> Alone(const Superblock& super);
  Task<Status> JoinCluster(const Superblock& super);
  Task<Status> TakeMountNumber(MountNo number, ReservationKey key);
  // After a lost iSCSI session, before any I/O goes on: still a member, and the key still stands.
  Task<Status> GuardReconnect(ReservationKey key);
  Task<Status> Serve();
  Task<void> SetReadAhead(std::string device);
  Task<void> CleanEnd();
  Task<void> WithdrawEnd(Error why);
  Task<void> UnmountSoon(bool lazy);
  void OnKernelEnd();
  void OnFatal(Error why);
  void OnSignal();
  Task<Status> DetachDead();

  CommandLine line_;
  Daemon& daemon_;
  io::Reactor reactor_;
  io::ThreadPool pool_;
  io::SystemRandom random_;
  std::unique_ptr<BlockDevice> device_;
  std::unique_ptr<Transport> transport_;
  std::unique_ptr<Channel> channel_;
  std::unique_ptr<dlm::LockSpace> space_;
  std::optional<dlm::View> early_view_;  // pushed before space_ was made
  std::unique_ptr<dlm::ClusterLink> link_;
  std::optional<dlm::Joined> joined_;
  Reservations* reservations_ = nullptr;  // the device's, when a key was registered
  ReservationKey key_ = 0;
  OwnerStamp owner_;
  std::unique_ptr<Mount> mount_;
  std::unique_ptr<FuseSession> session_;
  std::unique_ptr<FuseKernel> kernel_;
  std::unique_ptr<FuseServer> server_;
  std::unique_ptr<SupervisorLink> supervisor_;
  bool ending_ = false;
  bool up_ = false;
  bool withdrawing_ = false;
  int exit_code_ = 0;
  Event init_done_;
};

}  // namespace holdfast::fs::fuse
