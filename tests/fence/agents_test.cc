// Fencing through a standard agent: fence_ipmilan against a simulated BMC (OpenIPMI's ipmi_sim) whose power-off kills a real
// process. Everything on the loopback, ended by its own process ids.

#include <catch2/catch.hpp>

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <thread>

#include "fence/agent.h"
#include "fence/domain.h"
#include "io/processes.h"
#include "io/reactor.h"

namespace holdfast::fence {
namespace {

namespace fs = std::filesystem;
using io::Reactor;

constexpr char kPassword[] = "bmc-secret";

int Start(const std::vector<std::string>& words, const std::string& log) {
  pid_t parent = getpid();
  pid_t pid = fork();
  if (pid != 0) return pid;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);
  int fd = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  int nothing = open("/dev/null", O_RDONLY);
  dup2(nothing, 0);
  dup2(fd, 1);
  dup2(fd, 2);
  std::vector<char*> argv;
  for (const std::string& word : words) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  execvp(argv[0], argv.data());
  _exit(127);
}

bool Runs(int pid) {
  int status = 0;
  return waitpid(pid, &status, WNOHANG) == 0;
}

// A machine that is one process, and its BMC.
class Machine {
 public:
  Machine() {
    char name[] = "/tmp/holdfast-bmc-XXXXXX";
    REQUIRE(mkdtemp(name));
    home_ = name;
    fs::create_directory(home_ + "/state");
    // Ignores SIGTERM: power off must not ask.
    node_ = Start({"/bin/sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"}, home_ + "/node.log");
    Write("/node.pid", std::to_string(node_));
    // chassis_control is called as: script MC get power | set power 0|1
    Write("/chassis", "#!/bin/sh\npid=$(cat " + home_ + "/node.pid 2>/dev/null)\nshift\n"
                      "alive() { [ -n \"$pid\" ] && [ -d /proc/$pid ] && ! grep -q 'State:.Z' /proc/$pid/status; }\n"
                      "case \"$1 $2\" in\n"
                      "'get power') if alive; then echo power:1; else echo power:0; fi;;\n"
                      "'set power') if [ \"$3\" = 0 ]; then alive && kill -9 $pid; fi;;\n"
                      "esac\nexit 0\n");
    chmod((home_ + "/chassis").c_str(), 0755);
    port_ = 20000 + node_ % 30000;
    StartBmc();
  }
  ~Machine() {
    StopBmc();
    if (Runs(node_)) {
      kill(node_, SIGKILL);
      waitpid(node_, nullptr, 0);
    }
    fs::remove_all(home_);
  }
  void StartBmc() {
    for (;; port_++) {
      Write("/lan.conf", "name \"node\"\nset_working_mc 0x20\n  startlan 1\n    addr 127.0.0.1 " + std::to_string(port_) +
                             "\n    priv_limit admin\n    allowed_auths_callback none md2 md5 straight\n    allowed_auths_user none md2 md5 straight\n"
                             "    allowed_auths_operator none md2 md5 straight\n    allowed_auths_admin none md2 md5 straight\n"
                             "    guid a123456789abcdefa123456789abcdef\n  endlan\n  chassis_control \"" + home_ + "/chassis 0x20\"\n"
                             "  user 1 true  \"\"      \"test\"   user  10 none md2 md5 straight\n"
                             "  user 2 true  \"admin\" \"" + std::string(kPassword) + "\" admin 10 none md2 md5 straight\n");
      Write("/sim.emu", "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr\nsel_enable 0x20 1000 0x0a\n"
                        "mc_enable 0x20\n");
      bmc_ = Start({"ipmi_sim", "-n", "-c", home_ + "/lan.conf", "-f", home_ + "/sim.emu", "-s", home_ + "/state"}, home_ + "/bmc.log");
      // It answers when its UDP port is bound; a port in use ends it.
      std::string wanted = Hex(port_);
      for (int i = 0; i < 500 && Runs(bmc_); i++) {
        std::ifstream udp("/proc/net/udp");
        std::string all((std::istreambuf_iterator<char>(udp)), std::istreambuf_iterator<char>());
        if (all.find(wanted) != std::string::npos) return;
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      }
      StopBmc();
    }
  }
  void StopBmc() {
    if (bmc_ <= 0) return;
    kill(bmc_, SIGKILL);
    waitpid(bmc_, nullptr, 0);
    bmc_ = 0;
  }
  bool alive() const { return Runs(node_); }
  FenceDevice device(const std::string& password = kPassword) const {
    return {"bmc", "fence_ipmilan",
            {{"ipaddr", "127.0.0.1"}, {"ipport", std::to_string(port_)}, {"login", "admin"}, {"passwd", password}, {"lanplus", "1"},
             {"cipher", "3"}, {"power_wait", "0"}, {"action", "off"}, {"agent_retries", "0"}, {"login_timeout", "2"}}};
  }

