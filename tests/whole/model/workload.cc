#include "tests/whole/model/workload_state.h"

#include <fcntl.h>

#include "base/log.h"

namespace holdfast::whole {

std::string CellName(size_t file) { return "cells" + std::to_string(file); }
std::string LogName(size_t log) { return "log" + std::to_string(log); }
std::string CounterName(size_t counter) { return "counter" + std::to_string(counter); }

WorkloadKnobs WorkloadKnobs::Random(sim::SimRandom& random) {
  WorkloadKnobs k;
  k.kernel.has_epoch = random.Below(4) != 0;
  k.kernel.slow_reply = static_cast<uint32_t>(random.Below(3)) * 50'000;
  k.kernel.slow_reply_max = Milliseconds(static_cast<int64_t>(1 + random.Below(20)));
  k.kernel.drops_after_direct_write = random.Below(2) == 0;
  k.kernel.drop_dentry = static_cast<uint32_t>(random.Below(3)) * 50'000;
  k.users = 1 + static_cast<uint32_t>(random.Below(3));
  k.think_max = Microseconds(static_cast<int64_t>(100 + random.Below(6000)));
  k.directories = 1 + static_cast<uint32_t>(random.Below(2));
  k.nested = random.Below(2) == 0;
  k.flocks = random.Below(2) == 0;
  k.kernel.readdir_bytes = random.Below(2) ? 64 * 1024 : 200 + static_cast<uint32_t>(random.Below(400));
  k.names = 2 + static_cast<uint32_t>(random.Below(3));
  k.files = 1 + static_cast<uint32_t>(random.Below(2));
  k.pages = 1 + static_cast<uint32_t>(random.Below(3));
  k.weigh_names = static_cast<uint32_t>(random.Below(8));
  k.weigh_data = 1 + static_cast<uint32_t>(random.Below(8));
  k.weigh_mmap = static_cast<uint32_t>(random.Below(3));
  k.weigh_counter = static_cast<uint32_t>(random.Below(2));
  k.weigh_log = static_cast<uint32_t>(random.Below(3));
  k.weigh_orphan = static_cast<uint32_t>(random.Below(2));
  k.weigh_attributes = static_cast<uint32_t>(random.Below(4));
  k.weigh_xattr = static_cast<uint32_t>(random.Below(2));
  k.kill_application = static_cast<uint32_t>(random.Below(2)) * 30'000;
  return k;
}

Workload::State::State(sim::World* w, WorkloadKnobs k) : world(w), knobs(k) {
  for (uint32_t i = 0; i < knobs.files; ++i) {
    cells.emplace_back(CellName(i), knobs.pages * (kPageBytes / kCellBytes), &deaths);
  }
  owner = std::make_unique<CellFile>("owner", 1, &deaths);
  xattr = std::make_unique<CellFile>("xattr", 1, &deaths);
  for (uint32_t i = 0; i < knobs.logs; ++i) logs.emplace_back(LogName(i), &deaths);
  for (uint32_t i = 0; i < knobs.counters; ++i) counters.emplace_back(CounterName(i));
}

uint64_t Workload::State::Tick() {
  HF_LOG(LogLevel::kDebug, "workload", "tick", {{"at", world->now().ns / 1000}, {"tick", tick + 1}});
  return ++tick;
}

void Workload::State::Wrong(const std::string& what) {
  if (what.empty() || !violation.empty()) return;
  violation = what;
  HF_LOG(LogLevel::kError, "workload", "violation", {{"what", what}});
}

// ---- a life -----------------------------------------------------------------------------------------------------

// mkdir and creat that may have been done before, by a node that died over it.
Task<bool> Workload::State::Prepare(Life* life) {
  KernelModel* k = life->kernel;
  NodePtr root = k->root(), first;
  for (uint32_t i = 0; i < knobs.directories; ++i) {
    std::string name = "d" + std::to_string(i);
    NodePtr parent = Nested(i) ? first : root;
    auto made = co_await k->MakeDir(parent, name);
    if (!made.ok() && made.code() != Errc::kExists) co_return false;
    if (i > 0) continue;
    auto found = co_await k->Find(root, name);
    if (!found.ok()) co_return false;
    first = *found;
  }
  std::vector<std::string> files{"owned"};
  for (size_t i = 0; i < cells.size(); ++i) files.push_back(CellName(i));
  for (size_t i = 0; i < logs.size(); ++i) files.push_back(LogName(i));
  for (size_t i = 0; i < counters.size(); ++i) files.push_back(CounterName(i));
  for (std::string& name : files) {
    auto file = co_await k->Open(root, name, O_CREAT | O_RDWR);
    if (!file.ok()) co_return false;
    // Only mapped files must have their size from the start (a store past the end is SIGBUS).
    bool sized = name == CellName(cells.size() - 1);
    if (sized) {
      auto written = co_await k->Truncate((*file)->node, knobs.pages * kPageBytes);
      if (!written.ok()) co_return false;
    }
    auto synced = co_await k->Fsync(*file);
    auto closed = co_await k->Close(*file);
    if (!synced.ok() || !closed.ok()) co_return false;
  }
  if (first) {
    auto below = co_await k->FsyncDir(first);
    if (!below.ok()) co_return false;
  }
  auto synced = co_await k->FsyncDir(root);
  co_return synced.ok();
}

Task<bool> Workload::State::FindDirs(Life* life) {
  life->dirs = {life->kernel->root()};
  for (uint32_t i = 0; i < knobs.directories; ++i) {
    auto dir = co_await life->kernel->Find(life->dirs[Nested(i) ? 1 : 0], "d" + std::to_string(i));
    if (!dir.ok()) {
      if (dir.code() == Errc::kNotFound) Wrong("a directory that was made and synced is gone");
      co_return false;
    }
    life->dirs.push_back(*dir);
  }
  co_return true;
}

Task<void> Workload::State::Begin(Life* life) {
  while (!prepared && !Ends(*life)) {
    if (preparing) {
      co_await SleepFor(Milliseconds(2));
      continue;
    }
    preparing = life;
    bool good = co_await Prepare(life);
    preparing = nullptr;
    if (good) prepared = true;
    if (!good && life->mounted) co_await SleepFor(Milliseconds(5));
  }
  if (prepared && life->mounted) {
    bool found = co_await FindDirs(life);
    if (found) {
      life->ready = true;
      for (uint32_t i = 0; i < knobs.users; ++i) {
        ++life->users;
        life->kernel->executor().Spawn(RunUser(life, knobs.operations));
      }
    }
  }
  --life->users;
}

Task<void> Workload::State::RunUser(Life* life, uint32_t operations_max) {
  auto user = std::make_unique<User>(this, life);
  for (uint32_t i = 0; (operations_max == 0 || i < operations_max) && !Ends(*life); ++i) {
    if (random().Chance(knobs.kill_application)) life->kernel->KillSomebody();
    bool goes_on = co_await user->Step();
    ++operations;
    if (!goes_on) break;
    Duration think = random().Between(Microseconds(1), knobs.think_max);
    co_await SleepFor(think);
  }
  co_await user->CloseAll();
  --life->users;
}

// The supervisor: at the end of the lease the kernel's caches are emptied.
Task<void> Workload::State::Supervise(Life* life) {
  const LeasePage* lease = life->mount->lease();
  Incarnation incarnation = life->mount->owner().incarnation;
  bool swept = false;
  while (life->mounted && lease) {
    Instant now = life->kernel->executor().clock().Now();
    LeaseState state = CheckLease(*lease, incarnation, now);
    if (state != LeaseState::kValid && !swept) co_await life->kernel->Sweep();
    swept = state != LeaseState::kValid;
    Duration nap = Milliseconds(100);
    Instant deadline{lease->deadline_ns.load()};
    if (!swept && deadline > now) nap = std::min(Milliseconds(1000), deadline - now);
    co_await SleepFor(nap);
  }
}

// ... and when the mount has died.
Task<void> Workload::State::Bury(Life* life) {
  Duration delay = random().Between(Milliseconds(1), knobs.supervisor_delay_max);
  co_await SleepFor(delay);
  co_await life->kernel->Sweep();
  life->mounted = false;
  life->kernel->Disconnect();
}

void Workload::State::EndLife(Life* life) {
  if (life->over) return;
  life->over = true;
  uint64_t now = Tick();
  deaths.Died(life->number, now);
  names.Died(life->number, now);
  for (CounterFile& counter : counters) counter.Died(life->number);
}

// ---- workload.h -------------------------------------------------------------------------------------------------

Workload::Workload(sim::World* world, WorkloadKnobs knobs) : state_(std::make_unique<State>(world, knobs)) {}
Workload::~Workload() = default;

void Workload::Attach(NodeId node, fs::Mount* mount, sim::SimExecutor* executor) {
  State* s = state_.get();
  auto& kernel = s->kernels[node];
  if (kernel) s->world->Abandon(std::move(kernel));  // applications of the life before may still refer to it
  kernel = std::make_unique<KernelModel>(s->world, node, s->knobs.kernel);
  s->lives.push_back(std::make_unique<Life>());
  Life* life = s->lives.back().get();
  life->number = static_cast<int>(s->lives.size());
  life->node = node;
  life->kernel = kernel.get();
  life->mount = mount;
  life->owner = mount->owner();
  life->server = executor;
  s->current[node] = life;
  kernel->Connect(mount, executor);
  life->users = 1;
  kernel->executor().Spawn(s->Begin(life));
  kernel->executor().Spawn(s->Supervise(life));
}

Task<void> Workload::Detach(NodeId node) {
  State* s = state_.get();
  Life* life = s->current[node];
  if (!life) co_return;
  life->leaving = true;
  while (life->users > 0 || life->kernel->outstanding() > 0) co_await SleepFor(Milliseconds(1));
  life->dirs.clear();
  life->kernel->ForgetAll();
  co_await SleepFor(Milliseconds(1));  // FORGETs are on their way
  life->mounted = false;
  life->kernel->Disconnect();
  s->current[node] = nullptr;
}

void Workload::NodeDied(NodeId node) {
  State* s = state_.get();
  // Also lives whose withdrawal or burial is under way.
  for (auto& life : s->lives) {
    if (life->node != node || !life->machine) continue;
    life->machine = life->mounted = false;
    life->users = 0;
    if (s->preparing == life.get()) s->preparing = nullptr;
    life->kernel->executor().Crash();
    s->EndLife(life.get());
  }
  s->current[node] = nullptr;
}

void Workload::MountDied(NodeId node) {
  State* s = state_.get();
  Life* life = s->current[node];
  if (!life) return;
  s->EndLife(life);
  s->current[node] = nullptr;
  life->kernel->executor().Spawn(s->Bury(life));
}

Task<void> Workload::Withdraw(NodeId node, Error why) {
  State* s = state_.get();
  Life* life = s->current[node];
  if (!life) co_return;
  s->EndLife(life);
  s->current[node] = nullptr;
  fs::Mount* mount = life->mount;
  std::shared_ptr<fs::KernelRequests> requests = life->kernel->requests_shared();
  if (requests) requests->Refuse();
  co_await mount->Withdraw(why);
  co_await life->kernel->Sweep();
  life->mounted = false;
  life->kernel->Disconnect();
}

void Workload::Replayed(const MemberId& victim) {
  for (auto& life : state_->lives) {
    if (life->owner.node == victim.node && life->owner.nonce == victim.nonce) state_->EndLife(life.get());
  }
}

void Workload::Recovered(NodeId node) {
  State* s = state_.get();
  uint64_t now = s->Tick();
  for (auto& life : s->lives) {
    if (life->node == node && life->over) s->names.Recovered(life->number, now);
  }
}

void Workload::Quiesce() { state_->quiet = true; }

bool Workload::Idle() const {
  for (auto& life : state_->lives) {
    if (life->machine && life->users > 0) return false;
  }
  return true;
}

Task<void> Workload::FinalCheck(NodeId node) {
  Life* life = state_->current[node];
  if (!life || !state_->prepared) co_return;
  co_await state_->FinalCheck(life);
}

const std::string& Workload::Violation() const { return state_->violation; }

std::string Workload::Verify() {
  if (state_->violation.empty()) state_->Wrong(state_->names.Check());
  return state_->violation;
}

std::string Workload::Dump() const {
  std::string out = "workload: " + std::to_string(state_->operations) + " operations";
  for (auto& [what, count] : state_->counts) out += " " + what + "=" + std::to_string(count);
  out += "\n";
  for (auto& life : state_->lives) {
    out += "life " + std::to_string(life->number) + " on node " + std::to_string(life->node.v) + (life->over ? " died" : "") +
           (life->mounted ? "" : " unmounted") + ", " + std::to_string(life->users) + " users\n";
    if (!life->machine || life->users == 0) continue;
    out += life->kernel->Dump();
    if (life->over) continue;
    for (const fs::LockStatus& lock : life->mount->locks().Dump(40)) {
      if (lock.waiters == 0 && lock.guards == 0) continue;
      out += "  " + ToString(lock.resource) + ": " + lock.state + ", holds " + std::to_string(static_cast<int>(lock.held)) + ", " +
             std::to_string(lock.guards) + " guards, " + std::to_string(lock.waiters) + " waiters\n";
    }
  }
  return out;
}

uint64_t Workload::operations() const { return state_->operations; }

}  // namespace holdfast::whole
