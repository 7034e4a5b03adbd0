#include "tests/whole/model/name_model.h"

#include <algorithm>
#include <optional>
#include <tuple>

#include "fs/vfs_types.h"

namespace holdfast::whole {
namespace {

constexpr uint64_t kNumberMask = (uint64_t{1} << 48) - 1;
constexpr uint64_t kUnseen = uint64_t{1} << 63;  // | index of the operation that made it and never said its number
constexpr size_t kStepsMax = 150'000;  // of a whole search; beyond that nothing is said

const char* VerbName(NameVerb verb) {
  switch (verb) {
    case NameVerb::kCreate: return "create";
    case NameVerb::kOpenCreate: return "open-create";
    case NameVerb::kMakeDir: return "mkdir";
    case NameVerb::kFind: return "find";
    case NameVerb::kUnlink: return "unlink";
    case NameVerb::kRemoveDir: return "rmdir";
    case NameVerb::kRename: return "rename";
    case NameVerb::kLink: return "link";
    case NameVerb::kList: return "list";
  }
  return "?";
}

using Slot = std::pair<int, std::string>;
struct Thing {
  uint64_t node = 0;
  bool dir = false;
  auto operator<=>(const Thing&) const = default;
};
using Tree = std::map<Slot, Thing>;

}  // namespace

std::string NameOp::ToString() const {
  std::string out = "life " + std::to_string(life) + " [" + std::to_string(start) + ", " +
                    (end == kNever ? "-" : std::to_string(end)) + "] " + VerbName(verb) + " " + std::to_string(dir) + "/" + name;
  if (verb == NameVerb::kRename) out += " -> " + std::to_string(dir2) + "/" + name2 + " flags " + std::to_string(flags);
  out += " = " + (known ? std::string(ErrcName(result)) : ignored ? "ignored" : "unknown");
  if (node != 0) out += " node " + std::to_string(node & kNumberMask) + "." + std::to_string(node >> 48);
  for (auto& [n, number] : list) out += " " + n + ":" + std::to_string(number);
  return out;
}

// When is it sure to outlive its node: a sync of a directory that it touched, or that directory's lock somewhere else.
uint64_t NameModel::SettledAt(const NameOp& op) const {
  uint64_t at = kNever;
  auto touches = [&](int dir) { return dir == op.dir || (op.verb == NameVerb::kRename && dir == op.dir2); };
  for (const Sync& s : syncs_) {
    if (s.life == op.life && s.start > op.end && touches(s.dir)) at = std::min(at, s.end);
  }
  for (const NameOp& o : ops_) {
    if (o.life == op.life || !o.known || o.start <= op.end) continue;
    if (touches(o.dir) || (o.verb == NameVerb::kRename && touches(o.dir2))) at = std::min(at, o.end);
  }
  return at;
}

// One search. A configuration is a tree, the pending operations that have taken effect in it, and how to undo what a life
// that will die has not made durable.
class NameSearch {
 public:
  explicit NameSearch(const NameModel& model) : model_(model) {
    for (size_t i = 0; i < model.ops_.size(); ++i) {
      const NameOp& op = model.ops_[i];
      if (op.known && op.result == Errc::kOk && op.node != 0) seen_.insert(op.node);
      bool makes = op.verb == NameVerb::kCreate || op.verb == NameVerb::kOpenCreate || op.verb == NameVerb::kMakeDir;
      if (makes && op.known && op.result == Errc::kOk) made_.insert(op.node);
      for (auto& [name, number] : op.list) seen_numbers_.insert(number);
      settled_.push_back(model.deaths_.contains(op.life) ? model.SettledAt(op) : 0);
    }
    for (uint64_t node : made_) made_numbers_.insert(node & kNumberMask);
  }
  std::string Run();

 private:
  struct Undo {
    size_t op;
    std::optional<Thing> before;
    auto operator<=>(const Undo&) const = default;
  };
  struct Config {
    Tree tree;
    std::set<size_t> done;  // pending operations that have taken effect
    std::map<Slot, std::vector<Undo>> undo;
    auto operator<=>(const Config&) const = default;
  };
  using Configs = std::set<Config>;

