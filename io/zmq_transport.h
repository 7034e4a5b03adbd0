// ZmqTransport: frames over ZeroMQ with CURVE. One ROUTER receives; one DEALER per endpoint sends. The ZAP handler
// answers from a table of public keys: an unknown key gets no further, a known one gives the sender's node
// (User-Id). Sends never block: what does not fit is dropped and counted, as the seam allows; ZeroMQ also loses what
// was under way when a connection breaks. Connections are checked by ZMTP heartbeats and made again by ZeroMQ.
// Threading: the reactor's thread; ZeroMQ has an I/O thread of its own inside.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "base/transport.h"
#include "io/reactor.h"

namespace holdfast::io {

struct CurveKeys {  // Z85, 40 characters each
  std::string public_key;
  std::string secret_key;
};
// kUnsupported: libzmq was built without CURVE.
Result<CurveKeys> MakeCurveKeys();

struct ZmqTransportOptions {
  NodeId node;
  std::string bind;            // "tcp://10.77.0.1:5405"; port 0 binds a free one
  std::string source_address;  // connections leave from here; empty: the kernel chooses
  CurveKeys keys;
  std::map<std::string, NodeId> allowed;  // public key (Z85) -> node; ours too
  int queue_frames_max = 4096;            // per direction and endpoint
  int64_t frame_bytes_max = 64 << 20;     // larger ones end the sender's connection
  Duration heartbeat = Milliseconds(500);
  Duration heartbeat_timeout = Milliseconds(2000);
  Duration reconnect_min = Milliseconds(50);
  Duration reconnect_max = Milliseconds(1000);
  Duration linger = Milliseconds(200);    // at the end, for what is queued
};

struct ZmqTransportStats {
  uint64_t sent = 0, received = 0;
  uint64_t dropped = 0;        // the queue was full
  uint64_t refused_keys = 0;   // handshakes with a key that is not allowed
  uint64_t malformed = 0;      // not our two-part messages, or without an identity
};

class ZmqTransport final : public Transport {
 public:
  // kInvalid: bad address or key; kBusy: the port is taken.
  static Result<std::unique_ptr<ZmqTransport>> Create(Reactor* reactor, ZmqTransportOptions options);
  ~ZmqTransport() override;

  void Send(const Endpoint& to, std::vector<std::byte> frame) override;
  void SetReceiver(Receiver receiver) override;
  void Forget(const Endpoint& endpoint) override;
  std::string LocalAddress() const override;
  // Handshakes from now on. A connection that stands is checked at every frame, too.
  void SetAllowed(std::map<std::string, NodeId> allowed);
  const ZmqTransportStats& stats() const;

 private:
  struct Sockets;
  ZmqTransport() = default;
  std::unique_ptr<Sockets> s_;
};

}  // namespace holdfast::io
