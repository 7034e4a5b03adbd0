#include "cluster/daemon/daemon.h"

#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "base/log.h"
#include "cluster/daemon/io_network.h"
#include "cluster/daemon/io_quorum_device.h"
#include "io/fuse_mounts.h"
#include "io/reactor.h"

namespace holdfast::cluster {
namespace {

std::string BootId() {
  char text[64] = {};
  if (FILE* file = std::fopen("/proc/sys/kernel/random/boot_id", "r")) {
    if (!std::fgets(text, sizeof text, file)) text[0] = 0;
    std::fclose(file);
  }
  std::string id = text;
  while (!id.empty() && id.back() == '\n') id.pop_back();
  return id;
}

Status MakeDirectory(const std::string& path) {
  if (::mkdir(path.c_str(), 0700) == 0 || errno == EEXIST) return {};
  return Error(Errc::kIo, path + ": " + std::strerror(errno));
}

std::string UserName(uint32_t uid) {
  passwd* user = ::getpwuid(uid);
  return user ? user->pw_name : "uid " + std::to_string(uid);
}

}  // namespace

Daemon::Daemon(io::Reactor* reactor, DaemonOptions options, Config config, KeyPair keys, std::vector<std::string> notes)
    : reactor_(reactor), options_(std::move(options)), keys_(std::move(keys)), processes_(reactor),
      core_(reactor, &random_, std::move(config), options_.node, BootId()) {
  for (auto& note : notes) core_.Note(std::move(note));
}

Task<void> Daemon::EndMount(std::string mountpoint, std::string device) {
  std::function<bool()> work = [mountpoint, device] { return io::AbortFuseMount(mountpoint, device); };
  bool ended = co_await pool_.Run<bool>(std::move(work));
  if (ended) HF_LOG(LogLevel::kWarn, "mount", "connection_ended", {{"mountpoint", mountpoint}});
}

Status Daemon::Begin() {
  HF_TRY(MakeDirectory(options_.state_dir));
  HF_TRY(MakeDirectory(options_.run_dir));
  // The socket first: it also tells whether another holdfastd of this node runs.
  auto server = io::ControlServer::Listen(*reactor_, options_.run_dir + "/holdfastd.sock", [this](auto connection) { OnAccept(std::move(connection)); });
  if (!server.ok()) return server.error();
  server_ = std::move(*server);
  auto store = io::RocksStore::Open(&pool_, options_.state_dir + "/store");
  if (!store.ok()) return store.error();
  store_ = std::move(*store);
  auto lease = LeaseWriter::Create(options_.run_dir + "/lease");
  if (!lease.ok()) return lease.error();
  lease_ = std::move(*lease);
  auto transport = ListenForPeers(reactor_, core_.parts(), keys_);
  if (!transport.ok()) return transport.error();
  network_ = std::make_unique<Network>(core_.parts(), std::move(*transport));
  sessions_ = std::make_unique<io::IscsiReservationSessions>(reactor_, "");
  local_fence_ = std::make_unique<fence::LocalFence>(reactor_);
  DaemonSeams seams;
  seams.executor = reactor_;
  seams.random = &random_;
  seams.store = store_.get();
  seams.processes = &processes_;
  seams.lease = lease_.get();
  seams.network = network_.get();
  seams.sessions = sessions_.get();
  seams.local = local_fence_.get();
  seams.open_quorum = [this](std::function<void(std::string)> on_fenced) {
    return OpenQuorumDevice(reactor_, &pool_, core_.parts(), std::move(on_fenced));
  };
  seams.user_name = UserName;
  seams.end_mount = [this](std::string mountpoint, std::string device) { return EndMount(mountpoint, device); };
  core_.Assemble(std::move(seams));
  return {};
}

Task<void> Daemon::Run() {
  co_await core_.Run();
  if (core_.end() == DaemonEnd::kFailed) std::fprintf(stderr, "holdfastd: %s\n", core_.failure().message.c_str());
}

void Daemon::OnAccept(std::shared_ptr<io::ControlConnection> connection) {
  // Root, or the user that holdfastd itself runs as. The socket's mode says the same.
  if (connection->peer_uid() != 0 && connection->peer_uid() != ::geteuid()) return connection->Close();
  core_.Accept(std::move(connection));
}

}  // namespace holdfast::cluster
