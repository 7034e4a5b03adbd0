#include "tools/control_call.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "cluster/control_codec.h"
#include "io/control_socket.h"

namespace holdfast::tools {
namespace {

struct Socket {
  int fd = -1;
  ~Socket() {
    if (fd >= 0) ::close(fd);
  }
};

Status Connect(const std::string& run_dir, Socket& socket) {
  std::string path = run_dir + "/holdfastd.sock";
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return Error(Errc::kInvalid, path + ": longer than a socket's name may be");
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  socket.fd = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  if (socket.fd < 0) return Error(Errc::kIo, std::strerror(errno));
  if (::connect(socket.fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    if (errno == EACCES || errno == EPERM) return Error(Errc::kPermission, path + ": only root may ask holdfastd");
    return Error(Errc::kDisconnected, "holdfastd does not answer at " + path + ": is it running? (--run-dir)");
  }
  return {};
}

}  // namespace

bool DaemonLives(const std::string& run_dir) {
  Socket socket;
  return Connect(run_dir, socket).ok();
}

Result<control::ControlFrame> Call(const std::string& run_dir, control::ControlFrame request, int timeout_seconds) {
  Socket socket;
  HF_TRY(Connect(run_dir, socket));
  timeval limit{timeout_seconds, 0};
  ::setsockopt(socket.fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  request.set_number(1);
  auto packet = cluster::EncodeFrame(request);
  if (::send(socket.fd, packet.data(), packet.size(), MSG_NOSIGNAL) < 0)
    return Error(Errc::kDisconnected, std::string("holdfastd: ") + std::strerror(errno));
  std::vector<std::byte> buffer(io::kControlPacketMax);
  for (;;) {
    ssize_t n = ::recv(socket.fd, buffer.data(), buffer.size(), 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN)
      return Error(Errc::kTimeout, "holdfastd did not answer in " + std::to_string(timeout_seconds) + " s");
    if (n <= 0) return Error(Errc::kDisconnected, "holdfastd closed the connection");
    control::ControlFrame answer;
    HF_TRY(cluster::DecodeFrame(std::span(buffer).first(static_cast<size_t>(n)), &answer));
    if (answer.number() != 1) continue;
    if (answer.has_failure()) return cluster::FromProto(answer.failure());
    return answer;
  }
}

Result<StatusTree> CallForTree(const std::string& run_dir, control::ControlFrame request, int timeout_seconds) {
  auto answer = Call(run_dir, std::move(request), timeout_seconds);
  if (!answer.ok()) return answer.error();
  if (!answer->has_tree()) return Error(Errc::kCorrupt, "holdfastd gave another answer than was asked");
  return cluster::FromProto(answer->tree().tree());
}

}  // namespace holdfast::tools