  bool Doomed(const NameOp& op) const { return model_.deaths_.contains(op.life); }
  bool Same(uint64_t model_node, uint64_t seen) const {
    return model_node == seen || ((model_node & kUnseen) != 0 && !made_.contains(seen));
  }
  bool SameNumber(uint64_t model_node, uint64_t number) const {
    return (model_node & kUnseen) != 0 ? !made_numbers_.contains(number) : (model_node & kNumberMask) == number;
  }
  static bool Alive(const Tree& tree, uint64_t node) {
    return std::any_of(tree.begin(), tree.end(), [&](auto& e) { return e.second.node == node; });
  }
  void Put(Config& c, size_t op, const Slot& slot, std::optional<Thing> thing) const;
  // Does the operation, as it ended, fit the tree now? And does it change it?
  bool Observes(const Config& c, const NameOp& op) const;
  bool Changes(const NameOp& op) const;
  // Makes it take effect; false: with this result it could not.
  bool Apply(Config& c, size_t index) const;
  void Look(Config& c) const;  // pending operations that change nothing and fit take effect at once
  void Expand(const Config& from, size_t target, Configs& out, Configs& visited);
  void RollBack(const Config& from, int life, std::vector<Config>* out) const;
  void Settle(Config& c, uint64_t tick) const;

  uint64_t BeganAt(const NameOp& op) const;

