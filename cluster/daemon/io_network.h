// The daemons' transport in production: ZeroMQ at this node's address, with the CURVE keys of cluster.conf.
#pragma once

#include <memory>

#include "base/transport.h"
#include "cluster/daemon/parts.h"
#include "cluster/keys.h"

namespace holdfast::io {
class Reactor;
}

namespace holdfast::cluster {

// kInvalid: a key is missing or not one; kBusy: the port is taken.
Result<std::unique_ptr<Transport>> ListenForPeers(io::Reactor* reactor, const Parts* parts, const KeyPair& keys);

}  // namespace holdfast::cluster
