// Models of file contents. CellFile: a file of cells, each written whole with a word of its own: every read must show, in
// each cell, a write that was current at some moment of the read (I6), or after a death an older one where that node had
// made nothing durable (I4). LogFile: records appended from all nodes. CounterFile: a number changed under a range lock.
// All take ticks (one counter for all events of a run) and lives (one number for each mount of a node).
// Violations are returned as text; "" is well. Threading: none.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "tests/whole/model/name_model.h"

namespace holdfast::whole {

inline constexpr uint64_t kCellBytes = 512;  // a sector: what no crash tears

// Which lives have died, and when.
class Deaths {
 public:
  void Died(int life, uint64_t tick) { at_.emplace(life, tick); }
  bool Dead(int life) const { return at_.contains(life); }
  uint64_t At(int life) const { return at_.contains(life) ? at_.at(life) : kNever; }

 private:
  std::map<int, uint64_t> at_;
};

class CellFile {
 public:
  CellFile(std::string name, uint64_t cells, const Deaths* deaths);
  uint64_t cells() const { return cells_; }

  // A write of cells [first, first + count); its bytes are Fill()ed. Ended with ok false: its outcome is unknown for ever.
  size_t BeginWrite(uint64_t first, uint64_t count, int life, uint64_t tick);
  Bytes Fill(size_t write) const;
  void EndWrite(size_t write, bool ok, uint64_t tick);
  // That write was O_SYNC.
  void SyncedWrite(size_t write) {
    if (!deaths_->Dead(writes_[write].life)) writes_[write].settled = true;
  }
  // Everything from `first` on becomes a hole.
  size_t BeginTruncate(uint64_t first, int life, uint64_t tick);
  size_t BeginPunch(uint64_t first, uint64_t count, int life, uint64_t tick);
  // bytes may be short (the file ends): the rest reads as zeros.
  std::string Read(uint64_t first, uint64_t count, const Bytes& bytes, int life, uint64_t start, uint64_t end);
  // A file of one cell may stand for an attribute: its value is the number of the write, 0 at first.
  std::string ReadNumber(uint64_t value, int life, uint64_t start, uint64_t end);
  // fsync by that life, begun at `start`, successful at `end`.
  void Synced(int life, uint64_t start, uint64_t end);

 private:
  struct Write {
    uint64_t first = 0, count = 0;
    bool hole = false;
    int life = 0;
    uint64_t start = 0, end = kNever;
    bool settled = false;  // durable, whoever dies
    bool Covers(uint64_t cell) const { return cell >= first && cell - first < count; }
  };
  uint64_t Word(size_t write, uint64_t cell) const { return (static_cast<uint64_t>(write) << 20 | (cell + 1)) << 8 | 0xc5; }
  bool MayBeLost(const Write& w) const { return !w.settled && deaths_->Dead(w.life); }
  std::string Explain(uint64_t cell, uint64_t word, uint64_t start, uint64_t end) const;
  bool Feasible(size_t write, uint64_t cell, uint64_t start, uint64_t end, std::string* why) const;
  void SettleOthers(int life, uint64_t start);
  std::string Describe(size_t write) const;

  std::string name_;
  uint64_t cells_;
  const Deaths* deaths_;
  std::vector<Write> writes_;  // [0]: the file as it was made, all zeros
};

inline constexpr uint64_t kRecordBytes = 448;  // records lie across page boundaries

class LogFile {
 public:
  LogFile(std::string name, const Deaths* deaths) : name_(std::move(name)), deaths_(deaths) {}
  // An append of `count` records.
  size_t BeginAppend(uint64_t count, int life, uint64_t tick);
  Bytes Fill(size_t append) const;
  void EndAppend(size_t append, bool ok, uint64_t tick);
  void SyncedAppend(size_t append) {
    if (!deaths_->Dead(appends_[append].life)) appends_[append].settled = true;
  }
  // The whole file was read.
  std::string Read(const Bytes& bytes, int life, uint64_t start, uint64_t end);
  void Synced(int life, uint64_t start, uint64_t end);
  std::string StatSize(uint64_t size, uint64_t start, uint64_t end) const;

 private:
  struct Append {
    uint64_t count = 0;
    int life = 0;
    uint64_t start = 0, end = kNever;
    bool settled = false;
  };
  bool UnderWay(uint64_t start, uint64_t end) const;
  bool MayBeLost(const Append& a) const { return !a.settled && deaths_->Dead(a.life); }
  void SettleOthers(int life, uint64_t start);
  std::string name_;
  const Deaths* deaths_;
  std::vector<Append> appends_;
};

class CounterFile {
 public:
  explicit CounterFile(std::string name) : name_(std::move(name)) {}
  // Under the lock: what was read.
  std::string Locked(int life);
  void Unlocking(int life) { std::erase_if(holders_, [&](int l) { return l == life; }); }
  std::string Read(uint64_t value, int life);
  void Writing(uint64_t value, int life);
  void Written(uint64_t value, int life);
  void Synced(int life) { fallback_.erase(life); }
  void Died(int life);

 private:
  std::string name_;
  std::vector<int> holders_;
  std::set<uint64_t> possible_{0};
  std::map<int, std::set<uint64_t>> fallback_;  // what a life's death may bring back
};

}  // namespace holdfast::whole
