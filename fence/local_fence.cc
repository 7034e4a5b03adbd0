// See local_fence.h. Plain system calls that return at once; waiting is polling on the executor's clock, because
// neither cgroup.events nor an OFD lock of somebody else can be waited for together with a time limit.

#include "fence/local_fence.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>

#include "base/log.h"
#include "base/sync.h"

namespace holdfast::fence {

namespace {

constexpr const char* kHierarchies[] = {"/sys/fs/cgroup/unified", "/sys/fs/cgroup", "/run/holdfast-cgroup2"};

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

Error SystemError(const std::string& what, int error) {
  Errc code = error == ENOENT ? Errc::kNotFound : error == EACCES || error == EPERM ? Errc::kPermission : Errc::kIo;
  return Error(code, what + ": " + strerror(error));
}

Result<std::string> ReadSmall(const std::string& path) {
  Descriptor fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) return SystemError(path, errno);
  char text[4096];
  ssize_t n = read(fd.get(), text, sizeof text);
  if (n < 0) return SystemError(path, errno);
  return std::string(text, static_cast<size_t>(n));
}

bool Exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

const std::string* Attribute(const FenceDevice& device, const char* name) {
  auto found = device.attributes.find(name);
  return found == device.attributes.end() || found->second.empty() ? nullptr : &found->second;
}

// The directory of the device's cgroup; kNotFound when there is none.
Result<std::string> FindCgroup(const FenceDevice& device) {
  const std::string& name = *Attribute(device, "cgroup");
  std::vector<std::string> candidates;
  if (name.front() == '/') candidates.push_back(name);
  if (const std::string* root = Attribute(device, "cgroup_root")) {
    candidates.push_back(*root + "/" + name);
  } else {
    for (const char* hierarchy : kHierarchies) candidates.push_back(std::string(hierarchy) + "/" + name);
  }
  for (const std::string& path : candidates) {
    if (Exists(path + "/cgroup.kill") && Exists(path + "/cgroup.events")) return path;
  }
  return Error(Errc::kNotFound, "no version 2 cgroup " + name + " with cgroup.kill");
}

// Are we in that cgroup or below it? Compared by the tail that /proc/self/cgroup shows.
bool HoldsUs(const std::string& directory) {
  auto own = ReadSmall("/proc/self/cgroup");
  if (!own.ok()) return true;  // unknown: do not kill
  size_t line = own->rfind("0::/");
  if (line == std::string::npos) return false;
  std::string path = own->substr(line + 3);
  path = path.substr(0, path.find('\n'));
  for (const char* hierarchy : kHierarchies) {
    std::string ours = std::string(hierarchy) + (path == "/" ? "" : path) + "/";
    if (ours.starts_with(directory + "/")) return true;
  }
  return false;
}

Result<bool> IsPopulated(const std::string& directory) {
  auto events = ReadSmall(directory + "/cgroup.events");
  if (!events.ok()) return events.error();
  if (events->find("populated 0") != std::string::npos) return false;
  if (events->find("populated 1") != std::string::npos) return true;
  return Error(Errc::kIo, directory + "/cgroup.events has no line 'populated'");
}

Result<std::vector<int32_t>> ReadPids(const std::string& files) {
  std::vector<int32_t> out;
  for (size_t at = 0; at <= files.size();) {
    size_t comma = std::min(files.find(',', at), files.size());
    std::string path = files.substr(at, comma - at);
    at = comma + 1;
    auto text = ReadSmall(path);
    if (!text.ok()) return text.error();
    int32_t pid = 0;
    auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), pid);
    if (error != std::errc() || pid <= 1) return Error(Errc::kInvalid, path + " holds no process id");
    out.push_back(pid);
  }
  return out;
}

// One OFD write lock on one byte through a descriptor that nobody else uses.
Result<bool> TryByte(int fd, uint64_t index) {
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = static_cast<off_t>(kVolumeByteBase + index);
  lock.l_len = 1;
  if (fcntl(fd, F_OFD_SETLK, &lock) == 0) return true;
  if (errno == EAGAIN || errno == EACCES) return false;
  return SystemError("byte lock", errno);
}

}  // namespace

std::vector<uint64_t> BytesOf(NodeId node, const VictimVolume& volume) {
  std::vector<uint64_t> out;
  if (volume.daemon) out.push_back(DaemonByte(node));
  for (MountNo mount : volume.mounts) out.push_back(MountByte(mount));
  return out;
}

bool LocalFence::Supports(const std::string& volume) const {
  struct stat st {};
  return stat(volume.c_str(), &st) == 0 && S_ISREG(st.st_mode);
}

Task<Result<bool>> LocalFence::Populated(FenceDevice device) {
  if (Attribute(device, "cgroup")) {
    auto directory = FindCgroup(device);
    if (!directory.ok()) co_return directory.error();
    co_return IsPopulated(*directory);
  }
  const std::string* files = Attribute(device, "pidfile");
  if (!files) co_return Error(Errc::kInvalid, "device " + device.name + ": fence_local needs cgroup= or pidfile=");
  auto pids = ReadPids(*files);
  if (!pids.ok()) co_return pids.error();
  bool alive = false;
  for (int32_t pid : *pids) alive = alive || kill(pid, 0) == 0;
  co_return alive;
}