  const NameModel& model_;
  std::set<uint64_t> seen_, made_, made_numbers_, seen_numbers_;
  std::vector<uint64_t> settled_;
  std::set<size_t> pending_;
  std::set<int> dying_;  // dead, and what it loses is not decided in every configuration: index = kRollBack + life
  mutable size_t steps_ = 0;
  static constexpr size_t kRollBack = size_t{1} << 40;
};

void NameSearch::Put(Config& c, size_t op, const Slot& slot, std::optional<Thing> thing) const {
  auto it = c.tree.find(slot);
  if (Doomed(model_.ops_[op])) {
    c.undo[slot].push_back({op, it == c.tree.end() ? std::nullopt : std::optional<Thing>(it->second)});
  } else {
    c.undo.erase(slot);  // a lock that came from elsewhere: what was done before is durable
  }
  if (thing) {
    c.tree[slot] = *thing;
  } else if (it != c.tree.end()) {
    c.tree.erase(it);
  }
}

bool NameSearch::Changes(const NameOp& op) const {
  if (op.ignored || op.verb == NameVerb::kFind || op.verb == NameVerb::kList) return false;
  return !op.known || op.result == Errc::kOk;
}

bool NameSearch::Observes(const Config& c, const NameOp& op) const {
  auto at = [&](int dir, const std::string& name) -> const Thing* {
    auto it = c.tree.find({dir, name});
    return it == c.tree.end() ? nullptr : &it->second;
  };
  const Thing* there = at(op.dir, op.name);
  switch (op.verb) {
    case NameVerb::kFind: return op.result == Errc::kOk ? there && Same(there->node, op.node) : !there;
    case NameVerb::kList: {
      size_t count = 0;
      for (auto& [slot, thing] : c.tree) {
        if (slot.first != op.dir) continue;
        ++count;
        const std::string& name = slot.second;  // clang 14 captures no structured binding
        auto it = std::find_if(op.list.begin(), op.list.end(), [&](auto& e) { return e.first == name; });
        if (it == op.list.end() || !SameNumber(thing.node, it->second)) return false;
      }
      return count == op.list.size();
    }
    case NameVerb::kUnlink:
      return op.result == Errc::kNotFound ? !there : op.result == Errc::kIsDirectory ? there && there->dir : false;
    case NameVerb::kRemoveDir:
      return op.result == Errc::kNotFound ? !there : op.result == Errc::kNotDirectory ? there && !there->dir : false;
    case NameVerb::kRename: {
      const Thing* target = at(op.dir2, op.name2);
      if (op.result == Errc::kExists) return target != nullptr;
      return !there || ((op.flags & fs::kRenameExchange) != 0 && !target);
    }
    case NameVerb::kOpenCreate: return op.result == Errc::kIsDirectory && there && there->dir;
    default: return op.result == Errc::kExists && there;
  }
}

bool NameSearch::Apply(Config& c, size_t index) const {
  const NameOp& op = model_.ops_[index];
  Slot slot{op.dir, op.name};
  auto it = c.tree.find(slot);
  uint64_t node = op.known ? op.node : kUnseen | index;
  switch (op.verb) {
    case NameVerb::kCreate:
    case NameVerb::kMakeDir:
      if (it != c.tree.end()) return false;
      Put(c, index, slot, Thing{node, op.verb == NameVerb::kMakeDir});
      return true;
    case NameVerb::kOpenCreate:
      if (it == c.tree.end()) {
        Put(c, index, slot, Thing{node, false});
        return true;
      }
      return !it->second.dir && op.known && Same(it->second.node, op.node);
    case NameVerb::kUnlink:
    case NameVerb::kRemoveDir:
      if (it == c.tree.end() || it->second.dir != (op.verb == NameVerb::kRemoveDir)) return false;
      Put(c, index, slot, std::nullopt);
      return true;
    case NameVerb::kLink:
      if (it != c.tree.end() || !Alive(c.tree, op.node)) return false;
      Put(c, index, slot, Thing{op.node, false});
      return true;
    case NameVerb::kRename: {
      if (it == c.tree.end()) return false;
      Thing moved = it->second;
      Slot to{op.dir2, op.name2};
      auto target = c.tree.find(to);
      if ((op.flags & fs::kRenameExchange) != 0) {
        if (target == c.tree.end()) return false;
        Thing other = target->second;
        Put(c, index, slot, other);
        Put(c, index, to, moved);
        return true;
      }
      if (target != c.tree.end()) {
        if ((op.flags & fs::kRenameNoReplace) != 0 || target->second.dir != moved.dir) return false;
        if (target->second.node == moved.node) return true;
      }
      Put(c, index, slot, std::nullopt);
      Put(c, index, to, moved);
      return true;
    }
    default: return false;
  }
}

void NameSearch::Look(Config& c) const {
  for (size_t index : pending_) {
    if (index >= kRollBack || c.done.contains(index)) continue;
    const NameOp& op = model_.ops_[index];
    if (op.known && !Changes(op) && Observes(c, op)) c.done.insert(index);
  }
}

// The latest of its operations that are not settled are lost, any number of them.
void NameSearch::RollBack(const Config& from, int life, std::vector<Config>* out) const {
  std::set<size_t> lossy;
  for (auto& [slot, undos] : from.undo) {
    for (const Undo& u : undos) {
      if (model_.ops_[u.op].life == life) lossy.insert(u.op);
    }
  }
  std::set<std::set<size_t>> seen;
  std::vector<std::set<size_t>> todo{lossy};  // what survives
  while (!todo.empty() && seen.size() < 1024 && ++steps_ <= kStepsMax) {
    std::set<size_t> survives = std::move(todo.back());
    todo.pop_back();
    if (!seen.insert(survives).second) continue;
    Config c = from;
    for (auto& [slot, undos] : c.undo) {
      while (!undos.empty() && lossy.contains(undos.back().op) && !survives.contains(undos.back().op)) {
        if (undos.back().before) {
          c.tree[slot] = *undos.back().before;
        } else {
          c.tree.erase(slot);
        }
        undos.pop_back();
      }
      std::erase_if(undos, [&](const Undo& u) { return lossy.contains(u.op); });
    }
    std::erase_if(c.undo, [](auto& e) { return e.second.empty(); });
    out->push_back(std::move(c));
    // Next: one more is lost, none of whose successors survives.
    for (size_t candidate : survives) {
      bool last = true;
      for (size_t other : survives) {
        if (other != candidate && model_.ops_[candidate].end < model_.ops_[other].start) last = false;
      }
      for (auto& [slot, undos] : from.undo) {
        bool behind = false;
        for (const Undo& u : undos) {
          if (behind && survives.contains(u.op) && u.op != candidate) last = false;
          if (u.op == candidate) behind = true;
        }
      }
      if (!last) continue;
      std::set<size_t> fewer = survives;
      fewer.erase(candidate);
      todo.push_back(std::move(fewer));
    }
  }
  if (!todo.empty()) steps_ = kStepsMax + 1;  // not all outcomes: nothing can be said
}

// All ways in which pending operations take effect until `target` has.
void NameSearch::Expand(const Config& from, size_t target, Configs& out, Configs& visited) {
  if (++steps_ > kStepsMax || !visited.insert(from).second) return;
  if (from.done.contains(target)) {
    out.insert(from);
    return;
  }
  for (size_t index : pending_) {
    if (from.done.contains(index)) continue;
    if (index >= kRollBack) {
      int life = static_cast<int>(index - kRollBack);
      std::vector<Config> outcomes;
      RollBack(from, life, &outcomes);
      for (Config& c : outcomes) {
        c.done.insert(index);
        // Nothing of that life happens any more.
        for (size_t other : pending_) {
          if (other < kRollBack && model_.ops_[other].life == life && model_.ops_[other].end == kNever) c.done.insert(other);
        }
        Look(c);
        Expand(c, target, out, visited);
      }
      continue;
    }
    if (!Changes(model_.ops_[index])) continue;
    Config c = from;
    if (!Apply(c, index)) continue;
    c.done.insert(index);
    Look(c);
    Expand(c, target, out, visited);
  }
}

// A name in the kernel's cache is changed when the reply to the call that changes it is used; until then a walk on that node
// may answer as of before that call, even though other nodes see the change already.
uint64_t NameSearch::BeganAt(const NameOp& op) const {
  if (Changes(op) || op.verb == NameVerb::kList) return op.start;
  uint64_t start = op.start;
  for (const NameOp& o : model_.ops_) {
    if (o.life != op.life || o.start > op.start || o.end < op.start || !Changes(o)) continue;
    bool same = (o.dir == op.dir && o.name == op.name) ||
                (o.verb == NameVerb::kRename && o.dir2 == op.dir && o.name2 == op.name);
    if (same) start = std::min(start, o.start);
  }
  return start;
}

void NameSearch::Settle(Config& c, uint64_t tick) const {
  for (auto& [slot, undos] : c.undo) {
    std::erase_if(undos, [&](const Undo& u) { return settled_[u.op] <= tick; });
  }
  std::erase_if(c.undo, [](auto& e) { return e.second.empty(); });
}

std::string NameSearch::Run() {
  struct Event {
    uint64_t tick;
    int kind;  // 0 start, 1 end, 2 death, 3 recovered
    size_t index;
    bool operator<(const Event& o) const { return std::tie(tick, kind, index) < std::tie(o.tick, o.kind, o.index); }
  };
  std::vector<Event> events;
  for (size_t i = 0; i < model_.ops_.size(); ++i) {
    const NameOp& op = model_.ops_[i];
    if (op.ignored || (!op.known && !Changes(op))) continue;
    events.push_back({BeganAt(op), 0, i});
    if (op.known) events.push_back({op.end, 1, i});
  }
  for (auto& [life, death] : model_.deaths_) {
    if (death.recovered == kNever) continue;
    events.push_back({death.tick, 2, kRollBack + static_cast<size_t>(life)});
    events.push_back({death.recovered, 3, kRollBack + static_cast<size_t>(life)});
  }
  std::sort(events.begin(), events.end());
  Configs configs{Config{}};
  std::vector<size_t> recent;
  for (const Event& e : events) {
    if (e.kind == 0 || e.kind == 2) {
      pending_.insert(e.index);
      if (e.kind == 2) continue;
      Configs looked;
      for (Config c : configs) {
        Look(c);
        looked.insert(std::move(c));
      }
      configs = std::move(looked);
      continue;
    }
    Configs next, visited;
    for (const Config& c : configs) Expand(c, e.index, next, visited);
    if (steps_ > kStepsMax) return "";  // too wide to judge
    if (next.empty()) {
      std::string out = "names: no explanation for " + (e.kind == 1 ? model_.ops_[e.index].ToString() : "a recovery");
      for (size_t i = 0; i < model_.ops_.size(); ++i) {
        const NameOp& op = model_.ops_[i];
        bool near = op.start + 120 > e.tick && op.start <= e.tick;
        if (near && !op.ignored) out += "\n    " + op.ToString();
      }
      out += "\n  trees that were possible before:";
      int shown = 0;
      for (const Config& c : configs) {
        if (++shown > 4) break;
        out += "\n    ";
        for (auto& [slot, thing] : c.tree) {
          out += " " + std::to_string(slot.first) + "/" + slot.second + "=" + std::to_string(thing.node & kNumberMask) +
                 (thing.dir ? "/" : "");
        }
      }
      return out;
    }
    pending_.erase(e.index);
    if (e.kind == 3) {
      int life = static_cast<int>(e.index - kRollBack);
      std::erase_if(pending_, [&](size_t i) {
        return i < kRollBack && model_.ops_[i].life == life && model_.ops_[i].end == kNever;
      });
    }
    configs.clear();
    for (Config c : next) {
      std::erase_if(c.done, [&](size_t i) { return !pending_.contains(i); });
      Settle(c, e.tick);
      configs.insert(std::move(c));
    }
  }
  return "";
}

std::string NameModel::Check() const {
  NameSearch search(*this);
  return search.Run();
}

}  // namespace holdfast::whole
