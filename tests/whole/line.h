// A ControlLine of the simulated world: two ends on one node, packets in order after a short delay. When the process of one
// end dies the other end hears it, as the kernel's socket does.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "base/control_line.h"
#include "tests/sim/world.h"

namespace holdfast::whole {

class SimLine final : public ControlLine, public std::enable_shared_from_this<SimLine> {
 public:
  // first: the client's end.
  static std::pair<std::shared_ptr<SimLine>, std::shared_ptr<SimLine>> Make(sim::SimExecutor* client, int32_t client_pid,
                                                                            sim::SimExecutor* server, int32_t server_pid);

  void Start(OnPacket packet, OnClosed closed) override;
  Status Send(std::span<const std::byte> packet) override;
  void Close() override;
  bool open() const override { return open_; }
  int32_t peer_pid() const override { return peer_pid_; }
  uint32_t peer_uid() const override { return 0; }

  // This end's process has died: the peer is told.
  void ProcessDied();
  sim::SimExecutor* executor() const { return executor_; }

 private:
  void TellPeerTheEnd();
  void Arrive(std::vector<std::byte> packet);
  void PeerGone();

  sim::SimExecutor* executor_ = nullptr;
  std::shared_ptr<SimLine> peer_;
  int32_t peer_pid_ = 0;
  bool open_ = true;
  bool started_ = false;
  bool ended_ = false;  // the peer is gone; told once everything before it was read
  Instant last_;        // of what we sent: order
  OnPacket packet_;
  OnClosed closed_;
  std::deque<std::vector<std::byte>> early_;  // before Start
};

}  // namespace holdfast::whole
