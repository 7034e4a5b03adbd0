// Daemon: holdfastd assembled: DaemonCore over the control socket, ZeroMQ, RocksDB, the mapped lease page and the volume.
// One object is one life of this node; when the life is over (evicted) the process starts itself again (exec), so that
// nothing of the old life is left in memory, and joins with a new incarnation.
//
//   Begin: control socket, store, lease page, network -> Run (core.h).
//   SIGTERM or `holdfast node leave`: asks the mounts to unmount, waits, leaves cleanly, ends.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cluster/daemon/core.h"
#include "cluster/keys.h"
#include "io/control_socket.h"
#include "io/iscsi_reservations.h"
#include "io/processes.h"
#include "io/rocks_store.h"
#include "io/system_random.h"
#include "io/thread_pool.h"

namespace holdfast::io {
class Reactor;
}

namespace holdfast::cluster {

struct DaemonOptions {
  std::string config, state_dir, run_dir, node;
  bool realtime = true;
};

class Daemon {
 public:
  Daemon(io::Reactor* reactor, DaemonOptions options, Config config, KeyPair keys, std::vector<std::string> notes);

  // What can fail at once does: wrong key, port taken, store in use, another holdfastd. The rest waits and says so.
  Status Begin();
  // Runs until the life ends.
  Task<void> Run();
  DaemonEnd end() const { return core_.end(); }
  void RequestLeave(const std::string& why) { core_.RequestLeave(why); }

 private:
  void OnAccept(std::shared_ptr<io::ControlConnection> connection);
  Task<void> EndMount(std::string mountpoint, std::string device);

  io::Reactor* reactor_;
  DaemonOptions options_;
  KeyPair keys_;
  io::SystemRandom random_;
  io::ThreadPool pool_;
  io::SystemProcesses processes_;
  DaemonCore core_;
  std::unique_ptr<io::RocksStore> store_;
  std::unique_ptr<LeaseWriter> lease_;
  std::unique_ptr<io::IscsiReservationSessions> sessions_;
  std::unique_ptr<fence::LocalFence> local_fence_;
  std::unique_ptr<Network> network_;
  std::unique_ptr<io::ControlServer> server_;
};

}  // namespace holdfast::cluster
