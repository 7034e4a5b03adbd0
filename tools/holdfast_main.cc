// holdfast: everything an operator asks of a node. Subcommands ask holdfastd over its control socket, or work on files
// alone (config, keys, quorum init). `holdfast lab` runs the lab's own program. man/holdfast.8.
// Exit status: 0 done; 1 failed (the reason is on standard error); 2 wrong usage; 3 holdfastd does not answer.
#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstring>
#include <iostream>

#include "cluster/config.h"
#include "cluster/keys.h"
#include "tools/control_call.h"
#include "tools/print_tree.h"
#include "tools/quorum_init.h"

namespace holdfast::tools {
namespace {

constexpr int kFailed = 1, kUsage = 2, kNoDaemon = 3;

struct Options {
  std::string config = "/etc/cluster/cluster.conf";
  std::string state_dir = "/var/lib/holdfast";
  std::string run_dir = "/run/holdfast";
  std::string node, scope, level, victim;
  bool json = false, force = false, replace = false, yes = false;
  int timeout = 30;
  uint32_t limit = 20;
};

int Fail(const Error& error) {
  std::cerr << "holdfast: " << (error.message.empty() ? std::string(ErrcName(error.code)) : error.message) << "\n";
  return error.code == Errc::kDisconnected ? kNoDaemon : kFailed;
}

int Show(const Result<StatusTree>& tree, bool json, std::string (*text)(const StatusTree&)) {
  if (!tree.ok()) return Fail(tree.error());
  std::string out = json ? ToJson(*tree) : text(*tree);
  std::fwrite(out.data(), 1, out.size(), stdout);
  return 0;
}

int RunStatus(const Options& o) {
  control::ControlFrame request;
  request.mutable_status();
  return Show(CallForTree(o.run_dir, request, o.timeout), o.json, StatusText);
}

int RunHistory(const Options& o) {
  control::ControlFrame request;
  request.mutable_history()->set_limit(o.limit);
  return Show(CallForTree(o.run_dir, request, o.timeout), o.json, HistoryText);
}

int RunDone(const Options& o, control::ControlFrame request, const std::string& words) {
  auto answer = Call(o.run_dir, std::move(request), o.timeout);
  if (!answer.ok()) return Fail(answer.error());
  if (!words.empty()) std::cout << words << "\n";
  return 0;
}

const char* KindName(cluster::Remark::Kind kind) {
  switch (kind) {
    case cluster::Remark::Kind::kUnknown: return "warning";
    case cluster::Remark::Kind::kUnused: return "notice";
    case cluster::Remark::Kind::kAdvice: return "advice";
  }
  return "notice";
}

int RunValidate(const Options& o) {
  auto loaded = cluster::LoadConfig(o.config);
  if (!loaded.ok()) {
    std::cerr << loaded.error().message << "\n";
    return kFailed;
  }
  std::string file = o.config.substr(o.config.find_last_of('/') + 1);
  for (const auto& r : loaded->remarks) std::cout << file << ":" << r.line << ": " << KindName(r.kind) << ": " << r.text << "\n";
  const auto& c = loaded->config;
  std::cout << o.config << ": valid: cluster " << c.cluster << ", version " << c.version << ", " << c.nodes.size() << " nodes, quorum "
            << c.Quorum() << " of " << c.TotalVotes() << " votes\n";
  return 0;
}

int RunConfigShow(const Options& o, bool file_given) {
  if (!file_given && DaemonLives(o.run_dir)) {
    control::ControlFrame request;
    request.mutable_config_show();
    return Show(CallForTree(o.run_dir, request, o.timeout), o.json, ConfigText);
  }
  auto loaded = cluster::LoadConfig(o.config);
  if (!loaded.ok()) return Fail(loaded.error());
  return Show(cluster::ShowConfig(loaded->config), o.json, ConfigText);
}

int RunKeys(const Options& o) {
  cluster::KeyPair keys = cluster::GenerateKeys();
  if (Status saved = cluster::SaveKeys(o.state_dir, keys, o.replace); !saved.ok()) return Fail(saved.error());
  std::cout << keys.public_key << "\n";
  return 0;
}

int RunQuorumInit(const Options& o) {
  if (DaemonLives(o.run_dir)) {
    // Only a cluster without a quorum device begins while its daemons run: it needs all of them.
    control::ControlFrame request;
    request.mutable_quorum_init();
    return RunDone(o, request, "register version 1: all nodes may join now");
  }
  auto words = QuorumInit({o.config, o.state_dir, o.node, o.force});
  if (!words.ok()) return Fail(words.error());
  std::cout << *words << "\n";
  return 0;
}

int RunFenceAck(const Options& o) {
  if (!o.yes) {
    std::cerr << "This says, on your word, that node " << o.victim << " does not write to the volume any more: that it is powered off\n"
              << "or cut off from the storage. If it is not, data will be lost. Type its name to go on: ";
    std::string name;
    if (!std::getline(std::cin, name) || name != o.victim) {
      std::cerr << "Not acknowledged.\n";
      return kFailed;
    }
  }
  control::ControlFrame request;
  request.mutable_fence_ack()->set_node(o.victim);
  return RunDone(o, request, o.victim + " is acknowledged as fenced");
}

int RunFenceCheck(const Options& o) {
  control::ControlFrame request;
  request.mutable_fence_check();
  auto tree = CallForTree(o.run_dir, request, std::max(o.timeout, 300));
  int shown = Show(tree, o.json, ToText);
  if (shown != 0) return shown;
  for (const auto& child : tree->children)
    if (child.name == "ok") return child.value == "true" ? 0 : kFailed;
  return 0;
}

// `holdfast lab …`: the lab's program beside this one, as called or as it really lies.
int RunLab(int argc, char** argv) {
  std::vector<std::string> folders;
  std::string called = argv[0];
  if (called.find('/') != std::string::npos) folders.push_back(called.substr(0, called.rfind('/')));
  char self[PATH_MAX];
  if (ssize_t n = ::readlink("/proc/self/exe", self, sizeof self - 1); n > 0) {
    self[n] = 0;
    std::string path = self;
    folders.push_back(path.substr(0, path.rfind('/')));
    folders.push_back(folders.back() + "/../bin");
  }
  std::vector<char*> arguments(argv + 1, argv + argc);
  arguments.push_back(nullptr);
  for (const auto& folder : folders) {
    std::string program = folder + "/holdfast-lab";
    if (::access(program.c_str(), X_OK) != 0) continue;
    arguments[0] = program.data();
    ::execv(program.c_str(), arguments.data());
  }
  std::string program = "holdfast-lab";
  arguments[0] = program.data();
  ::execvp(program.c_str(), arguments.data());
  std::cerr << "holdfast: holdfast-lab is not installed beside this program: " << std::strerror(errno) << "\n";
  return kFailed;
}

void Common(CLI::App* app, Options& o, bool daemon) {
  if (daemon) {
    app->add_option("--run-dir", o.run_dir, "where holdfastd's socket is")->capture_default_str();
    app->add_option("--timeout", o.timeout, "seconds to wait for holdfastd")->capture_default_str()->check(CLI::Range(1, 3600));
  }
  // Accepted everywhere, so that one set of options serves all commands of a node.
  if (!app->get_option_no_throw("--config")) app->add_option("--config", o.config, "cluster.conf")->capture_default_str();
  if (!app->get_option_no_throw("--state-dir")) app->add_option("--state-dir", o.state_dir, "the node's durable state")->capture_default_str();
}

int Main(int argc, char** argv) {
  if (argc > 1 && std::strcmp(argv[1], "lab") == 0) return RunLab(argc, argv);
  Options o;
  CLI::App app{"Status and control of a Holdfast node."};
  app.require_subcommand(1);
  app.footer(
      "Examples:\n"
      "  holdfast status                     members, quorum, mounts, and what waits for what\n"
      "  holdfast history                    every recovery, with milliseconds per phase\n"
      "  holdfast config validate --config cluster.conf\n"
      "  holdfast keys generate --state-dir /var/lib/holdfast\n"
      "  holdfast quorum init --node n1      once, before the cluster's first start\n"
      "  holdfast fence ack n2               after you have switched n2 off by hand\n"
      "  holdfast lab up /tmp/lab --nodes 3  a whole cluster on this machine\n"
      "Exit status: 0 done, 1 failed, 2 wrong usage, 3 holdfastd does not answer.");
  int code = 0;

  auto* status = app.add_subcommand("status", "members, votes, quorum, lockspaces, mounts, journals, fencing, and what waits");
  Common(status, o, true);
  status->add_flag("--json", o.json, "as JSON");
  status->callback([&] { code = RunStatus(o); });

  auto* history = app.add_subcommand("history", "the timeline of recoveries: detected, decided, fenced, replayed, resumed");
  Common(history, o, true);
  history->add_flag("--json", o.json, "as JSON");
  history->add_option("-n,--limit", o.limit, "newest so many")->capture_default_str();
  history->callback([&] { code = RunHistory(o); });

  auto* config = app.add_subcommand("config", "cluster.conf")->require_subcommand(1);
  auto* validate = config->add_subcommand("validate", "checks a file: errors, unknown items and items not acted on, by line");
  Common(validate, o, false);
  validate->add_option("file", o.config, "the file; the same as --config");
  validate->callback([&] { code = RunValidate(o); });
  auto* show = config->add_subcommand("show", "the configuration in force (of holdfastd), or of a file; passwords are not shown");
  Common(show, o, true);
  show->add_flag("--json", o.json, "as JSON");
  show->callback([&, show] { code = RunConfigShow(o, show->count("--config") > 0); });

  auto* keys = app.add_subcommand("keys", "the node's CURVE keys")->require_subcommand(1);
  auto* generate = keys->add_subcommand("generate", "makes a pair in the state directory and prints the public key for cluster.conf");
  Common(generate, o, false);
  generate->add_flag("--replace", o.replace, "replaces a pair that is there");
  generate->callback([&] { code = RunKeys(o); });

  auto* quorum = app.add_subcommand("quorum", "the cluster register")->require_subcommand(1);
  auto* init = quorum->add_subcommand("init", "registers version 1 of the cluster's state; once. With a quorum device while no holdfastd runs; without, while all run");
  Common(init, o, true);
  init->add_option("--node", o.node, "this node's name in cluster.conf (default: the one whose key is in the state directory)");
  init->add_flag("--force", o.force, "gives up a register that is there: only if no node runs and nothing is owed");
  init->callback([&] { code = RunQuorumInit(o); });

  auto* fence = app.add_subcommand("fence", "fencing")->require_subcommand(1);
  auto* ack = fence->add_subcommand("ack", "says, on your word, that a node waiting to be fenced is off");
  Common(ack, o, true);
  ack->add_option("node", o.victim, "name of the node")->required();
  ack->add_flag("--yes", o.yes, "does not ask");
  ack->callback([&] { code = RunFenceAck(o); });
  auto* check = fence->add_subcommand("check", "asks every fence device whether it would work: before it is needed");
  Common(check, o, true);
  check->add_flag("--json", o.json, "as JSON");
  check->callback([&] { code = RunFenceCheck(o); });

  auto* node = app.add_subcommand("node", "this node")->require_subcommand(1);
  auto* leave = node->add_subcommand("leave", "leaves the cluster cleanly and ends holdfastd; its mounts must be unmounted");
  Common(leave, o, true);
  leave->callback([&] {
    control::ControlFrame request;
    request.mutable_node_leave();
    code = RunDone(o, request, "left");
  });

  auto* log = app.add_subcommand("log", "logging")->require_subcommand(1);
  auto* level = log->add_subcommand("level", "trace, debug, info, warn, error or off; for one scope or for all");
  Common(level, o, true);
  level->add_option("level", o.level)->required()->check(CLI::IsMember({"trace", "debug", "info", "warn", "error", "off"}));
  level->add_option("--scope", o.scope, "register, membership, fence, cluster, …");
  level->callback([&] {
    control::ControlFrame request;
    request.mutable_set_log_level()->set_level(o.level);
    request.mutable_set_log_level()->set_scope(o.scope);
    code = RunDone(o, request, "");
  });
  app.add_subcommand("lab", "a whole cluster on this machine: holdfast lab --help");

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kUsage;
  }
  return code;
}

}  // namespace
}  // namespace holdfast::tools

int main(int argc, char** argv) { return holdfast::tools::Main(argc, argv); }
