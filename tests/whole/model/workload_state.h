// Inside of the workload: what its applications share, and one application. workload.h is what others see.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tests/whole/model/data_model.h"
#include "tests/whole/model/kernel_model.h"
#include "tests/whole/model/name_model.h"
#include "tests/whole/model/workload.h"

namespace holdfast::whole {

// One mount of one node, from Attach to its end, and the kernel above it.
struct Life {
  int number = 0;
  NodeId node;
  KernelModel* kernel = nullptr;
  fs::Mount* mount = nullptr;
  fs::OwnerStamp owner;
  sim::SimExecutor* server = nullptr;
  bool mounted = true;       // false: applications see that the connection ends
  bool machine = true;       // false: they do not run any more
  bool leaving = false;      // they are asked to end
  bool over = false;         // it died (not: was unmounted)
  bool ready = false;        // directories found
  size_t users = 0;          // that still run
  std::vector<NodePtr> dirs; // of the names; [0] is the root, where the model's own files live
};

struct Workload::State {
  State(sim::World* w, WorkloadKnobs k);
  sim::World* world;
  WorkloadKnobs knobs;
  uint64_t tick = 0;
  Deaths deaths;
  NameModel names;
  std::deque<CellFile> cells;
  std::deque<LogFile> logs;
  std::deque<CounterFile> counters;
  std::unique_ptr<CellFile> owner;  // of the file "owned": its uid is the number of the call that set it
  std::unique_ptr<CellFile> xattr;  // of the same file: its value begins with that number
  std::deque<std::unique_ptr<Life>> lives;
  std::map<NodeId, Life*> current;
  std::map<NodeId, std::unique_ptr<KernelModel>> kernels;
  std::string violation;
  bool quiet = false;
  bool prepared = false;
  Life* preparing = nullptr;
  uint64_t operations = 0;
  uint64_t next_orphan = 1;
  std::map<std::string, uint64_t> counts;  // what was done, by kind and outcome

  sim::SimRandom& random() { return world->random(); }
  uint64_t Tick();  // the next tick, in the log too
  void Wrong(const std::string& what);
  void Count(const std::string& what) { ++counts[what]; }
  bool Nested(uint32_t dir) const { return knobs.nested && dir > 0 && dir + 1 == knobs.directories; }
  bool Ends(const Life& life) const { return quiet || life.leaving || !life.mounted; }
  void EndLife(Life* life);

  // Coroutines of a life.
  Task<void> Begin(Life* life);
  Task<bool> Prepare(Life* life);
  Task<bool> FindDirs(Life* life);
  Task<void> Supervise(Life* life);
  Task<void> Bury(Life* life);
  Task<void> RunUser(Life* life, uint32_t operations);
  Task<void> FinalCheck(Life* life);
  Task<void> FinalNames(Life* life);
};

// An application: a loop over one kind of work after the other, with files that it keeps open.
class User {
 public:
  User(Workload::State* state, Life* life) : s_(state), life_(life), kernel_(life->kernel) {}
  // False: its mount is gone.
  Task<bool> Step();
  Task<void> CloseAll();

 private:
  friend struct Workload::State;
  Task<bool> Names();
  Task<bool> SyncDir();
  Task<bool> Data(size_t file);
  Task<bool> Map(size_t file);
  Task<bool> Count(size_t counter);
  Task<bool> Log(size_t log);
  Task<bool> Orphan();
  Task<bool> Attributes();
  Task<bool> Xattr();
  Task<bool> Cut(size_t file, FilePtr open);
  Task<bool> ListInPages(const NameOp* op, std::vector<Listed> list, uint64_t end);
  // The file under that key, opened with these flags now or before. nullptr: could not.
  Task<Result<FilePtr>> FileOf(std::string name, int flags);
  Task<void> MaybeClose(std::string name, int flags);
  Task<bool> ReadCells(size_t file, FilePtr open, bool mapped);
  Task<bool> CallName(size_t op);
  // Did the call end with something that says how it ended? Else nothing is known; lost: the connection is gone.
  bool Lost(Errc code) const { return code == Errc::kDisconnected; }
  uint64_t Below(uint64_t n) { return s_->random().Below(n); }

  Workload::State* s_;
  Life* life_;
  KernelModel* kernel_;
  std::map<std::pair<std::string, int>, FilePtr> files_;
};

std::string CellName(size_t file);
std::string LogName(size_t log);
std::string CounterName(size_t counter);

}  // namespace holdfast::whole
