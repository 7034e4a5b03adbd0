#include "cluster/daemon/network.h"

namespace holdfast::cluster {
namespace {

constexpr uint32_t kEngineMessage = 1;

}  // namespace

Network::Network(Parts* parts, std::unique_ptr<Transport> transport) : parts_(parts), transport_(std::move(transport)) {
  ChannelOptions channel;
  channel.self = MemberId{parts->self->id, Incarnation(0), parts->nonce};
  channel.cluster = parts->config->cluster;
  channel_ = std::make_unique<Channel>(transport_.get(), parts->executor, channel);
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
