#include "tests/whole/model/data_model.h"

#include <algorithm>
#include <cstring>

namespace holdfast::whole {
namespace {

uint64_t WordAt(const Bytes& bytes, uint64_t offset) {
  uint64_t word = 0;
  if (offset < bytes.size()) std::memcpy(&word, bytes.data() + offset, std::min<size_t>(8, bytes.size() - offset));
  return word;
}

bool ZerosFrom(const Bytes& bytes, uint64_t offset) {
  return std::all_of(bytes.begin() + static_cast<ptrdiff_t>(offset), bytes.end(), [](std::byte b) { return b == std::byte{0}; });
}

// The word at that byte of a record.
uint64_t Expected(uint64_t first, uint64_t record, uint64_t byte) {
  return byte == 0 ? first : byte == 8 ? record : first ^ record ^ (byte / 8 << 56);
}

std::string When(uint64_t start, uint64_t end) {
  return "[" + std::to_string(start) + ", " + (end == kNever ? "-" : std::to_string(end)) + "]";
}

}  // namespace

// ---- cells ------------------------------------------------------------------------------------------------------

CellFile::CellFile(std::string name, uint64_t cells, const Deaths* deaths)
    : name_(std::move(name)), cells_(cells), deaths_(deaths) {
  writes_.push_back({0, kNever, true, -1, 0, 0, true});
}

size_t CellFile::BeginWrite(uint64_t first, uint64_t count, int life, uint64_t tick) {
  writes_.push_back({first, count, false, life, tick, kNever, false});
  return writes_.size() - 1;
}

size_t CellFile::BeginTruncate(uint64_t first, int life, uint64_t tick) {
  writes_.push_back({first, kNever, true, life, tick, kNever, false});
  return writes_.size() - 1;
}

size_t CellFile::BeginPunch(uint64_t first, uint64_t count, int life, uint64_t tick) {
  writes_.push_back({first, count, true, life, tick, kNever, false});
  return writes_.size() - 1;
}

Bytes CellFile::Fill(size_t write) const {
  const Write& w = writes_[write];
  Bytes out(w.count * kCellBytes);
  for (uint64_t i = 0; i < out.size(); i += 8) {
    uint64_t word = Word(write, w.first + i / kCellBytes);
    std::memcpy(out.data() + i, &word, 8);
  }
  return out;
}

void CellFile::EndWrite(size_t write, bool ok, uint64_t tick) {
  if (!ok) return;
  writes_[write].end = tick;
  SettleOthers(writes_[write].life, writes_[write].start);
}

// The lock came from elsewhere: all that others had finished before is durable.
void CellFile::SettleOthers(int life, uint64_t start) {
  for (Write& w : writes_) {
    if (w.life != life && w.end < start && !deaths_->Dead(w.life)) w.settled = true;
  }
}

void CellFile::Synced(int life, uint64_t start, uint64_t end) {
  (void)end;
  for (Write& w : writes_) {
    if (w.end < start && !deaths_->Dead(w.life)) w.settled = true;
  }
  SettleOthers(life, start);
}

std::string CellFile::Describe(size_t write) const {
  const Write& w = writes_[write];
  return (w.hole ? "hole " : "write ") + std::to_string(write) + " of life " + std::to_string(w.life) + " " +
         When(w.start, w.end) + (w.settled ? " durable" : MayBeLost(w) ? " may be lost" : "");
}

bool CellFile::Feasible(size_t write, uint64_t cell, uint64_t start, uint64_t end, std::string* why) const {
  const Write& w = writes_[write];
  if (w.start > end) {
    *why = "it was not written yet";
    return false;
  }
  if (w.end >= start) return true;
  for (size_t i = 0; i < writes_.size(); ++i) {
    const Write& o = writes_[i];
    if (!o.Covers(cell) || o.start <= w.end || o.end >= start || MayBeLost(o)) continue;
    *why = "overwritten by " + Describe(i);
    return false;
  }
  return true;
}

std::string CellFile::Explain(uint64_t cell, uint64_t word, uint64_t start, uint64_t end) const {
  std::string why;
  if (word == 0) {
    std::string last;
    for (size_t i = 0; i < writes_.size(); ++i) {
      if (writes_[i].hole && writes_[i].Covers(cell) && Feasible(i, cell, start, end, &last)) return "";
    }
    return "zeros: " + last;
  }
  uint64_t write = word >> 28;
  bool ours = (word & 0xff) == 0xc5 && write < writes_.size() && !writes_[write].hole && writes_[write].Covers(cell) &&
              word == Word(write, cell);
  if (!ours) {
    char text[64];
    std::snprintf(text, sizeof(text), "garbage %016llx", static_cast<unsigned long long>(word));
    return text;
  }
  if (Feasible(write, cell, start, end, &why)) return "";
  return "the value of " + Describe(write) + ": " + why;
}

std::string CellFile::Read(uint64_t first, uint64_t count, const Bytes& bytes, int life, uint64_t start, uint64_t end) {
  for (uint64_t cell = first; cell < first + count; ++cell) {
    uint64_t base = (cell - first) * kCellBytes;
    uint64_t word = WordAt(bytes, base);
    for (uint64_t i = 8; i < kCellBytes; i += 8) {
      if (WordAt(bytes, base + i) == word) continue;
      return name_ + " cell " + std::to_string(cell) + ": torn, at byte " + std::to_string(i);
    }
    std::string wrong = Explain(cell, word, start, end);
    if (!wrong.empty()) {
      return name_ + " cell " + std::to_string(cell) + " read by life " + std::to_string(life) + " " + When(start, end) +
             " shows " + wrong;
    }
  }
  SettleOthers(life, start);
  return "";
}

std::string CellFile::ReadNumber(uint64_t value, int life, uint64_t start, uint64_t end) {
  if (value >= writes_.size()) return name_ + ": " + std::to_string(value) + " was never set";
  std::string wrong = Explain(0, value == 0 ? 0 : Word(value, 0), start, end);
  if (wrong.empty()) {
    SettleOthers(life, start);
    return "";
  }
  return name_ + " read by life " + std::to_string(life) + " " + When(start, end) + " shows " + wrong;
}

// ---- logs -------------------------------------------------------------------------------------------------------

size_t LogFile::BeginAppend(uint64_t count, int life, uint64_t tick) {
  appends_.push_back({count, life, tick, kNever, false});
  return appends_.size() - 1;
}

// Word 0: magic and append; 1: record of the append; the others repeat their xor.
Bytes LogFile::Fill(size_t append) const {
  Bytes out(appends_[append].count * kRecordBytes);
  for (uint64_t record = 0; record < appends_[append].count; ++record) {
    uint64_t words[kRecordBytes / 8];
    words[0] = 0x10'6000'0000'0000 | append;
    words[1] = record;
    for (uint64_t i = 2; i < kRecordBytes / 8; ++i) words[i] = words[0] ^ words[1] ^ (i << 56);
    std::memcpy(out.data() + record * kRecordBytes, words, kRecordBytes);
  }
  return out;
}

void LogFile::EndAppend(size_t append, bool ok, uint64_t tick) {
  if (!ok) return;
  appends_[append].end = tick;
  SettleOthers(appends_[append].life, appends_[append].start);
}

void LogFile::SettleOthers(int life, uint64_t start) {
  for (Append& a : appends_) {
    if (a.life != life && a.end < start && !deaths_->Dead(a.life)) a.settled = true;
  }
}

void LogFile::Synced(int life, uint64_t start, uint64_t) {
  for (Append& a : appends_) {
    if (a.end < start && !deaths_->Dead(a.life)) a.settled = true;
  }
  SettleOthers(life, start);
}

std::string LogFile::StatSize(uint64_t size, uint64_t start, uint64_t end) const {
  uint64_t least = 0, most = 0;
  for (const Append& a : appends_) {
    uint64_t bytes = a.count * kRecordBytes;
    if (a.start < end) most += bytes;
    if (a.end < start && !MayBeLost(a)) least += bytes;
  }
  if (size >= least && size <= most && size % kRecordBytes == 0) return "";
  return name_ + ": size " + std::to_string(size) + " at " + When(start, end) + ", must be " + std::to_string(least) + " to " +
         std::to_string(most);
}

bool LogFile::UnderWay(uint64_t start, uint64_t end) const {
  return std::any_of(appends_.begin(), appends_.end(), [&](const Append& a) { return a.start < end && a.end >= start; });
}

std::string LogFile::Read(const Bytes& bytes, int life, uint64_t start, uint64_t end) {
  auto wrong = [&](const std::string& what) {
    return name_ + " read by life " + std::to_string(life) + " " + When(start, end) + ": " + what;
  };
  if (bytes.size() % kRecordBytes != 0 && !UnderWay(start, end)) {
    return wrong("torn at the end, " + std::to_string(bytes.size()) + " bytes");
  }
  std::vector<uint64_t> order;
  std::set<uint64_t> seen;
  for (uint64_t at = 0; at < bytes.size();) {
    uint64_t word = WordAt(bytes, at);
    uint64_t append = word & 0xffff'ffff;
    // A page read before an append, under a size learned after it, ends in zeros: only while that append is under way.
    if (word == 0 && UnderWay(start, end) && ZerosFrom(bytes, at)) break;
    if (word >> 32 != 0x10'6000 || append >= appends_.size()) return wrong("no record at byte " + std::to_string(at));
    const Append& a = appends_[append];
    for (uint64_t record = 0; record < a.count; ++record, at += kRecordBytes) {
      // The end of one that is under way may be missing, as on any filesystem; or zeros, see above.
      uint64_t there = at;
      while (there < std::min<uint64_t>(at + kRecordBytes, bytes.size()) && WordAt(bytes, there) == Expected(word, record, there - at)) there += 8;
      if (there < at + kRecordBytes && a.end >= start && ZerosFrom(bytes, std::min<uint64_t>(there, bytes.size()))) {
        at = bytes.size();
        break;
      }
      if (there < at + kRecordBytes) return wrong("append " + std::to_string(append) + " is torn at byte " + std::to_string(at));
    }
    if (a.start > end) return wrong("append " + std::to_string(append) + " from the future");
    if (!seen.insert(append).second) return wrong("append " + std::to_string(append) + " twice");
    order.push_back(append);
  }
  for (size_t i = 0; i < appends_.size(); ++i) {
    const Append& a = appends_[i];
    if (a.end < start && !seen.contains(i) && !MayBeLost(a)) {
      return wrong("append " + std::to_string(i) + " of life " + std::to_string(a.life) + " " + When(a.start, a.end) + " is lost" +
                   (a.settled ? " though durable" : ""));
    }
  }
  for (size_t i = 1; i < order.size(); ++i) {
    if (appends_[order[i]].end < appends_[order[i - 1]].start) return wrong("append " + std::to_string(order[i]) + " out of order");
  }
  SettleOthers(life, start);
  return "";
}

// ---- counters ---------------------------------------------------------------------------------------------------

std::string CounterFile::Locked(int life) {
  holders_.push_back(life);
  if (holders_.size() == 1) return "";
  return name_ + ": lives " + std::to_string(holders_[0]) + " and " + std::to_string(holders_[1]) + " hold the range lock at once";
}

std::string CounterFile::Read(uint64_t value, int life) {
  if (!possible_.contains(value)) {
    std::string all;
    for (uint64_t v : possible_) all += " " + std::to_string(v);
    return name_ + ": life " + std::to_string(life) + " reads " + std::to_string(value) + " under the lock, must be one of" + all;
  }
  possible_ = {value};
  // Whoever reads it elsewhere has the lock from its writer: durable.
  std::erase_if(fallback_, [&](auto& f) { return f.first != life; });
  return "";
}

void CounterFile::Writing(uint64_t value, int life) {
  fallback_[life].insert(possible_.begin(), possible_.end());
  possible_.insert(value);
}

void CounterFile::Written(uint64_t value, int) { possible_ = {value}; }

void CounterFile::Died(int life) {
  Unlocking(life);
  auto it = fallback_.find(life);
  if (it == fallback_.end()) return;
  possible_.insert(it->second.begin(), it->second.end());
  fallback_.erase(it);
}

}  // namespace holdfast::whole
