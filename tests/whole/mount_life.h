// MountLife: one mount process in the simulator: joins through its node's daemon with the production client, takes its
// number, runs fs::Mount with everything below the FUSE glue, ends cleanly or withdraws, as fs/fuse/program.cc does.
// A life is never destroyed while its world runs.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "base/channel.h"
#include "dlm/cluster_link.h"
#include "dlm/lockspace.h"
#include "fs/mount.h"
#include "tests/sim/network.h"
#include "tests/whole/array_device.h"
#include "tests/whole/daemon_life.h"

namespace holdfast::whole {

class MountLife final : public dlm::ClusterLinkHandler {
 public:
  enum class State : uint8_t { kStarting, kUp, kUnmounting, kWithdrawing, kGone };

  MountLife(Cluster* cluster, NodeId node, DaemonLife* daemon);

  // umount by hand or at the daemon's wish.
  void Unmount();
  // kill -9 of this process alone (its supervisor sees to the kernel).
  void Die();
  bool alive() const { return executor->alive(); }
  bool joined() const { return joined_.has_value(); }
  dlm::LockSpace* space() { return space_.get(); }
  MemberId self() const { return joined_ ? joined_->self : MemberId{}; }
  std::string Describe() const;

  void OnView(const dlm::View& view) override;
  void OnEvicted(std::string why) override;
  void OnDaemonLost(std::string why) override;
  void OnStopRequested(std::string why) override;
  dlm::LinkStatus OnStatus() override;

  Cluster* cluster;
  NodeId node;
  sim::SimExecutor* executor;
  State state = State::kStarting;
  uint64_t nonce = 0;     // of its join
  uint64_t node_incarnation = 0;
  std::unique_ptr<fs::Mount> mount;
  std::string end;        // why it ended

 private:
  Task<void> Run();
  Task<Status> Up();
  Task<Status> TakeMountNumber(ReservationKey key);
  Task<Status> GuardReconnect(ReservationKey key);
  Task<void> CleanEnd();
  Task<void> WithdrawEnd(Error why);
  void OnFatal(Error why);
  void Exit(const std::string& why);

  DaemonLife* daemon_;
  std::shared_ptr<SimLine> line_;
  std::unique_ptr<ArrayDevice> device_;
  std::unique_ptr<sim::SimTransport> transport_;
  std::unique_ptr<Channel> channel_;
  std::unique_ptr<dlm::LockSpace> space_;
  std::optional<dlm::View> early_view_;
  std::unique_ptr<dlm::ClusterLink> link_;
  std::optional<dlm::Joined> joined_;
  bool key_registered_ = false;
  bool attached_ = false;
};

const char* StateName(MountLife::State state);

}  // namespace holdfast::whole
