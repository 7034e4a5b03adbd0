#include "fs/fuse/supervisor_link.h"

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/lease_page.h"
#include "base/log.h"

extern char** environ;

namespace holdfast::fs::fuse {
namespace {

std::atomic<int> crash_socket{-1};

// A crash is no end yet: before the kernel writes a core, and even if none is wanted, it waits for every thread, and one that
// waits in there for pages or a directory that our requests hold waits for our answer. Nobody else would learn of it, since
// all descriptors are still open. The supervisor hears of it here; it ends the connection, and with it those waits.
void OnCrash(int signal) {
  int socket = crash_socket.load();
  if (socket >= 0) shutdown(socket, SHUT_RDWR);
  raise(signal);  // the handler is gone
}

void TellOfCrashes() {
  struct sigaction action {};
  action.sa_handler = &OnCrash;
  action.sa_flags = static_cast<int>(SA_RESETHAND | SA_NODEFER);
  for (int signal : {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL}) sigaction(signal, &action, nullptr);
}

}  // namespace

SupervisorLink::SupervisorLink(io::Reactor& reactor, Options options) : reactor_(reactor), options_(std::move(options)) {}

SupervisorLink::~SupervisorLink() {
  *alive_ = false;
  crash_socket = -1;
  if (socket_ >= 0) {
    reactor_.Unwatch(socket_);
    close(socket_);
  }
  if (table_) munmap(table_, InodeTable::Bytes());
  if (table_fd_ >= 0) close(table_fd_);
}

Status SupervisorLink::MakeTable() {
  table_fd_ = memfd_create("holdfast-inodes", MFD_CLOEXEC);
  if (table_fd_ < 0 || ftruncate(table_fd_, InodeTable::Bytes()) != 0) {
    return Error(Errc::kExhausted, std::string("no shared memory for the supervisor: ") + std::strerror(errno));
  }
  void* map = mmap(nullptr, InodeTable::Bytes(), PROT_READ | PROT_WRITE, MAP_SHARED, table_fd_, 0);
  if (map == MAP_FAILED) return Error(Errc::kExhausted, std::string("mmap: ") + std::strerror(errno));
  table_ = static_cast<InodeTable*>(map);
  table_->magic.store(InodeTable::kMagic);
  Known(1, true);  // the root is never looked up
  return Status();
}

Status SupervisorLink::Start() {
  HF_TRY(MakeTable());
  TellOfCrashes();
  return Spawn();
}

Status SupervisorLink::Spawn() {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) {
    return Error(Errc::kExhausted, std::string("socketpair: ") + std::strerror(errno));
  }
  int theirs = fcntl(pair[1], F_DUPFD, 3);  // without close-on-exec: the new program finds it by number
  close(pair[1]);
  std::string name = kSupervisorName, number = std::to_string(theirs);
  char* argv[] = {name.data(), number.data(), nullptr};
  pid_t pid = -1;
  // Signals blocked for the reactor's signalfd must not stay blocked there.
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none;
  sigemptyset(&none);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSID);
  int error = posix_spawn(&pid, "/proc/self/exe", nullptr, &attributes, argv, environ);
  posix_spawnattr_destroy(&attributes);
  close(theirs);
  if (error != 0) {
    close(pair[0]);
    return Error(Errc::kExhausted, std::string("cannot start the supervisor: ") + std::strerror(error));
  }
  pid_ = pid;
  socket_ = pair[0];
  crash_socket = socket_;
  SupervisorHello hello;
  hello.incarnation = options_.member.incarnation.v;
  hello.node = options_.member.node.v;
  hello.nonce = options_.member.nonce;
  std::strncpy(hello.mountpoint, options_.mountpoint.c_str(), sizeof(hello.mountpoint) - 1);
  std::strncpy(hello.device, options_.device.c_str(), sizeof(hello.device) - 1);
  if (options_.daemon.size() < sizeof(hello.daemon)) std::strncpy(hello.daemon, options_.daemon.c_str(), sizeof(hello.daemon) - 1);
  int own = static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0));
  int lease = options_.lease_path.empty() ? -1 : open(options_.lease_path.c_str(), O_RDONLY | O_CLOEXEC);
  hello.lease = lease >= 0 ? 1 : 0;
  int fds[4] = {options_.fuse_fd, table_fd_, own, lease};
  size_t count = lease >= 0 ? 4 : 3;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(fds))] = {};
  iovec part{&hello, sizeof(hello)};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = CMSG_SPACE(count * sizeof(int));
  cmsghdr* c = CMSG_FIRSTHDR(&message);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(count * sizeof(int));
  std::memcpy(CMSG_DATA(c), fds, count * sizeof(int));
  ssize_t sent = sendmsg(socket_, &message, MSG_NOSIGNAL);
  close(own);
  if (lease >= 0) close(lease);
  if (sent != sizeof(hello)) return Error(Errc::kIo, "the supervisor did not take its descriptors");
  return reactor_.Watch(socket_, EPOLLIN, [this](uint32_t) { OnSocket(); });
}

