// The quorum device in production: by path or URL, with what its kind has: a byte lock, or a session with reservations.
#pragma once

#include "base/pool.h"
#include "cluster/daemon/quorum_device.h"

namespace holdfast::io {
class Reactor;
}

namespace holdfast::cluster {

// Errors are those of the device (try again). on_fenced: our key is gone from the array.
Task<Result<std::unique_ptr<QuorumDevice>>> OpenQuorumDevice(io::Reactor* reactor, Pool* pool, Parts* parts,
                                                             std::function<void(std::string)> on_fenced);

}  // namespace holdfast::cluster
