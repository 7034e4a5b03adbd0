#include "fs/fuse/supervisor.h"

#include <cerrno>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <fcntl.h>
#include <memory>
#include <mutex>
#include <poll.h>
#include <string>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "base/control.pb.h"
#include "base/ids.h"
#include "base/lease_page.h"
#include "cluster/control_codec.h"
#include "fs/fuse/fuse_kernel.h"
#include "io/fuse_mounts.h"

namespace holdfast::fs::fuse {
namespace {

constexpr int kBlockedMs = 200;   // a notification that takes longer waits for a request that nobody answers
constexpr int kPollMs = 100;      // while the lease is over
constexpr unsigned kThreads = 4;

uint64_t NowNs() {
  timespec t;
  clock_gettime(CLOCK_BOOTTIME, &t);
  return uint64_t(t.tv_sec) * 1'000'000'000 + uint64_t(t.tv_nsec);
}

struct World {
  int socket = -1;
  int fuse = -1;
  int pidfd = -1;
  const InodeTable* table = nullptr;
  const LeasePage* lease = nullptr;
  Incarnation incarnation;
  std::string mountpoint;
  std::string device;
  MemberId member;
  std::string daemon;
};

// True: no request will be answered any more, by nobody.
bool ConnectionOver(const World& world) {
  pollfd fuse{world.fuse, 0, 0};
  return poll(&fuse, 1, 0) == 1 && (fuse.revents & POLLERR) != 0;
}

// Drops everything the kernel caches. Several threads, since one blocked inode must not keep the others cached.
class Sweep {
 public:
  explicit Sweep(const World& world) : world_(world) {}

  // True when all that the kernel may have cached has been dropped.
  static bool Run(const World& world, bool abort_when_blocked) {
    auto sweep = std::make_shared<Sweep>(world);
    // Kernels before 6.16 refuse: absent names stay cached there, though nothing that exists can be looked at.
    if (WriteNotifyEpoch(world.fuse) != 0 || world.table->overflow.load() != 0) sweep->all_ = false;
    for (unsigned i = 0; i < kThreads; ++i) Spawn(sweep);
    std::unique_lock<std::mutex> hold(sweep->mutex_);
    uint64_t progress = sweep->next_;
    while (sweep->running_ > 0) {
      if (sweep->idle_.wait_for(hold, std::chrono::milliseconds(kBlockedMs)) == std::cv_status::no_timeout) continue;
      if (sweep->next_ != progress) {
        progress = sweep->next_;
        continue;
      }
      if (sweep->blocked_ < 64 && sweep->next_ < world.table->used.load()) {
        ++sweep->blocked_;  // all threads wait: send more
        Spawn(sweep);
        continue;
      }
      if (!abort_when_blocked) return false;
      // Pages locked for requests of the dead mount: end the connection, then they are free.
      hold.unlock();
      io::AbortFuseMount(world.mountpoint, world.device);
      hold.lock();
      abort_when_blocked = false;
    }
    return sweep->all_;
  }

 private:
  static void Spawn(const std::shared_ptr<Sweep>& sweep) {
    ++sweep->running_;
    std::thread([sweep] { sweep->Work(); }).detach();
  }
  void Work() {
    for (;;) {
      uint64_t slot = next_++;
      if (slot >= world_.table->used.load()) break;
      uint64_t inode = world_.table->slots[slot].load();
      if (inode == 0) continue;
      int error = WriteNotifyInode(world_.fuse, inode, 0, 0);
      if (error != 0 && error != -ENOENT) all_ = false;  // unknown to the kernel is what we want
    }
    std::lock_guard<std::mutex> hold(mutex_);
    --running_;
    idle_.notify_all();
  }

