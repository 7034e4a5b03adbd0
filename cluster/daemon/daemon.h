// Daemon: holdfastd assembled. One object is one life of this node; when the life is over (evicted) the process starts
// itself again (exec), so that nothing of the old life is left in memory, and joins with a new incarnation.
//
//   Start: lease page, control socket, store, timeline -> quorum device (claimed: byte or key) -> network -> engine.
//   SIGTERM or `holdfast node leave`: asks the mounts to unmount, waits, leaves cleanly, ends.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "cluster/daemon/fencer.h"
#include "cluster/daemon/mount_burial.h"
#include "cluster/daemon/mount_prover.h"
#include "cluster/daemon/mounts.h"
#include "cluster/daemon/network.h"
#include "cluster/daemon/parts.h"
#include "cluster/daemon/quorum_device.h"
#include "cluster/daemon/state_watch.h"
#include "cluster/daemon/timeline.h"
#include "fence/history.h"
#include "io/control_socket.h"
#include "io/iscsi_reservations.h"
#include "io/processes.h"
#include "io/rocks_store.h"
#include "io/system_random.h"
#include "io/thread_pool.h"

namespace holdfast::cluster {

struct DaemonOptions {
  std::string config, state_dir, run_dir, node;
  bool realtime = true;
};

enum class DaemonEnd : uint8_t { kRunning, kLeft, kEvicted, kFailed };

class Daemon final : public EngineHandler {
 public:
  Daemon(io::Reactor* reactor, DaemonOptions options, Config config, KeyPair keys, std::vector<std::string> notes);
  ~Daemon() override;

  // What can fail at once does: wrong key, port taken, store in use, another holdfastd. The rest waits and says so.
  Status Begin();
  // Runs until the life ends.
  Task<void> Run();
  DaemonEnd end() const { return end_; }

  void RequestLeave(const std::string& why);

  void OnState(StatePtr state) override;
  void OnLease(Incarnation incarnation, Instant deadline) override;
  void OnEvicted(std::string why) override;

 private:
  Task<Status> OpenQuorumDevice();
  Task<Status> StartEngine();
  Task<void> Tick();
  Task<void> Leave(std::string why);
  void Finish(DaemonEnd end);
  void OnAccept(std::shared_ptr<io::ControlConnection> connection);
  void OnFrame(const std::shared_ptr<io::ControlConnection>& connection, std::span<const std::byte> packet);
  Task<void> Answer(std::shared_ptr<io::ControlConnection> connection, std::shared_ptr<control::ControlFrame> frame);
  Task<Status> InitQuorum();
  Task<Result<StatusTree>> AnswerTree(std::shared_ptr<control::ControlFrame> frame);

  DaemonOptions options_;
  Config config_;
  KeyPair keys_;
  std::vector<std::string> notes_;
  // In the order of construction; Parts points into it.
  Scope scope_;
  io::SystemRandom random_;
  io::ThreadPool pool_;
  io::SystemProcesses processes_;
  Parts parts_;
  WaitBoard waits_;
  std::unique_ptr<io::RocksStore> store_;
  std::unique_ptr<Timeline> timeline_;
  std::unique_ptr<LeaseWriter> lease_;
  std::unique_ptr<io::IscsiReservationSessions> sessions_;
  std::unique_ptr<fence::PrFence> storage_fence_;
  std::unique_ptr<fence::LocalFence> local_fence_;
  std::unique_ptr<fence::History> fence_history_;
  std::unique_ptr<fence::Domain> domain_;
  std::unique_ptr<VolumeMountProver> prover_;
  std::unique_ptr<MountBurial> burial_;
  std::unique_ptr<Mounts> mounts_;
  std::unique_ptr<Fencer> fencer_;
  std::unique_ptr<StateWatch> watch_;
  std::unique_ptr<QuorumDevice> quorum_;
  std::unique_ptr<Network> network_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<io::ControlServer> server_;
  std::set<std::shared_ptr<io::ControlConnection>> connections_;
  DaemonEnd end_ = DaemonEnd::kRunning;
  Event ended_;
  bool leaving_ = false;
};

}  // namespace holdfast::cluster
