// holdfastd: one per node. Reads cluster.conf, joins the cluster, keeps its truth, fences, serves this node's mounts.
// man/holdfastd.8. Exit status: 0 left cleanly; 1 could not start or failed; 2 wrong usage. An evicted node's holdfastd
// starts itself again (exec) and joins with a new incarnation.
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstring>

#include "base/log.h"
#include "cluster/daemon/daemon.h"
#include "io/reactor.h"

namespace holdfast::cluster {
namespace {

struct Arguments {
  DaemonOptions daemon;
  bool foreground = true, no_realtime = false, debug = false;
};

// Load is not death: locked memory and real-time priority where permitted. Threads of the pool stay ordinary.
std::vector<std::string> TakePriority(bool wanted) {
  std::vector<std::string> notes;
  if (!wanted) return notes;
  if (::mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) != 0) notes.push_back(std::string("memory is not locked: ") + std::strerror(errno));
  sched_param priority{};
  priority.sched_priority = 1;
  if (::sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &priority) != 0)
    notes.push_back(std::string("no real-time priority: ") + std::strerror(errno) + "; under heavy load this node may be taken for dead");
  for (const auto& note : notes) HF_LOG(LogLevel::kWarn, "holdfastd", "priority", {{"note", note}});
  return notes;
}

const NodeConfig* FindSelf(const Config& config, const std::string& name, const std::string& public_key) {
  if (!name.empty()) return config.FindNode(name);
  for (const auto& node : config.nodes)
    if (node.public_key == public_key) return &node;
  return nullptr;
}

int Fail(const std::string& words) {
  std::fprintf(stderr, "holdfastd: %s\n", words.c_str());
  return 1;
}

// Signals that the reactor blocked stay blocked over exec; everything else begins anew.
[[noreturn]] void StartAgain(char** argv) {
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::execv("/proc/self/exe", argv);
  std::fprintf(stderr, "holdfastd: cannot start again: %s\n", std::strerror(errno));
  std::_Exit(1);
}

Task<void> Settle(Duration time) { co_await SleepFor(time); }

int Run(Arguments arguments, char** argv) {
  auto loaded = LoadConfig(arguments.daemon.config);
  if (!loaded.ok()) return Fail(loaded.error().message);
  for (const auto& remark : loaded->remarks)
    if (remark.kind != Remark::Kind::kUnused)
      HF_LOG(LogLevel::kWarn, "config", "remark", {{"line", remark.line}, {"text", remark.text}});
  auto keys = LoadKeys(arguments.daemon.state_dir);
  if (!keys.ok()) return Fail(keys.error().message + " (holdfast keys generate --state-dir " + arguments.daemon.state_dir + ")");
  const NodeConfig* self = FindSelf(loaded->config, arguments.daemon.node, keys->public_key);
  if (!self)
    return Fail(arguments.daemon.node.empty() ? "no node of " + arguments.daemon.config + " has this machine's key; give --node NAME"
                                              : "node '" + arguments.daemon.node + "' is not in " + arguments.daemon.config);
  arguments.daemon.node = self->name;
  if (!loaded->config.logging.logfile.empty()) LogToFile(loaded->config.logging.logfile);
  if (loaded->config.logging.debug || arguments.debug) SetLogLevel(LogLevel::kDebug);
  if (loaded->config.dlm_debug) SetLogLevel("dlm", LogLevel::kDebug);

  ::signal(SIGPIPE, SIG_IGN);
  // Never destroyed: the process ends or starts again while coroutines of the old life still wait.
  auto* reactor = new io::Reactor;
  Daemon* daemon = nullptr;
  for (int number : {SIGTERM, SIGINT})
    reactor->OnSignal(number, [&daemon] {
      if (daemon) daemon->RequestLeave("signal");
    });
  {
    ExecutorTurn turn(reactor);
    std::vector<std::string> notes = TakePriority(!arguments.no_realtime);
    daemon = new Daemon(reactor, arguments.daemon, std::move(loaded->config), std::move(*keys), std::move(notes));
    if (Status begun = daemon->Begin(); !begun.ok()) {
      Fail(begun.error().message);
      std::fflush(nullptr);
      std::_Exit(1);
    }
  }
  reactor->RunTask(daemon->Run());
  int code = daemon->end() == DaemonEnd::kFailed ? 1 : 0;
  // Last words to mounts and commands leave; an evicted life pauses a little so that a broken node cannot spin.
  reactor->RunTask(Settle(daemon->end() == DaemonEnd::kEvicted ? Milliseconds(500) : Milliseconds(50)));
  if (daemon->end() == DaemonEnd::kEvicted) StartAgain(argv);
  ::unlink((arguments.daemon.run_dir + "/holdfastd.sock").c_str());
  std::fflush(nullptr);
  std::_Exit(code);
}

int Main(int argc, char** argv) {
  Arguments a;
  a.daemon.config = "/etc/cluster/cluster.conf";
  a.daemon.state_dir = "/var/lib/holdfast";
  a.daemon.run_dir = "/run/holdfast";
  CLI::App app{"The daemon of a Holdfast node: membership, quorum, fencing, and what its mounts ask for."};
  app.add_option("--config", a.daemon.config, "cluster.conf")->capture_default_str();
  app.add_option("--state-dir", a.daemon.state_dir, "durable state and keys of this node")->capture_default_str();
  app.add_option("--run-dir", a.daemon.run_dir, "socket and lease page")->capture_default_str();
  app.add_option("--node", a.daemon.node, "this node's name in cluster.conf (default: the node with this machine's key)");
  app.add_flag("--foreground,-f", a.foreground, "stay in the foreground (always so)");
  app.add_flag("--no-realtime", a.no_realtime, "ordinary priority, memory not locked");
  app.add_flag("--debug", a.debug, "log everything that is not a trace");
  app.footer("Example:\n  holdfastd --config /etc/cluster/cluster.conf --node n1\nSIGTERM leaves the cluster cleanly; mounts must be unmounted first.");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  return Run(std::move(a), argv);
}

}  // namespace
}  // namespace holdfast::cluster

int main(int argc, char** argv) {
  prctl(PR_SET_NAME, "holdfastd");  // after execv of /proc/self/exe it would be called "exe"
  return holdfast::cluster::Main(argc, argv);
}
