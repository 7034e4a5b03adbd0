// NameModel: are the answers to operations on names explainable by one tree that all nodes share? Each operation must have
// taken effect at one moment between its start and its end (linearizability), found by search over the moments (Wing and
// Gong; just in time, as Lowe does). What a dead node had not made durable may be undone when it is recovered, latest first.
// The tree: a few directories that never move, in them names of files and of empty directories.
// Ticks order all events of a run. Threading: none.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/result.h"

namespace holdfast::whole {

inline constexpr uint64_t kNever = UINT64_MAX;

enum class NameVerb : uint8_t { kCreate, kOpenCreate, kMakeDir, kFind, kUnlink, kRemoveDir, kRename, kLink, kList };

struct NameOp {
  NameVerb verb = NameVerb::kFind;
  int dir = 0, dir2 = 0;
  std::string name, name2;
  uint32_t flags = 0;  // of a rename
  uint64_t node = 0;   // found, made, or linked
  Errc result = Errc::kOk;
  bool known = false;  // it returned, and the result is one that the model judges
  bool ignored = false;  // it surely had no effect and says nothing
  std::vector<std::pair<std::string, uint64_t>> list;  // name, inode number
  uint64_t start = 0, end = kNever;
  int life = 0;
  std::string ToString() const;
};

class NameModel {
 public:
  // Returns the operation's index.
  size_t Begin(NameOp op) {
    ops_.push_back(std::move(op));
    return ops_.size() - 1;
  }
  NameOp& op(size_t index) { return ops_[index]; }
  // A sync of that directory by that life, successful.
  void Synced(int dir, int life, uint64_t start, uint64_t end) { syncs_.push_back({dir, life, start, end}); }
  void Died(int life, uint64_t tick) { deaths_[life] = {tick, kNever}; }
  void Recovered(int life, uint64_t tick) {
    if (deaths_.contains(life)) deaths_[life].recovered = std::min(deaths_[life].recovered, tick);
  }
  size_t size() const { return ops_.size(); }

  // "" or the operation for which no explanation is left, with its neighbours.
  std::string Check() const;

 private:
  struct Sync {
    int dir, life;
    uint64_t start, end;
  };
  struct Death {
    uint64_t tick = 0, recovered = kNever;
  };
  friend class NameSearch;
  uint64_t SettledAt(const NameOp& op) const;
  std::vector<NameOp> ops_;
  std::vector<Sync> syncs_;
  std::map<int, Death> deaths_;
};

}  // namespace holdfast::whole
