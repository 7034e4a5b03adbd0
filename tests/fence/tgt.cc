// See tgt.h.

#include "tests/fence/tgt.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <thread>

extern char** environ;

namespace holdfast::fence {

namespace {

constexpr char kTarget[] = "iqn.2026-11.org.holdfast:test";

int FreePort() {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  bool good = bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0 &&
              getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0;
  close(fd);
  if (!good) throw std::runtime_error("no free port");
  return ntohs(address.sin_port);
}

int Spawn(const std::vector<std::string>& words, const std::vector<std::string>& environment, const std::string& log) {
  pid_t parent = getpid();
  pid_t pid = fork();
  if (pid < 0) throw std::runtime_error("fork");
  if (pid > 0) return pid;
  prctl(PR_SET_PDEATHSIG, SIGKILL);  // a test that crashes leaves no target behind
  if (getppid() != parent) _exit(1);
  int fd = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  dup2(fd, 1);
  dup2(fd, 2);
  for (const std::string& entry : environment) putenv(strdup(entry.c_str()));
  std::vector<char*> argv;
  for (const std::string& word : words) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin", 1);
  execvp(argv[0], argv.data());
  _exit(127);
}

int Wait(int pid) {
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace

Tgt::Tgt(Options options) : options_(options) {
  char name[] = "/tmp/holdfast-tgt-XXXXXX";
  if (!mkdtemp(name)) throw std::runtime_error("mkdtemp");
  directory_ = name;
  image_ = directory_ + "/image";
  int fd = open(image_.c_str(), O_RDWR | O_CREAT, 0600);
  if (fd < 0 || ftruncate(fd, static_cast<off_t>(options_.size_bytes)) != 0) throw std::runtime_error("image");
  close(fd);
  port_ = FreePort();
  control_ = 20000 + port_ % 12000;
  Start();
}

Tgt::~Tgt() {
  Kill();
  for (const char* end : {"", ".lock"}) unlink(("/var/run/tgtd/socket." + std::to_string(control_) + end).c_str());
  std::filesystem::remove_all(directory_);
}

void Tgt::Start() {
  mkdir("/var/run/tgtd", 0755);
  std::vector<std::string> environment;
  if (options_.slow_ms > 0) {
    const char* library = getenv("SLOW_WRITE");
    if (!library) throw std::runtime_error("SLOW_WRITE names no library: run this test with meson");
    environment.push_back(std::string("LD_PRELOAD=") + library);
    environment.push_back("SLOW_MS=" + std::to_string(options_.slow_ms));
  }
  pid_ = Spawn({"tgtd", "-f", "-C", std::to_string(control_), "--iscsi", "portal=127.0.0.1:" + std::to_string(port_)}, environment,
               directory_ + "/log");
  auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (!Admin({"--op", "show", "--mode", "target"})) {
    if (std::chrono::steady_clock::now() > end) throw std::runtime_error("tgtd does not answer");
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  bool good = Admin({"--op", "new", "--mode", "target", "--tid", "1", "-T", kTarget}) &&
              Admin({"--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "-b", image_, "--bstype", "rdwr"}) &&
              Admin({"--op", "update", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "--params", "thin_provisioning=1"}) &&
              Admin({"--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL"});
  if (!good) throw std::runtime_error("tgtd refused the target");
}

bool Tgt::Admin(std::vector<std::string> words) const {
  std::vector<std::string> all = {"tgtadm", "-C", std::to_string(control_), "--lld", "iscsi"};
  all.insert(all.end(), words.begin(), words.end());
  return Wait(Spawn(all, {}, directory_ + "/admin.log")) == 0;
}

void Tgt::Kill() {
  if (pid_ <= 0) return;
  kill(pid_, SIGKILL);
  Wait(pid_);
  pid_ = 0;
}

void Tgt::StartAgain() { Start(); }
void Tgt::Pause() { kill(pid_, SIGSTOP); }
void Tgt::Resume() { kill(pid_, SIGCONT); }

std::string Tgt::url(int lun) const {
  return "iscsi://127.0.0.1:" + std::to_string(port_) + "/" + kTarget + "/" + std::to_string(lun);
}

std::string Tgt::TextAt(uint64_t offset) const {
  char text[64] = {};
  int fd = open(image_.c_str(), O_RDONLY | O_CLOEXEC);
  ssize_t n = pread(fd, text, sizeof text - 1, static_cast<off_t>(offset));
  close(fd);
  return n > 0 ? std::string(text) : std::string();
}

}  // namespace holdfast::fence