  const World world_;
  std::atomic<uint64_t> next_{0};
  std::atomic<unsigned> running_{0};
  std::atomic<bool> all_{true};
  unsigned blocked_ = 0;
  std::mutex mutex_;
  std::condition_variable idle_;
};

bool ReceiveHello(World* world) {
  SupervisorHello hello;
  int fds[4] = {-1, -1, -1, -1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(fds))];
  iovec part{&hello, sizeof(hello)};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  ssize_t n = recvmsg(world->socket, &message, MSG_CMSG_CLOEXEC);
  if (n != sizeof(hello) || hello.message != SupervisorMessage::kHello) return false;
  cmsghdr* c = CMSG_FIRSTHDR(&message);
  if (!c || c->cmsg_type != SCM_RIGHTS) return false;
  size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
  if (count < 3 || count > 4) return false;
  std::memcpy(fds, CMSG_DATA(c), count * sizeof(int));
  world->fuse = fds[0];
  world->pidfd = fds[2];
  void* table = mmap(nullptr, InodeTable::Bytes(), PROT_READ, MAP_SHARED, fds[1], 0);
  if (table == MAP_FAILED) return false;
  world->table = static_cast<const InodeTable*>(table);
  close(fds[1]);
  if (hello.lease != 0 && count == 4) {
    void* page = mmap(nullptr, sizeof(LeasePage), PROT_READ, MAP_SHARED, fds[3], 0);
    if (page == MAP_FAILED) return false;
    world->lease = static_cast<const LeasePage*>(page);
    close(fds[3]);
  }
  world->incarnation = Incarnation(hello.incarnation);
  hello.mountpoint[sizeof(hello.mountpoint) - 1] = 0;
  hello.device[sizeof(hello.device) - 1] = hello.daemon[sizeof(hello.daemon) - 1] = 0;
  world->mountpoint = hello.mountpoint;
  world->device = hello.device;
  world->daemon = hello.daemon;
  world->member = MemberId{NodeId(hello.node), world->incarnation, hello.nonce};
  return true;
}

void Say(int socket, SupervisorMessage what) { (void)!send(socket, &what, sizeof(what), MSG_NOSIGNAL); }

// Milliseconds until the lease must be looked at again; sweeps when it has just ended.
int WatchLease(const World& world, bool* over) {
  if (!world.lease) return -1;
  uint64_t now = NowNs();
  LeaseState state = CheckLease(*world.lease, world.incarnation, Instant{now});
  if (state == LeaseState::kValid) {
    *over = false;
    uint64_t left = world.lease->deadline_ns.load() - now;
    return static_cast<int>(left / 1'000'000 + 1);
  }
  if (!*over) Sweep::Run(world, false);
  *over = true;
  return kPollMs;
}

// The second gate of cluster.md, for this mount. Without a word from us it opens when lease and margin are over.
void Testify(const World& world) {
  if (world.daemon.empty()) return;
  int line = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  if (line < 0) return;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, world.daemon.c_str(), sizeof(address.sun_path) - 1);
  if (connect(line, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0) {
    control::ControlFrame frame;
    cluster::ToProto(world.member, frame.mutable_readers_ended()->mutable_victim());
    std::vector<std::byte> packet = cluster::EncodeFrame(frame);
    (void)!send(line, packet.data(), packet.size(), MSG_NOSIGNAL);
    pollfd answer{line, POLLIN, 0};
    poll(&answer, 1, 1000);
  }
  close(line);
}

// What was under way when the mount died gets its error, and no page can come into the cache any more: what is dropped
// after that is gone for good. Open descriptors and mappings find nothing and ask a connection that has ended.
int EndOfMount(const World& world, bool announced) {
  if (!announced) io::AbortFuseMount(world.mountpoint, world.device);
  bool over = ConnectionOver(world);
  bool dropped = Sweep::Run(world, true);
  close(world.fuse);
  if (announced) {
    Say(world.socket, SupervisorMessage::kDone);
  } else if (over && dropped) {
    Testify(world);
  }
  return 0;
}

// Standard streams of the one who mounts must not be held open by us; a log file may.
void CloseStreams() {
  int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null < 0) return;
  dup2(null, 0);
  dup2(null, 1);
  struct stat st{};
  if (fstat(2, &st) != 0 || !S_ISREG(st.st_mode)) dup2(null, 2);
  close(null);
}

}  // namespace

int SupervisorMain(int socket) {
  prctl(PR_SET_NAME, kSupervisorName);
  CloseStreams();
  // Whoever stops the mount must not stop this: it ends with the mount, or by a message.
  for (int s : {SIGTERM, SIGINT, SIGHUP, SIGPIPE, SIGTSTP}) signal(s, SIG_IGN);
  World world;
  world.socket = socket;
  mlockall(MCL_CURRENT);  // before the table is mapped: that one stays sparse
  if (!ReceiveHello(&world)) return 1;
  Say(socket, SupervisorMessage::kReady);
  bool lease_over = false;
  for (;;) {
    int timeout = WatchLease(world, &lease_over);
    pollfd watch[2] = {{socket, POLLIN, 0}, {world.pidfd, POLLIN, 0}};
    if (poll(watch, 2, timeout) < 0 && errno != EINTR) return 1;
    if (watch[0].revents != 0) {
      SupervisorMessage what{};
      ssize_t n = recv(socket, &what, sizeof(what), 0);
      if (n == sizeof(what) && what == SupervisorMessage::kBye) return 0;
      if (n == sizeof(what) && what == SupervisorMessage::kWithdraw) return EndOfMount(world, true);
      if (n <= 0) return EndOfMount(world, false);
    }
    if ((watch[1].revents & POLLIN) != 0) return EndOfMount(world, false);
  }
}

}  // namespace holdfast::fs::fuse
