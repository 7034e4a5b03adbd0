// DaemonCore: holdfastd without its process: one life of this node over the seams. The program gives it sockets, ZeroMQ,
// RocksDB and the volume (daemon.h); the simulator gives it the simulated ones (tests/whole). Both run this same code.
//
//   Run: history -> unfence -> quorum device (claimed: byte or key) -> engine -> Tick until the life ends.
//   RequestLeave: asks the mounts to unmount, waits, leaves cleanly, ends.
// Threading: one executor. The engine's callbacks and frames of lines arrive on it.
#pragma once

#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/control_line.h"
#include "base/reservation_sessions.h"
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

namespace holdfast::cluster {

enum class DaemonEnd : uint8_t { kRunning, kLeft, kEvicted, kFailed };

// All outlive the core.
struct DaemonSeams {
  Executor* executor = nullptr;
  Random* random = nullptr;
  KvStore* store = nullptr;
  Processes* processes = nullptr;
  LeaseWriter* lease = nullptr;
  Network* network = nullptr;               // made with parts() of the core
  ReservationSessions* sessions = nullptr;  // the fencer's own way to volumes with reservations
  fence::LocalFence* local = nullptr;       // image files
  // Opens the quorum device of the configuration; on_fenced: our key is gone from the array. Errors: try again.
  std::function<Task<Result<std::unique_ptr<QuorumDevice>>>(std::function<void(std::string)> on_fenced)> open_quorum;
  std::function<std::string(uint32_t uid)> user_name;
  VolumeMountProver::EndMount end_mount;    // may be empty
  // Who watches from outside (the simulator's checkers); may be empty.
  std::function<void(const StatePtr&)> see_state;
  std::function<void(Incarnation, Instant deadline)> see_lease;
};

class DaemonCore final : public EngineHandler {
 public:
  // `config` and the node's name in it: for the core's life.
  DaemonCore(Executor* executor, Random* random, Config config, const std::string& node, std::string boot_id);
  ~DaemonCore() override;

  // What the core's nouns share; Network::Create wants it before Assemble.
  Parts* parts() { return &parts_; }
  const Config& config() const { return config_; }
  void Note(std::string remark) { notes_.push_back(std::move(remark)); }
  void SetMutants(const Mutants& mutants) { mutants_ = mutants; }
  void SetPolicy(const fence::FencePolicy& policy) { policy_ = policy; }
  // Once, before anything else.
  void Assemble(DaemonSeams seams);

  // Runs until the life ends.
  Task<void> Run();
  DaemonEnd end() const { return end_; }
  const Error& failure() const { return failure_; }
  void RequestLeave(const std::string& why);

  // A mount or the command has connected.
  void Accept(std::shared_ptr<ControlLine> line);

  void OnState(StatePtr state) override;
  void OnLease(Incarnation incarnation, Instant deadline) override;
  void OnEvicted(std::string why) override;

  Engine* engine() { return engine_.get(); }
  const Mounts& mounts() const { return *mounts_; }
  StatusTree Describe();  // what `holdfast status` shows, without asking the mounts

 private:
  Task<Status> OpenQuorumDevice();
  Task<Status> StartEngine();
  bool LastToHold(const StatePtr& state) const;
  Task<void> Tick();
  Task<void> Leave(std::string why);
  void Finish(DaemonEnd end);
  void OnFrame(const std::shared_ptr<ControlLine>& line, std::span<const std::byte> packet);
  Task<void> Answer(std::shared_ptr<ControlLine> line, std::shared_ptr<control::ControlFrame> frame);
  Task<Status> InitQuorum();
  Task<Result<StatusTree>> AnswerTree(std::shared_ptr<control::ControlFrame> frame);

  Config config_;
  std::vector<std::string> notes_;
  Mutants mutants_;
  fence::FencePolicy policy_;
  DaemonSeams seams_;
  // In the order of construction; Parts points into it.
  Scope scope_;
  Parts parts_;
  WaitBoard waits_;
  std::unique_ptr<Timeline> timeline_;
  std::unique_ptr<fence::PrFence> storage_fence_;
  std::unique_ptr<fence::History> fence_history_;
  std::unique_ptr<fence::Domain> domain_;
  std::unique_ptr<VolumeMountProver> prover_;
  std::unique_ptr<MountBurial> burial_;
  std::unique_ptr<Mounts> mounts_;
  std::unique_ptr<Fencer> fencer_;
  std::unique_ptr<StateWatch> watch_;
  std::unique_ptr<QuorumDevice> quorum_;
  std::unique_ptr<Engine> engine_;
  std::set<std::shared_ptr<ControlLine>> lines_;
  DaemonEnd end_ = DaemonEnd::kRunning;
  Error failure_ = Errc::kOk;
  Event ended_;
  bool leaving_ = false;
};

}  // namespace holdfast::cluster
