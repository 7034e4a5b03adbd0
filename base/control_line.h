// ControlLine: one end of the line between a mount (or the command) and its node's holdfastd. A packet arrives whole and
// in order, or the line has ended; its end is seen by the other side at once: the line is part of a mount's membership.
// Production: io/control_socket.h (AF_UNIX SEQPACKET); simulation: tests/whole/line.h.
// Threading: one executor; what was given to Start is never called inline from a method.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "base/result.h"

namespace holdfast {

class ControlLine {
 public:
  using OnPacket = std::function<void(std::span<const std::byte>)>;
  using OnClosed = std::function<void()>;

  virtual ~ControlLine() = default;
  // Starts to read. `closed` is called once, when the peer is gone or misbehaves; not after Close().
  virtual void Start(OnPacket packet, OnClosed closed) = 0;
  // Queues. Errors: kDisconnected, kInvalid (too large), kExhausted (the line ends).
  virtual Status Send(std::span<const std::byte> packet) = 0;
  virtual void Close() = 0;
  virtual bool open() const = 0;
  virtual int32_t peer_pid() const = 0;
  virtual uint32_t peer_uid() const = 0;
};

}  // namespace holdfast