 private:
  static std::string Hex(int port) {
    char text[32];
    snprintf(text, sizeof text, "0100007F:%04X", static_cast<unsigned>(port));
    return text;
  }
  void Write(const std::string& name, const std::string& text) { std::ofstream(home_ + name, std::ios::trunc) << text; }
  std::string home_;
  int node_ = 0, bmc_ = 0, port_ = 0;
};

struct Fencer {
  Reactor reactor;
  io::SystemProcesses processes{&reactor};
  Domain domain{FenceSeams{&reactor, &processes, nullptr, nullptr, nullptr}, FencePolicy{}};
  std::vector<FenceStep> steps;

  // Proven within the limit?
  bool Fence(const FenceDevice& device, Duration limit) {
    Victim victim;
    victim.node = NodeId(2);
    victim.name = "n2";
    victim.incarnation = Incarnation(3);
    std::shared_ptr<FenceRun> run;
    {
      ExecutorTurn turn(&reactor);
      run = domain.Fence(victim, {{"power", {device}}}, [this](const FenceStep& s) { steps.push_back(s); });
    }
    reactor.PostAt(reactor.clock().Now() + limit, [run] { run->Cancel("the test has seen enough"); });
    auto proofs = reactor.RunTask(run->AwaitProof());
    reactor.RunTask(run->AwaitEnd());
    if (proofs.ok()) CHECK(proofs->at(0).kind == ProofKind::kPower);
    return proofs.ok();
  }
  ~Fencer() { reactor.RunTask(domain.Close()); }
};

}  // namespace

TEST_CASE("fence_ipmilan: power off kills the node and is the proof", "[fence][ipmi][system]") {
  Machine machine;
  Fencer fencer;
  auto check = fencer.reactor.RunTask(fencer.domain.Check("n2", {{"power", {machine.device()}}}));
  REQUIRE(check.size() == 1);
  INFO(check[0].details);
  CHECK(check[0].ok);
  REQUIRE(machine.alive());
  CHECK(fencer.Fence(machine.device(), Seconds(60)));
  CHECK(!machine.alive());
}

TEST_CASE("fence_ipmilan: a wrong password is not fenced, and is not shown", "[fence][ipmi][system]") {
  Machine machine;
  Fencer fencer;
  CHECK(!fencer.Fence(machine.device("wrong-secret"), Seconds(4)));
  CHECK(machine.alive());
  REQUIRE(!fencer.steps.empty());
  for (const FenceStep& step : fencer.steps) CHECK(step.details.find("wrong-secret") == std::string::npos);
}

TEST_CASE("fence_ipmilan: a dead BMC is not fenced", "[fence][ipmi][system]") {
  Machine machine;
  machine.StopBmc();
  Fencer fencer;
  auto device = machine.device();
  device.attributes["agent_timeout"] = "3";
  CHECK(!fencer.Fence(device, Seconds(5)));
  CHECK(machine.alive());
}

}  // namespace holdfast::fence