Task<Status> LocalFence::AwaitPidGone(int32_t pid, bool end_it, Duration limit, std::function<bool()> stop) {
  Descriptor fd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  if (fd.get() < 0) {
    if (errno == ESRCH) co_return Status{};
    co_return SystemError("pidfd_open", errno);
  }
  if (end_it && syscall(SYS_pidfd_send_signal, fd.get(), SIGKILL, nullptr, 0) != 0 && errno != ESRCH) {
    co_return SystemError("kill", errno);
  }
  Instant end = executor_->clock().Now() + limit;
  for (;;) {
    struct pollfd p{fd.get(), POLLIN, 0};
    if (poll(&p, 1, 0) == 1) co_return Status{};
    if (executor_->clock().Now() >= end) co_return Error(Errc::kTimeout, "process " + std::to_string(pid) + " is still there");
    if (stop && stop()) co_return Error(Errc::kCancelled, "cancelled");
    co_await SleepFor(poll_interval_);
  }
}

Task<Result<std::string>> LocalFence::Isolate(FenceDevice device, Duration limit, std::function<bool()> stop) {
  Instant end = executor_->clock().Now() + limit;
  if (!Attribute(device, "cgroup")) {
    const std::string* files = Attribute(device, "pidfile");
    if (!files) co_return Error(Errc::kInvalid, "device " + device.name + ": fence_local needs cgroup= or pidfile=");
    auto pids = ReadPids(*files);
    if (!pids.ok()) co_return pids.error();
    for (int32_t pid : *pids) {
      if (pid == getpid()) co_return Error(Errc::kInvalid, "refusing to kill this very process");
      auto gone = co_await AwaitPidGone(pid, true, limit, stop);
      if (!gone.ok()) co_return gone.error();
    }
    co_return std::to_string(pids->size()) + " processes ended";
  }
  auto directory = FindCgroup(device);
  if (!directory.ok()) co_return directory.error();
  if (HoldsUs(*directory)) co_return Error(Errc::kInvalid, "refusing to kill the cgroup of this very process");
  bool was = false;
  {
    auto populated = IsPopulated(*directory);
    if (!populated.ok()) co_return populated.error();
    was = *populated;
    Descriptor fd(open((*directory + "/cgroup.kill").c_str(), O_WRONLY | O_CLOEXEC));
    if (fd.get() < 0) co_return SystemError(*directory + "/cgroup.kill", errno);
    if (write(fd.get(), "1", 1) != 1) co_return SystemError(*directory + "/cgroup.kill", errno);
  }
  // A killed FUSE server can be held in the kernel by a notification that waits for an application's request, which waits for
  // the server. A machine that dies has no such rest; here the connection is aborted (no look at the mount, which would wait).
  if (const std::string* mount = Attribute(device, "mount")) (void)umount2(mount->c_str(), MNT_FORCE);
  for (;;) {
    auto populated = IsPopulated(*directory);
    if (!populated.ok()) co_return populated.error();
    if (!*populated) break;
    if (executor_->clock().Now() >= end) co_return Error(Errc::kTimeout, *directory + " still has processes");
    if (stop && stop()) co_return Error(Errc::kCancelled, "cancelled");
    co_await SleepFor(poll_interval_);
  }
  co_return *directory + (was ? " killed, empty" : " was empty");
}

Task<Status> LocalFence::AwaitBytes(std::string volume, std::vector<uint64_t> bytes, Duration limit, std::function<bool()> stop) {
  // The lock is tried on a descriptor of our own, so that our own node's locks count as somebody else's.
  Descriptor fd(open(volume.c_str(), O_RDWR | O_CLOEXEC));
  if (fd.get() < 0) co_return SystemError(volume, errno);
  Instant end = executor_->clock().Now() + limit;
  for (uint64_t byte : bytes) {
    for (;;) {
      auto locked = TryByte(fd.get(), byte);
      if (!locked.ok()) co_return locked.error();
      if (*locked) break;
      if (executor_->clock().Now() >= end) {
        co_return Error(Errc::kTimeout, "byte 2^40+" + std::to_string(byte) + " of " + volume + " is still held");
      }
      if (stop && stop()) co_return Error(Errc::kCancelled, "cancelled");
      co_await SleepFor(poll_interval_);
    }
  }
  co_return Status{};
}

Task<Status> LocalFence::ProveMountDead(std::string volume, MountNo mount, int32_t pid, Duration limit) {
  Instant end = executor_->clock().Now() + limit;
  if (pid > 0) {
    auto gone = co_await AwaitPidGone(pid, false, limit, nullptr);
    if (!gone.ok()) co_return gone.error();
  }
  std::vector<uint64_t> bytes(1, MountByte(mount));
  auto free = co_await AwaitBytes(std::move(volume), std::move(bytes), end - executor_->clock().Now(), nullptr);
  co_return free;
}

}  // namespace holdfast::fence
