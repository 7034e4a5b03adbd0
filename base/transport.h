// Transport: authenticated datagrams between processes of the cluster. It promises nothing: frames may be lost,
// doubled and reordered (ZeroMQ loses what was in flight when it reconnects; the simulator does it on purpose).
// base/channel.h makes in-order, exactly-once streams of it. Production: io/zmq_transport.h (ROUTER/DEALER, CURVE);
// simulation: tests/sim/network.h. The sender that Receive reports is the node of the CURVE key (ZAP User-Id), so it
// can be trusted as far as the node can; everything inside the frame is untrusted until checked against it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/result.h"

namespace holdfast {

// Where a process listens. Several processes of one node have different endpoints and the same key.
struct Endpoint {
  NodeId node;
  std::string address;     // "tcp://10.77.0.1:5405"; the simulator uses any unique text
  std::string public_key;  // CURVE public key of that node, Z85, 40 characters; empty in the simulator
  auto operator<=>(const Endpoint&) const = default;
};

class Transport {
 public:
  using Receiver = std::function<void(NodeId authenticated_sender, std::span<const std::byte> frame)>;

  virtual ~Transport() = default;
  // Queues a frame; never blocks. Frames beyond the queue's bound (a knob) are dropped and counted.
  virtual void Send(const Endpoint& to, std::vector<std::byte> frame) = 0;
  // Called on the owner's executor. REQUIRES: set once, before the first frame can arrive.
  virtual void SetReceiver(Receiver receiver) = 0;
  // Frees what is kept for an endpoint that will not be used again.
  virtual void Forget(const Endpoint& endpoint) = 0;
  // The address that others can reach this transport under (with the port that was bound).
  virtual std::string LocalAddress() const = 0;
};

}  // namespace holdfast