void SupervisorLink::OnSocket() {
  SupervisorMessage what{};
  ssize_t n = recv(socket_, &what, sizeof(what), MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n == sizeof(what) && what == SupervisorMessage::kReady) {
    ready_ = true;
    HF_LOG(LogLevel::kInfo, "supervisor", "ready", {{"pid", pid_}, {"restarts", restarts_}});
    return;
  }
  if (n == sizeof(what) && what == SupervisorMessage::kDone) {
    ending_ = true;
    ended_.WakeAll();
    return;
  }
  Lost();
}

void SupervisorLink::Lost() {
  ready_ = false;
  crash_socket = -1;
  reactor_.Unwatch(socket_);
  close(std::exchange(socket_, -1));
  waitpid(pid_, nullptr, WNOHANG);
  ended_.WakeAll();
  if (ending_) return;
  HF_LOG(LogLevel::kWarn, "supervisor", "died", {{"pid", pid_}});
  // Not at once: something that kills it again and again must not keep us busy.
  std::shared_ptr<bool> alive = alive_;
  reactor_.PostAt(reactor_.clock().Now() + Milliseconds(restarts_ == 0 ? 0 : 200), [this, alive] {
    if (!*alive || ending_) return;
    ++restarts_;
    Status started = Spawn();
    if (!started.ok()) HF_LOG(LogLevel::kError, "supervisor", "no_restart", {{"error", started.error().ToString()}});
  });
}

void SupervisorLink::Known(KernelInode inode, bool known) {
  if (!table_) return;
  if (!known) {
    auto it = slot_of_.find(inode);
    if (it == slot_of_.end() || inode == 1) return;
    table_->slots[it->second].store(0);
    free_slots_.push_back(it->second);
    slot_of_.erase(it);
    return;
  }
  if (slot_of_.contains(inode)) return;
  uint64_t slot;
  if (!free_slots_.empty()) {
    slot = free_slots_.back();
    free_slots_.pop_back();
  } else if (table_->used.load() < InodeTable::kSlotsMax) {
    slot = table_->used.load();
    table_->used.store(slot + 1);
  } else {
    table_->overflow.fetch_add(1);
    return;
  }
  table_->slots[slot].store(inode);
  slot_of_[inode] = slot;
}

void SupervisorLink::Bye() {
  ending_ = true;
  SupervisorMessage bye = SupervisorMessage::kBye;
  if (socket_ >= 0) (void)!send(socket_, &bye, sizeof(bye), MSG_NOSIGNAL);
}

Task<void> SupervisorLink::Withdraw(Duration limit) {
  if (socket_ < 0) co_return;
  ending_ = true;
  SupervisorMessage withdraw = SupervisorMessage::kWithdraw;
  if (send(socket_, &withdraw, sizeof(withdraw), MSG_NOSIGNAL) != sizeof(withdraw)) co_return;
  std::shared_ptr<bool> alive = alive_;
  reactor_.PostAt(reactor_.clock().Now() + limit, [this, alive] {
    if (*alive) ended_.WakeAll();
  });
  co_await ended_.Wait();
}

}  // namespace holdfast::fs::fuse
