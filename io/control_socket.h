// ControlSocket: AF_UNIX SEQPACKET between programs of one node (docs/protocols/control.md). A packet arrives whole or
// not at all; the kernel says who the peer is (SO_PEERCRED); the end of a connection is seen at once.
// Bounds: packets of 1 MiB, a send queue of 1,024 packets per connection (then the connection is closed: its peer does
// not read). Threading: the reactor's thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/control_line.h"
#include "base/result.h"

namespace holdfast::io {

class Reactor;

inline constexpr size_t kControlPacketMax = 1u << 20;
inline constexpr size_t kControlQueueMax = 1024;

class ControlConnection final : public ControlLine, public std::enable_shared_from_this<ControlConnection> {
 public:
  ControlConnection(Reactor& reactor, int fd);
  ~ControlConnection() override;

  void Start(OnPacket packet, OnClosed closed) override;
  Status Send(std::span<const std::byte> packet) override;
  void Close() override;
  bool open() const override { return fd_ >= 0; }
  int32_t peer_pid() const override { return pid_; }
  uint32_t peer_uid() const override { return uid_; }

 private:
  void OnReady(uint32_t events);
  bool ReadSome();
  bool WriteSome();
  void Lost();

  Reactor& reactor_;
  int fd_;
  int32_t pid_ = 0;
  uint32_t uid_ = UINT32_MAX;
  OnPacket packet_;
  OnClosed closed_;
  std::deque<std::vector<std::byte>> queue_;
  std::vector<std::byte> buffer_;
};

class ControlServer {
 public:
  using OnAccept = std::function<void(std::shared_ptr<ControlConnection>)>;
  // Replaces a socket file that nobody listens on. Errors: kBusy (another process listens there), kIo. The file is 0600.
  static Result<std::unique_ptr<ControlServer>> Listen(Reactor& reactor, const std::string& path, OnAccept accept);
  ~ControlServer();

 private:
  ControlServer(Reactor& reactor, int fd, std::string path, OnAccept accept);
  void OnReady();
  Reactor& reactor_;
  int fd_;
  std::string path_;
  OnAccept accept_;
};

// Errors: kNotFound and kDisconnected (nobody listens), kPermission, kIo.
Result<std::shared_ptr<ControlConnection>> ConnectControl(Reactor& reactor, const std::string& path);

}  // namespace holdfast::io
