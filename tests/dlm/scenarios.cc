#include "tests/dlm/scenarios.h"

#include "tests/dlm/core_net.h"

namespace holdfast::dlm {

std::string RecoveryGrantScenario() {
  CoreNet net(4);
  // 1 masters r; 2 holds it EX and dies.
  LockId first = net.Create(1, "r"), dead = net.Create(2, "r");
  net.Lock(1, first, Mode::kNL);
  if (net.Result(net.Lock(2, dead, Mode::kEX)) != Errc::kOk) return "setup: no EX";
  net.Kill(2);
  net.reg.Evict(CoreNet::IdOf(2));
  net.reg.SetFenced(CoreNet::IdOf(2));
  net.reg.SetReadersEnded(CoreNet::IdOf(2));
  net.Feed();
  // 3 replays: RECOVERY passes the gate.
  LockId replayer = net.Create(3, "r"), other = net.Create(4, "r");
  if (net.Result(net.Lock(3, replayer, Mode::kEX, Flags::kRecovery)) != Errc::kOk) return "setup: RECOVERY waits";
  // The master dies; the name is rebuilt from 3's lock.
  net.Kill(1);
  net.reg.Evict(CoreNet::IdOf(1));
  net.reg.SetFenced(CoreNet::IdOf(1));
  net.reg.SetReadersEnded(CoreNet::IdOf(1));
  net.Feed();
  net.Unlock(3, replayer);
  auto waits = net.Lock(4, other, Mode::kPR);
  if (net.Result(waits)) return "freeze: granted before the dead writer's journal was replayed";
  net.reg.SetReplayed(CoreNet::IdOf(2));
  net.reg.SetReplayed(CoreNet::IdOf(1));
  net.Feed();
  if (net.Result(waits) != Errc::kOk) return "liveness: still waiting after the replay";
  return "";
}

}  // namespace holdfast::dlm
