// Network: datagrams between the holdfastds of the cluster, over a transport that knows who sent what (ZeroMQ with the
// nodes' CURVE keys: io_network.h), inside the channel's envelope (which checks protocol version, cluster and sender).
// Heartbeats and register messages; nothing is promised.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/channel.h"
#include "base/transport.h"
#include "cluster/engine.h"
#include "cluster/daemon/parts.h"

namespace holdfast::cluster {

class Network final : public PeerSender {
 public:
  Network(Parts* parts, std::unique_ptr<Transport> transport);
  void Send(NodeId to, std::string message) override;
  void SetReceiver(std::function<void(NodeId from, std::span<const std::byte>)> receiver);

 private:
  Parts* parts_;
  std::unique_ptr<Transport> transport_;
  std::unique_ptr<Channel> channel_;
};

}  // namespace holdfast::cluster
