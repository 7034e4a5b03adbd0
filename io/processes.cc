#include "io/processes.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "base/sync.h"
#include "io/unique_fd.h"

extern char** environ;

namespace holdfast::io {
namespace {

UniqueFd PidFd(pid_t pid) { return UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0))); }

struct Pipe {
  UniqueFd read, write;
};

Result<Pipe> MakePipe() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return Error(Errc::kExhausted, std::string("pipe: ") + std::strerror(errno));
  Pipe p;
  p.read = UniqueFd(ends[0]);
  p.write = UniqueFd(ends[1]);
  return p;
}

// One running program. Every descriptor has a watch; the coroutine waits for `over`.
struct Child {
  Reactor* reactor = nullptr;
  size_t output_max = 0;
  pid_t pid = 0;
  UniqueFd pidfd, in, out, err;
  std::string input;
  size_t fed = 0;
  ProcessOutcome outcome;
  Completion<bool> over;

  ~Child() {
    for (UniqueFd* fd : {&pidfd, &in, &out, &err}) Drop(*fd);
  }
  void Drop(UniqueFd& fd) {
    if (!fd.valid()) return;
    reactor->Unwatch(fd.get());
    fd.Reset();
  }
  void Feed() {
    while (fed < input.size()) {
      ssize_t n = write(in.get(), input.data() + fed, input.size() - fed);
      if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
      if (n < 0) break;  // it does not read: not an error of ours
      fed += static_cast<size_t>(n);
    }
    Drop(in);
  }
  // False at the end of the stream.
  bool Take(UniqueFd& fd, std::string& text) {
    char buffer[16384];
    for (int i = 0; i < 16; ++i) {
      ssize_t n = read(fd.get(), buffer, sizeof buffer);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return errno == EAGAIN;
      if (n == 0) return false;
      text.append(buffer, std::min(static_cast<size_t>(n), output_max - text.size()));
    }
    return true;
  }
  void OnOutput(UniqueFd& fd, std::string& text) {
    if (!Take(fd, text)) Drop(fd);
  }
  void Kill() const { kill(-pid, SIGKILL); }
  void OnExit() {
    int status = 0;
    Kill();  // before it is reaped: the group's number cannot be another's yet
    if (waitpid(pid, &status, 0) == pid) {
      if (WIFEXITED(status)) outcome.exit_code = WEXITSTATUS(status);
      else if (WIFSIGNALED(status)) outcome.signal = WTERMSIG(status);
    }
    // What is in the pipes now is all of it.
    if (out.valid()) Take(out, outcome.output);
    if (err.valid()) Take(err, outcome.errors);
    Drop(pidfd);
    over.Set(true);
  }
};

std::vector<std::string> Environment(const std::map<std::string, std::string>& added) {
  std::vector<std::string> result;
  for (char** e = environ; *e != nullptr; ++e) {
    std::string entry = *e;
    if (!added.contains(entry.substr(0, entry.find('=')))) result.push_back(std::move(entry));
  }
  for (const auto& [key, value] : added) result.push_back(key + "=" + value);
  return result;
}

std::vector<char*> Pointers(std::vector<std::string>& texts) {
  std::vector<char*> result;
  for (std::string& t : texts) result.push_back(t.data());
  result.push_back(nullptr);
  return result;
}

Status Spawn(const ProcessSpec& spec, Child& child) {
  auto in = MakePipe(), out = MakePipe(), err = MakePipe();
  if (!in.ok() || !out.ok() || !err.ok()) return Error(Errc::kExhausted, "no pipes");
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, in->read.get(), 0);
  posix_spawn_file_actions_adddup2(&actions, out->write.get(), 1);
  posix_spawn_file_actions_adddup2(&actions, err->write.get(), 2);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setpgroup(&attributes, 0);
  sched_param plain{};
  posix_spawnattr_setschedparam(&attributes, &plain);
  posix_spawnattr_setschedpolicy(&attributes, SCHED_OTHER);  // a daemon's real-time priority is not its agents'
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP |
                                            POSIX_SPAWN_SETSCHEDULER);
  std::vector<std::string> args = {spec.program};
  args.insert(args.end(), spec.args.begin(), spec.args.end());
  std::vector<std::string> environment = Environment(spec.environment);
  int rc = posix_spawnp(&child.pid, spec.program.c_str(), &actions, &attributes, Pointers(args).data(),
                        Pointers(environment).data());
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  if (rc != 0) {
    Errc code = rc == ENOENT || rc == ENOTDIR ? Errc::kNotFound : rc == EACCES ? Errc::kPermission : Errc::kExhausted;
    return Error(code, spec.program + ": " + std::strerror(rc));
  }
  child.in = std::move(in->write);
  child.out = std::move(out->read);
  child.err = std::move(err->read);
  for (int fd : {child.in.get(), child.out.get(), child.err.get()}) fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
  return {};
}

Status WatchChild(Child* child) {
  Reactor* r = child->reactor;
  child->pidfd = PidFd(child->pid);
  if (!child->pidfd.valid()) return Error(Errc::kExhausted, "pidfd_open");
  HF_TRY(r->Watch(child->pidfd.get(), EPOLLIN, [child](uint32_t) { child->OnExit(); }));
  HF_TRY(r->Watch(child->in.get(), EPOLLOUT, [child](uint32_t) { child->Feed(); }));
  HF_TRY(r->Watch(child->out.get(), EPOLLIN, [child](uint32_t) { child->OnOutput(child->out, child->outcome.output); }));
  return r->Watch(child->err.get(), EPOLLIN, [child](uint32_t) { child->OnOutput(child->err, child->outcome.errors); });
}

}  // namespace

Task<Result<ProcessOutcome>> SystemProcesses::Run(ProcessSpec spec) {
  auto child = std::make_unique<Child>();
  child->reactor = reactor_;
  child->output_max = options_.output_bytes_max;
  child->input = std::move(spec.standard_input);
  signal(SIGPIPE, SIG_IGN);  // a program that does not read its input must not end us
  Status spawned = Spawn(spec, *child);
  if (!spawned.ok()) co_return spawned.error();
  Status watched = WatchChild(child.get());
  if (!watched.ok()) {
    child->Kill();
    waitpid(child->pid, nullptr, 0);
    co_return watched.error();
  }
  TimerId timer = reactor_->PostAt(reactor_->clock().Now() + spec.timeout, [c = child.get()] {
    c->outcome.timed_out = true;
    c->Kill();
  });
  co_await child->over;
  reactor_->Cancel(timer);
  if (child->outcome.timed_out) child->outcome.exit_code = -1;
  co_return std::move(child->outcome);
}

Task<Status> SystemProcesses::AwaitExit(int32_t pid, Duration limit) {
  UniqueFd fd = PidFd(pid);
  if (!fd.valid()) {
    if (errno == ESRCH || errno == EINVAL) co_return Status();
    co_return Error(Errc::kExhausted, std::string("pidfd_open: ") + std::strerror(errno));
  }
  Completion<bool> ended;
  Status watched = reactor_->Watch(fd.get(), EPOLLIN, [&ended](uint32_t) {
    if (!ended.done()) ended.Set(true);
  });
  if (!watched.ok()) co_return watched;
  TimerId timer = reactor_->PostAt(reactor_->clock().Now() + limit, [&ended] {
    if (!ended.done()) ended.Set(false);
  });
  auto gone = co_await ended;
  reactor_->Cancel(timer);
  reactor_->Unwatch(fd.get());
  if (gone) co_return Status();
  co_return Error(Errc::kTimeout, "process " + std::to_string(pid) + " has not ended");
}

}  // namespace holdfast::io
