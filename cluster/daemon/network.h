// Network: datagrams between the holdfastds of the cluster: ZeroMQ with the nodes' CURVE keys, inside the channel's
// envelope (which checks protocol version, cluster and sender). Heartbeats and register messages; nothing is promised.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/channel.h"
#include "cluster/engine.h"
#include "cluster/keys.h"
#include "cluster/daemon/parts.h"
#include "io/zmq_transport.h"

namespace holdfast::cluster {

class Network final : public PeerSender {
 public:
  // kInvalid: a key is missing or not one; kBusy: the port is taken.
  static Result<std::unique_ptr<Network>> Create(Parts* parts, const KeyPair& keys);
  void Send(NodeId to, std::string message) override;
  void SetReceiver(std::function<void(NodeId from, std::span<const std::byte>)> receiver);
  const io::ZmqTransportStats& stats() const { return transport_->stats(); }

 private:
  explicit Network(Parts* parts) : parts_(parts) {}
  Parts* parts_;
  std::unique_ptr<io::ZmqTransport> transport_;
  std::unique_ptr<Channel> channel_;
};

}  // namespace holdfast::cluster
