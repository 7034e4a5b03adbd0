#include "fs/fuse/program.h"

#include <cerrno>
#include <climits>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <sys/stat.h>

#include "base/log.h"
#include "cluster/client.h"
#include "dlm/standalone.h"
#include "io/fuse_mounts.h"
#include "io/open_device.h"
#include "io/volume_users.h"

namespace holdfast::fs::fuse {
namespace {

constexpr Duration kSupervisorLimit = Seconds(3);  // for its last sweep; it goes on without us
constexpr Duration kWithdrawLimit = Seconds(20);   // then the process ends as it is: until it has, nobody may replay its journal
constexpr Duration kDrainLimit = Seconds(5);       // requests still unanswered when a withdraw closes the connection

constexpr int kReadAheadKb = 2048;                   // two requests of the largest size

std::string Name(const std::string& path) {
  size_t slash = path.find_last_of('/');
  return slash == std::string::npos ? path : path.substr(slash + 1);
}

}  // namespace

Program::Program(CommandLine line, Daemon& daemon) : line_(std::move(line)), daemon_(daemon) {}
Program::~Program() = default;

int Program::Run() {
  for (int s : {SIGTERM, SIGINT, SIGHUP}) reactor_.OnSignal(s, [this] { OnSignal(); });
  signal(SIGPIPE, SIG_IGN);
  Status up = reactor_.RunTask(Up());
  if (!up.ok()) {
    int code = daemon_.Failed(up.error().message.empty() ? up.error().ToString() : up.error().message, kExitMount);
    std::_Exit(code);  // nothing was promised to anybody; joined members are left to holdfastd
  }
  up_ = true;
  daemon_.Ready();
  SetLogLevel(line_.debug ? LogLevel::kDebug : LogLevel::kInfo);
  HF_LOG(LogLevel::kInfo, "mount", "mounted", {{"volume", device_->info().name}, {"on", line_.directory}});
  reactor_.Run();
  return exit_code_;
}

Task<Status> Program::Up() {
  char resolved[PATH_MAX];
  Status detached = co_await DetachDead();
  if (!detached.ok()) co_return detached;
  if (!realpath(line_.directory.c_str(), resolved)) {
    co_return Error(Errc::kInvalid, line_.directory + ": " + std::strerror(errno));
  }
  line_.directory = resolved;
  struct stat st{};
  if (stat(resolved, &st) != 0 || !S_ISDIR(st.st_mode)) {
    co_return Error(Errc::kInvalid, line_.directory + " is not a directory");
  }
  Status opened = co_await OpenVolume();
  if (!opened.ok()) co_return opened;
  auto super = co_await ReadSuperblock(*device_);
  if (!super.ok()) co_return Error(super.code(), device_->info().name + ": " + super.error().ToString());
  if (super->read_only()) line_.read_only = true;
  if (line_.nolock) {
    Status alone = co_await Alone(*super);
    if (!alone.ok()) co_return alone;
  } else {
    Status joined = co_await JoinCluster(*super);
    if (!joined.ok()) co_return joined;
  }
  MountOptions options;
  options.device = device_.get();
  options.executor = &reactor_;
  options.space = space_.get();
  options.link = link_.get();
  options.owner = owner_;
  options.lease = joined_ ? joined_->lease : nullptr;
  options.read_only = line_.read_only;
  mount_ = std::make_unique<Mount>(options);
  mount_->SetOnFatal([this](Error why) { OnFatal(std::move(why)); });
  Status started = co_await mount_->Start();
  if (!started.ok()) co_return started;
  Status served = co_await Serve();
  co_return served;
}

// A mount point whose server died answers ENOTCONN for ever; mounting again means that nobody wants it.
Task<Status> Program::DetachDead() {
  std::string directory = line_.directory;
  std::function<int()> work = [directory] {
    struct stat st{};
    if (stat(directory.c_str(), &st) == 0 || errno != ENOTCONN) return 0;
    return FuseSession::Unmount(directory, true);
  };
  int error = co_await pool_.Run<int>(std::move(work));
  if (error != 0) co_return Error(Errc::kBusy, directory + " is a dead mount point and cannot be detached");
  co_return Status();
}

Task<Status> Program::OpenVolume() {
  io::OpenDeviceOptions options;
  auto device = co_await io::OpenDevice(&reactor_, &pool_, line_.volume, options);
  if (!device.ok()) co_return Error(device.code(), line_.volume + ": " + device.error().ToString());
  device_ = std::move(*device);
  co_return Status();
}

// lockproto=nolock: nobody else may have the volume: neither another mount nor a daemon that uses its quorum area.
Task<Status> Program::Alone(const Superblock& super) {
  if (!super.lock_table.empty() && !line_.force) {
    co_return Error(Errc::kInvalid, "the volume belongs to cluster '" + super.lock_table +
                                        "'; lockproto=nolock needs force-nolock, and no node may have it mounted");
  }
  if (auto* file = dynamic_cast<io::FileDevice*>(device_.get())) {
    auto user = co_await io::VolumeUserAfterEnding(file, io::kEndingPatience);
    if (user.ok() && !user->who.empty()) co_return Error(Errc::kBusy, device_->info().name + " is in use by " + user->who);
    Status locked = co_await io::TakeMountByte(file, 0, io::kEndingPatience);
    if (!locked.ok()) co_return Error(locked.code(), device_->info().name + " is already mounted");
  }
  owner_ = OwnerStamp{NodeId(0), Incarnation(0), random_.Next(), MountNo(0)};
  space_ = dlm::MakeStandaloneLockSpace(reactor_, MemberId{owner_.node, owner_.incarnation, owner_.nonce}, owner_.mount);
  co_return Status();
}

Task<Status> Program::Serve() {
  kernel_.reset();
  SessionOptions options;
  options.mountpoint = line_.directory;
  options.source = device_->info().name;
  options.kernel_options = line_.kernel_options;
  if (line_.read_only) options.kernel_options += options.kernel_options.empty() ? "ro" : ",ro";
  FuseServer::Parts parts;
  parts.vfs = &mount_->vfs();
  parts.ranges = &mount_->ranges();
  parts.lease = joined_ ? joined_->lease : nullptr;
  parts.incarnation = owner_.incarnation;
  parts.clock = &reactor_.clock();
  server_ = std::make_unique<FuseServer>(parts);
  server_->SetOnFatal([this](Error why) { mount_->Fatal(std::move(why)); });
  auto session = FuseSession::Mount(options, FuseServer::Ops(), server_.get());
  if (!session.ok()) co_return session.error();
  session_ = std::move(*session);
  std::string device = io::FuseDeviceAt(line_.directory);
  kernel_ = std::make_unique<FuseKernel>(FuseKernel::Where{session_->fd(), line_.directory, device, line_.hide_epoch});
  mount_->AttachKernel(kernel_.get());
  server_->Attach(session_.get(), kernel_.get(), &mount_->kernel_cache());
  SupervisorLink::Options supervision;
  supervision.mountpoint = line_.directory;
  supervision.fuse_fd = session_->fd();
  supervision.lease_path = joined_ ? joined_->lease_path : "";
  supervision.device = device;
  supervision.member = MemberId{owner_.node, owner_.incarnation, owner_.nonce};
  if (joined_) supervision.daemon = line_.run_dir + "/holdfastd.sock";
  if (link_) link_->Mounted(line_.directory, supervision.device);
  supervisor_ = std::make_unique<SupervisorLink>(reactor_, supervision);
  Status supervised = supervisor_->Start();
  if (!supervised.ok()) {
    FuseSession::Unmount(line_.directory, true);
    co_return supervised;
  }
  server_->SetSupervisor(supervisor_.get());
  mount_->kernel_cache().SetKnownCallback([this](KernelInode inode, bool known) { supervisor_->Known(inode, known); });
  server_->SetOnInit([this] {
    kernel_->ProbeEpoch();
    init_done_.Set();
  });
  session_->Start(reactor_, [this] { OnKernelEnd(); });
  co_await init_done_.Wait();
  co_await SetReadAhead(supervision.device);
  co_return Status();
}

// INIT's max_readahead only lowers the kernel's 128 KiB. Best effort: without it reads come in smaller pieces.
Task<void> Program::SetReadAhead(std::string device) {
  std::function<int()> work = [device] {
    std::ofstream file("/sys/class/bdi/" + device + "/read_ahead_kb");
    file << kReadAheadKb << std::flush;
    return file.good() ? 0 : -1;
  };
  int error = co_await pool_.Run<int>(std::move(work));
  if (error != 0) HF_LOG(LogLevel::kDebug, "mount", "no_read_ahead", {{"device", device}});
}

// ---- the end ----------------------------------------------------------------------------------------------------

void Program::OnSignal() {
  HF_LOG(LogLevel::kInfo, "mount", "signal", {{"ending", ending_}});
  if (ending_) return;
  if (!up_) std::_Exit(kExitMount);
  Detach(UnmountSoon(true));
}

// The kernel tells us by the end of the session.
Task<void> Program::UnmountSoon(bool lazy) {
  std::string directory = line_.directory;
  std::function<int()> work = [directory, lazy] {
    int error = FuseSession::Unmount(directory, false);
    return error == -EBUSY && lazy ? FuseSession::Unmount(directory, true) : error;
  };
  int error = co_await pool_.Run<int>(std::move(work));
  if (error != 0) HF_LOG(LogLevel::kWarn, "mount", "unmount_failed", {{"errno", -error}});
}

void Program::OnKernelEnd() {
  if (ending_) return;
  ending_ = true;
  kernel_->Disconnected();
  Detach(CleanEnd());
}

Task<void> Program::CleanEnd() {
  HF_LOG(LogLevel::kInfo, "mount", "unmounting", {{"requests", server_->outstanding()}});
  // Whoever wants the volume next waits for our end instead of refusing.
  if (auto* file = dynamic_cast<io::FileDevice*>(device_.get())) (void)file->LockByte(io::kEndingBytes + owner_.mount.v).ok();
  while (server_->outstanding() > 0) co_await server_->idle().Wait();
  server_->Disconnect();
  Status stopped = co_await mount_->Stop();
  if (!stopped.ok()) {
    co_await WithdrawEnd(stopped.error());
    co_return;
  }
  if (reservations_) {
    Status gone = co_await reservations_->Unregister(key_);
    if (!gone.ok()) HF_LOG(LogLevel::kWarn, "mount", "unregister", {{"error", gone.error().ToString()}});
  }
  if (link_) {
    Status left = co_await link_->Leave();
    if (!left.ok()) HF_LOG(LogLevel::kWarn, "mount", "leave", {{"error", left.error().ToString()}});
  }
  supervisor_->Bye();
  session_->Close();
  co_await device_->Close();
  HF_LOG(LogLevel::kInfo, "mount", "unmounted", {{"on", line_.directory}});
  reactor_.Stop();
}

void Program::OnFatal(Error why) {
  if (!up_ && !session_) {
    HF_LOG(LogLevel::kError, "mount", "withdraw", {{"reason", why.ToString()}});
    daemon_.Failed(why.ToString(), kExitMount);
    std::_Exit(kExitMount);
  }
  bool first = !ending_;
  ending_ = true;
  if (first) {
    Detach(WithdrawEnd(std::move(why)));
  } else if (!withdrawing_) {
    Detach(mount_->Withdraw(std::move(why)));  // a clean end is under way: let it fail
  }
}

// filesystem.md, "Withdraw": pending EIO, no submits, in flight awaited, kernel caches gone, key given up, told.
Task<void> Program::WithdrawEnd(Error why) {
  HF_LOG(LogLevel::kError, "mount", "withdraw", {{"reason", why.ToString()}, {"on", line_.directory}});
  withdrawing_ = true;
  exit_code_ = kExitSystem;
  reactor_.PostAt(reactor_.clock().Now() + kWithdrawLimit, [this] {
    HF_LOG(LogLevel::kError, "mount", "withdraw_cut_short",
           {{"in_flight", mount_ ? mount_->gate().in_flight() : size_t{0}}, {"unanswered", server_->outstanding()}, {"device", device_->info().name}});
    std::fflush(nullptr);
    std::_Exit(kExitSystem);
  });
  server_->Refuse();
  co_await mount_->Withdraw(why);
  Instant limit = reactor_.clock().Now() + kDrainLimit;
  while (server_->outstanding() > 0 && reactor_.clock().Now() < limit) co_await SleepFor(Milliseconds(10));
  co_await supervisor_->Withdraw(kSupervisorLimit);
  server_->Disconnect();
  kernel_->Disconnected();
  session_->Close();
  if (reservations_) {
    Status gone = co_await reservations_->Unregister(key_);
    if (!gone.ok()) HF_LOG(LogLevel::kWarn, "mount", "unregister", {{"error", gone.error().ToString()}});
  }
  co_await device_->Close();
  if (link_) co_await link_->Withdrawn(why.ToString());
  HF_LOG(LogLevel::kError, "mount", "withdrawn", {{"reason", why.ToString()}});
  std::fflush(nullptr);
  std::_Exit(kExitSystem);  // operations that never ended hold references to everything
}

// ---- the cluster ------------------------------------------------------------------------------------------------

void Program::OnView(const dlm::View& view) {
  if (!space_) {
    early_view_ = view;  // it came while Join was still taking the mount number
    return;
  }
  space_->SetView(view);
  if (mount_) mount_->OnView(view);
}

void Program::OnEvicted(std::string why) {
  if (space_) space_->Withdraw(why);
  Error error(Errc::kFenced, "evicted from the cluster: " + why);
  if (mount_) {
    mount_->Fatal(error);
  } else {
    OnFatal(error);
  }
}

void Program::OnDaemonLost(std::string why) {
  if (withdrawing_) return;  // a clean end that is under way fails: no view will come any more, and the lease has ended
  if (space_) space_->Withdraw(why);
  Error error(Errc::kFenced, "holdfastd is gone: " + why);
  if (mount_) {
    mount_->Fatal(error);
  } else {
    OnFatal(error);
  }
}

void Program::OnStopRequested(std::string why) {
  HF_LOG(LogLevel::kInfo, "mount", "stop_requested", {{"why", why}});
  if (!ending_ && up_) Detach(UnmountSoon(false));
}

dlm::LinkStatus Program::OnStatus() {
  dlm::LinkStatus status;
  if (mount_) status = mount_->Describe();
  status.tree.name = Name(line_.directory);
  status.tree.Add("mountpoint", line_.directory);
  status.tree.Add("volume", device_ ? device_->info().name : line_.volume);
  if (supervisor_) status.tree.Add("supervisor", supervisor_->covered() ? std::to_string(supervisor_->pid()) : "restarting");
  if (server_) status.tree.Add("requests", std::to_string(server_->outstanding()));
  if (ending_) status.tree.Add("state", "ending");
  return status;
}

}  // namespace holdfast::fs::fuse
