#include "io/control_socket.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <optional>

#include "io/reactor.h"

namespace holdfast::io {
namespace {

Error SystemError(const std::string& what) {
  switch (errno) {
    case ENOENT: return {Errc::kNotFound, what + ": " + std::strerror(errno)};
    case ECONNREFUSED: return {Errc::kDisconnected, what + ": nobody listens"};
    case EACCES: return {Errc::kPermission, what + ": " + std::strerror(errno)};
    case EADDRINUSE: return {Errc::kBusy, what + ": " + std::strerror(errno)};
    default: return {Errc::kIo, what + ": " + std::strerror(errno)};
  }
}

std::optional<sockaddr_un> Address(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return std::nullopt;
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

Result<int> Connect(const std::string& path) {
  auto address = Address(path);
  if (!address) return Error(Errc::kInvalid, path + ": longer than a socket's name may be (107 characters)");
  int fd = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return SystemError("socket");
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&*address), sizeof *address) != 0) {
    Error error = SystemError(path);
    ::close(fd);
    return error;
  }
  return fd;
}

}  // namespace

ControlConnection::ControlConnection(Reactor& reactor, int fd) : reactor_(reactor), fd_(fd) {
  // A packet must fit the socket's buffer whole.
  int bytes = 4 * static_cast<int>(kControlPacketMax);
  if (::setsockopt(fd_, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes) != 0)
    ::setsockopt(fd_, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
  ucred peer{};
  socklen_t size = sizeof peer;
  if (::getsockopt(fd_, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0) {
    pid_ = peer.pid;
    uid_ = peer.uid;
  }
}

ControlConnection::~ControlConnection() { Close(); }

void ControlConnection::Start(OnPacket packet, OnClosed closed) {
  packet_ = std::move(packet);
  closed_ = std::move(closed);
  if (fd_ < 0) return;
  std::weak_ptr<ControlConnection> weak = weak_from_this();
  Status watched = reactor_.Watch(fd_, EPOLLIN, [weak](uint32_t events) {
    if (auto self = weak.lock()) self->OnReady(events);
  });
  HF_CHECK(watched.ok(), "a socket can be polled: %s", watched.ok() ? "" : watched.error().ToString().c_str());
}

Status ControlConnection::Send(std::span<const std::byte> packet) {
  if (fd_ < 0) return Error(Errc::kDisconnected, "the control connection is closed");
  if (packet.empty() || packet.size() > kControlPacketMax) return Error(Errc::kInvalid, "a control packet has 1 byte to 1 MiB");
  if (queue_.size() >= kControlQueueMax) {
    Lost();
    return Error(Errc::kExhausted, "the peer does not read");
  }
  queue_.emplace_back(packet.begin(), packet.end());
  if (queue_.size() == 1 && !WriteSome()) {
    // The owner hears of it from the loop, not inside its own call.
    std::weak_ptr<ControlConnection> weak = weak_from_this();
    reactor_.Post([weak] {
      if (auto self = weak.lock()) self->Lost();
    });
  }
  return {};
}

void ControlConnection::Close() {
  if (fd_ < 0) return;
  closed_ = nullptr;
  reactor_.Unwatch(fd_);
  ::close(fd_);
  fd_ = -1;
}

void ControlConnection::Lost() {
  if (fd_ < 0) return;
  OnClosed closed = std::move(closed_);
  Close();
  if (closed) closed();
}

void ControlConnection::OnReady(uint32_t events) {
  if ((events & EPOLLOUT) && !WriteSome()) return Lost();
  if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) && !ReadSome()) Lost();
}

// False: the connection has ended.
bool ControlConnection::ReadSome() {
  for (int turn = 0; turn < 64 && fd_ >= 0; ++turn) {
    ssize_t size = ::recv(fd_, nullptr, 0, MSG_PEEK | MSG_TRUNC);
    if (size < 0) return errno == EAGAIN || errno == EINTR;
    if (size == 0 || size > static_cast<ssize_t>(kControlPacketMax)) return false;
    buffer_.resize(static_cast<size_t>(size));
    size = ::recv(fd_, buffer_.data(), buffer_.size(), 0);
    if (size <= 0) return size < 0 && (errno == EAGAIN || errno == EINTR);
    // The callback may close this connection or drop its owner; our caller holds a reference.
    OnPacket packet = packet_;
    std::vector<std::byte> bytes = std::move(buffer_);
    packet(std::span<const std::byte>(bytes).first(static_cast<size_t>(size)));
    if (fd_ < 0) return true;
    buffer_ = std::move(bytes);
  }
  return true;
}

bool ControlConnection::WriteSome() {
  while (!queue_.empty()) {
    const auto& packet = queue_.front();
    ssize_t sent = ::send(fd_, packet.data(), packet.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && errno == EAGAIN) break;
    if (sent < 0) return false;
    queue_.pop_front();
  }
  reactor_.Rewatch(fd_, queue_.empty() ? EPOLLIN : EPOLLIN | EPOLLOUT);
  return true;
}

Result<std::unique_ptr<ControlServer>> ControlServer::Listen(Reactor& reactor, const std::string& path, OnAccept accept) {
  auto address = Address(path);
  if (!address) return Error(Errc::kInvalid, path + ": longer than a socket's name may be (107 characters)");
  if (auto other = Connect(path); other.ok()) {
    ::close(*other);
    return Error(Errc::kBusy, path + ": another process listens there");
  }
  ::unlink(path.c_str());
  int fd = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return SystemError("socket");
  mode_t mask = ::umask(0177);
  bool bound = ::bind(fd, reinterpret_cast<const sockaddr*>(&*address), sizeof *address) == 0;
  ::umask(mask);
  if (!bound || ::listen(fd, 64) != 0) {
    Error error = SystemError(path);
    ::close(fd);
    return error;
  }
  return std::unique_ptr<ControlServer>(new ControlServer(reactor, fd, path, std::move(accept)));
}

ControlServer::ControlServer(Reactor& reactor, int fd, std::string path, OnAccept accept)
    : reactor_(reactor), fd_(fd), path_(std::move(path)), accept_(std::move(accept)) {
  Status watched = reactor_.Watch(fd_, EPOLLIN, [this](uint32_t) { OnReady(); });
  HF_CHECK(watched.ok(), "a socket can be polled");
}

ControlServer::~ControlServer() {
  reactor_.Unwatch(fd_);
  ::close(fd_);
  ::unlink(path_.c_str());
}

void ControlServer::OnReady() {
  for (;;) {
    int fd = ::accept4(fd_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) return;
    accept_(std::make_shared<ControlConnection>(reactor_, fd));
  }
}

Result<std::shared_ptr<ControlConnection>> ConnectControl(Reactor& reactor, const std::string& path) {
  auto fd = Connect(path);
  if (!fd.ok()) return fd.error();
  return std::make_shared<ControlConnection>(reactor, *fd);
}

}  // namespace holdfast::io
