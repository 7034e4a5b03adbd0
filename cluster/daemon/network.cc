#include "cluster/daemon/network.h"

#include <arpa/inet.h>

namespace holdfast::cluster {
namespace {

constexpr uint32_t kEngineMessage = 1;

// ZeroMQ binds to addresses and interfaces, not to names: a name means every address of this machine.
std::string BindAddress(const NodeConfig& node) {
  unsigned char scratch[sizeof(in6_addr)];
  bool is_address = ::inet_pton(AF_INET, node.address.c_str(), scratch) == 1 || node.address.find(':') != std::string::npos;
  return is_address ? node.Address() : "tcp://*:" + std::to_string(node.port);
}

}  // namespace

Result<std::unique_ptr<Network>> Network::Create(Parts* parts, const KeyPair& keys) {
  if (parts->self->public_key != keys.public_key)
    return Error(Errc::kInvalid, "the key in the state directory is not the public_key of node " + parts->self->name + " in cluster.conf");
  io::ZmqTransportOptions options;
  options.node = parts->self->id;
  options.bind = BindAddress(*parts->self);
  options.keys = {keys.public_key, keys.secret_key};
  for (const auto& node : parts->config->nodes) {
    if (node.public_key.empty())
      return Error(Errc::kInvalid, "node " + node.name + " has no public_key in cluster.conf (holdfast keys generate on that node)");
    options.allowed[node.public_key] = node.id;
  }
  auto transport = io::ZmqTransport::Create(parts->reactor, options);
  if (!transport.ok()) return transport.error();
  std::unique_ptr<Network> network(new Network(parts));
  network->transport_ = std::move(*transport);
  ChannelOptions channel;
  channel.self = MemberId{parts->self->id, Incarnation(0), parts->nonce};
  channel.cluster = parts->config->cluster;
  network->channel_ = std::make_unique<Channel>(network->transport_.get(), parts->executor, channel);
  return network;
}

void Network::Send(NodeId to, std::string message) {
  const NodeConfig* node = parts_->config->FindNode(to);
  if (!node) return;
  channel_->SendDatagram(Endpoint{node->id, node->Address(), node->public_key}, kEngineMessage, AsBytes(message));
}

void Network::SetReceiver(std::function<void(NodeId from, std::span<const std::byte>)> receiver) {
  channel_->SetDatagramReceiver([receiver](const ChannelMessage& message) {
    if (message.kind == kEngineMessage) receiver(message.from.node, message.body);
  });
}

}  // namespace holdfast::cluster
