#include "cluster/daemon/io_network.h"

#include <arpa/inet.h>

#include "io/zmq_transport.h"

namespace holdfast::cluster {
namespace {

// ZeroMQ binds to addresses and interfaces, not to names: a name means every address of this machine.
std::string BindAddress(const NodeConfig& node) {
  unsigned char scratch[sizeof(in6_addr)];
  bool is_address = ::inet_pton(AF_INET, node.address.c_str(), scratch) == 1 || node.address.find(':') != std::string::npos;
  return is_address ? node.Address() : "tcp://*:" + std::to_string(node.port);
}

}  // namespace

Result<std::unique_ptr<Transport>> ListenForPeers(io::Reactor* reactor, const Parts* parts, const KeyPair& keys) {
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
  auto transport = io::ZmqTransport::Create(reactor, options);
  if (!transport.ok()) return transport.error();
  return std::unique_ptr<Transport>(std::move(*transport));
}

}  // namespace holdfast::cluster
