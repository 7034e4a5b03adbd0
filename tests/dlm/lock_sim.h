// LockSim: a lockspace of 3-5 members as cores over simulated links, with clients, a register, and faults. The links are
// what base/channel gives: in order and exactly once between two lives, after any delay; a dying life's last messages
// are lost from some point on. (tests/dlm/service_sim_test.cc runs the same core over the real channel and a lossy net.)
// One seed decides everything; the same seed gives the same trace hash.
#pragma once

#include <deque>
#include <functional>
#include <memory>

#include "dlm/core.h"
#include "tests/dlm/lock_checker.h"
#include "tests/sim/world.h"

namespace holdfast::dlm {

struct SimOptions {
  int names = 6;
  int lock_clients = 3;    // per life
  int range_clients = 2;   // per life
  int faults_max = 5;
  Duration busy = Milliseconds(2500);   // phase 1
  Duration patience = Seconds(60);      // phase 2: everything must have ended by then
};

class LockSim {
 public:
  LockSim(uint64_t seed, SimOptions options = {});
  ~LockSim();
  // "" or what went wrong.
  std::string Run();
  uint64_t trace_hash() const { return world_.trace_hash(); }

  struct Stats {
    uint64_t grants = 0, recoveries = 0, kills = 0, zombies = 0, joins = 0, leaves = 0, values_read = 0, ranges_granted = 0,
             would_block = 0, deadlocks = 0, cancelled = 0, frozen_asked = 0, removes = 0, removes_refused = 0, resent = 0, apps = 0;
  };
  const Stats& stats() const { return stats_; }

 private:
  struct Life;
  struct Client;
  struct Link {
    std::deque<std::pair<Instant, Message>> queue;
    Instant last;
    bool cut = false;
    uint64_t delivered = 0;
  };

  // ---- lives and faults (lock_sim_faults.cc) ----
  Life& StartLife(NodeId node);
  void ScheduleFaults();
  void OneFault();
  void Kill(Life& life);
  void Evict(Life& life);
  void FinishVictim(MemberId id);
  void TryReplay(MemberId victim);
  void ReplayStep(MemberId victim, MemberId replayer, std::vector<ResourceName> names);
  void ReplayName(MemberId victim, MemberId replayer, std::vector<ResourceName> names, ResourceName name);
  void Restart(NodeId node);
  void LeaveCleanly(Life& life);
  void LeaveStep(MemberId id);
  void PauseShortly(Life& life);
  void CutShortly();
  size_t Healthy() const;
  Life* RandomHealthy();

  // ---- delivery ----
  void Flush(Life& life);
  void Transmit(const MemberId& from, Outgoing out);
  void Deliver(const MemberId& from, const MemberId& to);
  void FeedViews();
  void Tick(Life& life);
  Life* Find(const MemberId& id);
  void On(Life& life, std::function<void()> fn);  // as that process; never if it dies first

  // ---- clients (lock_sim_clients.cc) ----
  void StartClients(Life& life);
  void Wake(Life& life, size_t client, Duration in);
  void Act(Life& life, Client& client);
  void ActOnLock(Life& life, Client& client);
  void ActOnRange(Life& life, Client& client);
  void StartLock(Life& life, Client& client, Mode mode, Flags flags);
  void StartUnlock(Life& life, Client& client);
  void Done(Life& life, const Upcall& up);
  void LockDone(Life& life, Client& client, const Upcall& up);
  void RangeDone(Client& client, const Upcall& up);
  void Blocking(Life& life, const Upcall& up);
  void AppArrived(Life& life, const Upcall& up);
  std::optional<ValueBytes> NextValue(Life& life, const ResourceName& name);
  void Sync(Life& life, const Client& client);
  void SyncRanges(Life& life, const ResourceName& name);
  ResourceName NameOf(uint64_t i) const { return ResourceName("r" + std::to_string(i)); }

  bool Quiet() const;
  std::string FinalCheck();
  std::string DumpAll() const;

  SimOptions options_;
  sim::World world_;
  SimRegister register_;
  LockChecker checker_;
  Stats stats_;
  bool draining_ = false;  // phase 2: clients finish and stop
  int faults_left_ = 0;
  uint64_t payload_ = 0;
  Knobs knobs_;
  std::map<MemberId, std::unique_ptr<Life>> lives_;
  std::map<std::pair<MemberId, MemberId>, Link> links_;
  std::map<MemberId, std::pair<MemberId, uint64_t>> replays_;  // victim -> replayer, attempt
  std::map<NodeId, uint64_t> incarnations_;
};

struct LockSim::Client {
  size_t index = 0;
  bool ranged = false;
  bool recovery_held = false;
  ResourceName name;
  std::map<ResourceName, LockId> handles;
  LockId lock;          // the handle in use
  uint64_t op = 0;      // under way
  uint64_t wakes = 0;
  Mode before = Mode::kIV;
  Mode asked = Mode::kIV;
  Flags flags = Flags::kNone;
  bool unlocking = false;
  Instant since;
  Generation asked_in;
  RangeArgs range;
  bool setting = false;  // the operation under way is a RangeSet
  uint64_t token = 0;
};

struct LockSim::Life {
  MemberId id;
  sim::SimExecutor* executor = nullptr;
  std::unique_ptr<Core> core;
  bool dead = false;       // killed
  bool evicted = false;    // by the register, whether it knows or not
  bool leaving = false;
  bool paused = false;
  std::vector<Client> clients;
  std::map<uint64_t, std::function<void(const Upcall&)>> calls;  // operations that are no client's
  std::map<MemberId, uint64_t> app_sent, app_seen;
  Instant tick_at;
  std::string fatal;
};

}  // namespace holdfast::dlm
