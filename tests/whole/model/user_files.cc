// An application's work on files: cells, mappings, logs, counters, unlinked files; and the reading at the end.
#include <cstring>
#include <fcntl.h>

#include "tests/whole/model/workload_state.h"

namespace holdfast::whole {

Task<bool> User::Step() {
  const WorkloadKnobs& k = s_->knobs;
  uint64_t total = k.weigh_names + k.weigh_data + k.weigh_mmap + k.weigh_counter + k.weigh_log + k.weigh_orphan +
                   k.weigh_attributes + k.weigh_xattr;
  uint64_t pick = Below(total);
  auto among = [&pick](uint32_t weight) {
    if (pick < weight) return true;
    pick -= weight;
    return false;
  };
  bool goes_on = true;
  if (among(k.weigh_names)) {
    goes_on = co_await Names();
  } else if (among(k.weigh_data)) {
    goes_on = co_await Data(Below(s_->cells.size()));
  } else if (among(k.weigh_mmap)) {
    goes_on = co_await Map(s_->cells.size() - 1);
  } else if (among(k.weigh_counter)) {
    goes_on = co_await Count(Below(s_->counters.size()));
  } else if (among(k.weigh_log)) {
    goes_on = co_await Log(Below(s_->logs.size()));
  } else if (among(k.weigh_orphan)) {
    goes_on = co_await Orphan();
  } else if (among(k.weigh_attributes)) {
    goes_on = co_await Attributes();
  } else {
    goes_on = co_await Xattr();
  }
  co_return goes_on;
}

Task<Result<FilePtr>> User::FileOf(std::string name, int flags) {
  auto it = files_.find({name, flags});
  if (it != files_.end()) co_return it->second;
  auto file = co_await kernel_->Open(life_->dirs[0], name, flags);
  if (file.ok()) files_[{name, flags}] = *file;
  if (file.code() == Errc::kNotFound) s_->Wrong("open of " + name + ": no such file");
  co_return file;
}

Task<void> User::MaybeClose(std::string name, int flags) {
  if (Below(6) != 0) co_return;
  auto it = files_.find({name, flags});
  if (it == files_.end()) co_return;
  FilePtr file = it->second;
  files_.erase(it);
  auto closed = co_await kernel_->Close(file);
  (void)closed.ok();
}

Task<void> User::CloseAll() {
  while (!files_.empty()) {
    FilePtr file = files_.begin()->second;
    files_.erase(files_.begin());
    auto closed = co_await kernel_->Close(file);
    (void)closed.ok();
  }
}

// ---- cells ------------------------------------------------------------------------------------------------------

Task<bool> User::ReadCells(size_t file, FilePtr open, bool mapped) {
  CellFile& model = s_->cells[file];
  uint64_t first = Below(model.cells());
  uint64_t count = 1 + Below(mapped ? 1 : std::min<uint64_t>(model.cells() - first, 10));
  uint64_t start = s_->Tick();
  Result<Bytes> read = Errc::kIo;
  if (mapped) {
    auto loaded = co_await kernel_->Load(open, first * kCellBytes, kCellBytes);
    read = std::move(loaded);
  } else {
    auto got = co_await kernel_->Read(open, first * kCellBytes, count * kCellBytes);
    read = std::move(got);
  }
  s_->Count((mapped ? "load:" : "read:") + std::string(ErrcName(read.code())));
  if (read.ok()) s_->Wrong(model.Read(first, count, *read, life_->number, start, s_->Tick()));
  co_return !Lost(read.code());
}

Task<bool> User::Data(size_t file) {
  static constexpr int kFlags[] = {O_RDONLY, O_RDWR, O_RDWR, O_RDWR | O_DIRECT, O_RDONLY | O_DIRECT, O_RDWR | O_SYNC};
  int flags = kFlags[Below(std::size(kFlags))];
  std::string name = CellName(file);
  CellFile& model = s_->cells[file];
  bool writable = (flags & O_ACCMODE) != O_RDONLY;
  bool resizable = file + 1 < s_->cells.size();  // the last one is mapped: a store past its end would be SIGBUS
  auto open = co_await FileOf(name, flags);
  if (!open.ok()) co_return !Lost(open.code());
  uint64_t verb = writable ? Below(10) : 9;
  // A store and a write through a direct handle in one page at one time on one node: one may be lost (as with O_DIRECT).
  // So, of the mapped file, a node either stores or writes.
  if (verb < 4 && !resizable && life_->number % 2 == 0) verb = 9;
  Errc code = Errc::kOk;
  if (verb < 4) {
    // Direct writes go by whole blocks.
    bool direct = (flags & O_DIRECT) != 0;
    uint64_t unit = direct ? kPageBytes / kCellBytes : 1;
    uint64_t first = Below(model.cells() / unit) * unit;
    uint64_t count = unit * (1 + Below(std::min<uint64_t>((model.cells() - first) / unit, direct ? 2 : 10)));
    size_t write = model.BeginWrite(first, count, life_->number, s_->Tick());
    auto written = co_await kernel_->Write(*open, first * kCellBytes, model.Fill(write));
    code = written.code();
    bool whole = written.ok() && *written == count * kCellBytes;
    uint64_t end = s_->Tick();
    model.EndWrite(write, whole, end);
    if (whole && (flags & O_SYNC) != 0) model.SyncedWrite(write);
    s_->Count("write:" + std::string(ErrcName(code)));
  } else if (verb == 4) {
    uint64_t start = s_->Tick();
    auto synced = co_await kernel_->Fsync(*open);
    code = synced.code();
    if (synced.ok()) model.Synced(life_->number, start, s_->Tick());
    s_->Count("fsync:" + std::string(ErrcName(code)));
  } else if (verb == 6 || (verb == 5 && Below(2) == 0)) {
    bool goes_on = co_await Cut(file, *open);
    if (!goes_on) co_return false;
  } else if (verb == 5 && resizable) {
    uint64_t first = Below(model.cells() + 1);
    size_t hole = model.BeginTruncate(first, life_->number, s_->Tick());
    auto cut = co_await kernel_->Truncate((*open)->node, first * kCellBytes);
    code = cut.code();
    model.EndWrite(hole, cut.ok(), s_->Tick());
    s_->Count("truncate:" + std::string(ErrcName(code)));
  } else {
    bool goes_on = co_await ReadCells(file, *open, false);
    if (!goes_on) co_return false;
  }
  co_await MaybeClose(name, flags);
  co_return !Lost(code);
}

// Cells become zeroes: a hole is punched or a range zeroed, O_TRUNC. The mapped file keeps its size.
// Whole pages alone: of a part of a page the kernel zeroes its own copy when the reply is used, whoever has written meanwhile
// (fs/README.md, "Known limits").
Task<bool> User::Cut(size_t file, FilePtr open) {
  CellFile& model = s_->cells[file];
  bool resizable = file + 1 < s_->cells.size();
  if (!resizable && life_->number % 2 == 0) co_return true;  // this node stores into it
  if (resizable && Below(3) == 0) {
    size_t hole = model.BeginTruncate(0, life_->number, s_->Tick());
    auto again = co_await kernel_->OpenNode(open->node, O_RDWR | O_TRUNC);
    model.EndWrite(hole, again.ok(), s_->Tick());
    s_->Count("O_TRUNC:" + std::string(ErrcName(again.code())));
    if (!again.ok()) co_return !Lost(again.code());
    auto closed = co_await kernel_->Close(*again);
    co_return !Lost(closed.code());
  }
  uint64_t pages = model.cells() * kCellBytes / kPageBytes, unit = kPageBytes / kCellBytes;
  uint64_t first = Below(pages), count = 1 + Below(pages - first);
  uint32_t flags = Below(2) ? uint32_t{fs::kFallocPunchHole} | fs::kFallocKeepSize : uint32_t{fs::kFallocZeroRange} | fs::kFallocKeepSize;
  size_t hole = model.BeginPunch(first * unit, count * unit, life_->number, s_->Tick());
  auto punched = co_await kernel_->Fallocate(open, first * kPageBytes, count * kPageBytes, flags);
  model.EndWrite(hole, punched.ok(), s_->Tick());
  s_->Count("punch:" + std::string(ErrcName(punched.code())));
  co_return !Lost(punched.code());
}

Task<bool> User::Map(size_t file) {
  bool store = Below(2) == 0 && life_->number % 2 == 0;
  int flags = store ? O_RDWR : O_RDONLY;
  CellFile& model = s_->cells[file];
  auto open = co_await FileOf(CellName(file), flags);
  if (!open.ok()) co_return !Lost(open.code());
  if (!store) {
    bool goes_on = co_await ReadCells(file, *open, true);
    co_return goes_on;
  }
  uint64_t cell = Below(model.cells());
  size_t write = model.BeginWrite(cell, 1, life_->number, s_->Tick());
  auto stored = co_await kernel_->Store(*open, cell * kCellBytes, model.Fill(write));
  model.EndWrite(write, stored.ok(), s_->Tick());
  s_->Count("store:" + std::string(ErrcName(stored.code())));
  if (!stored.ok()) co_return !Lost(stored.code());
  if (Below(3) == 0) {
    uint64_t start = s_->Tick();
    auto synced = co_await kernel_->Fsync(*open);  // msync
    if (synced.ok()) model.Synced(life_->number, start, s_->Tick());
    if (!synced.ok()) co_return !Lost(synced.code());
  }
  co_await MaybeClose(CellName(file), flags);
  co_return true;
}

// ---- counters, logs ---------------------------------------------------------------------------------------------

Task<bool> User::Count(size_t counter) {
  static constexpr int kFlags[] = {O_RDWR, O_RDWR | O_SYNC};
  int flags = kFlags[Below(2)];
  CounterFile& model = s_->counters[counter];
  auto open = co_await FileOf(CounterName(counter), flags);
  if (!open.ok()) co_return !Lost(open.code());
  dlm::RangeSpace space = s_->knobs.flocks ? dlm::RangeSpace::kFlock : dlm::RangeSpace::kFcntl;
  uint64_t end = s_->knobs.flocks ? UINT64_MAX : 7;
  auto locked = co_await kernel_->LockRange(*open, 0, end, dlm::RangeType::kExclusive, space);
  s_->Count("lock:" + std::string(ErrcName(locked.code())));
  if (!locked.ok()) co_return !Lost(locked.code());
  if (life_->over) co_return false;  // granted, but this mount has died meanwhile: nobody may rely on it
  s_->Wrong(model.Locked(life_->number));
  Errc code = Errc::kOk;
  auto read = co_await kernel_->Read(*open, 0, 8);
  code = read.code();
  if (read.ok() && !life_->over) {
    uint64_t value = 0;
    if (!read->empty()) std::memcpy(&value, read->data(), std::min<size_t>(8, read->size()));
    s_->Wrong(model.Read(value, life_->number));
    ++value;
    Bytes bytes(8);
    std::memcpy(bytes.data(), &value, 8);
    model.Writing(value, life_->number);
    auto written = co_await kernel_->Write(*open, 0, std::move(bytes));
    code = written.code();
    if (written.ok() && !life_->over) model.Written(value, life_->number);
    if (written.ok() && (flags & O_SYNC) != 0 && !life_->over) model.Synced(life_->number);
  }
  if (life_->over) co_return false;
  model.Unlocking(life_->number);
  if (Below(4) == 0) {  // the last close unlocks too
    files_.erase({CounterName(counter), flags});
    auto closed = co_await kernel_->Close(*open);
    co_return !Lost(code) && !Lost(closed.code());
  }
  auto unlocked = co_await kernel_->LockRange(*open, 0, end, dlm::RangeType::kUnlock, space);
  if (!unlocked.ok()) co_return false;
  co_await MaybeClose(CounterName(counter), flags);
  co_return !Lost(code);
}

Task<bool> User::Log(size_t log) {
  LogFile& model = s_->logs[log];
  std::string name = LogName(log);
  uint64_t verb = Below(8);
  if (verb < 4) {
    int flags = O_WRONLY | O_APPEND | (verb == 0 ? O_SYNC : 0);
    auto open = co_await FileOf(name, flags);
    if (!open.ok()) co_return !Lost(open.code());
    uint64_t count = 1 + Below(3);
    uint64_t start = s_->Tick();
    size_t append = model.BeginAppend(count, life_->number, start);
    auto written = co_await kernel_->Write(*open, 0, model.Fill(append));
    bool whole = written.ok() && *written == count * kRecordBytes;
    model.EndAppend(append, whole, s_->Tick());
    if (whole && verb == 0) model.SyncedAppend(append);
    s_->Count("append:" + std::string(ErrcName(written.code())));
    if (verb == 1 && whole) {
      start = s_->Tick();
      auto synced = co_await kernel_->Fsync(*open);
      if (synced.ok()) model.Synced(life_->number, start, s_->Tick());
    }
    co_await MaybeClose(name, flags);
    co_return !Lost(written.code());
  }
  int flags = O_RDONLY;
  auto open = co_await FileOf(name, flags);
  if (!open.ok()) co_return !Lost(open.code());
  uint64_t start = s_->Tick();
  if (verb == 4) {
    auto attr = co_await kernel_->Stat((*open)->node);
    if (attr.ok()) s_->Wrong(model.StatSize(attr->size, start, s_->Tick()));
    co_return !Lost(attr.code());
  }
  auto read = co_await kernel_->Read(*open, 0, 1 << 20);
  s_->Count("log read:" + std::string(ErrcName(read.code())));
  if (read.ok()) s_->Wrong(model.Read(*read, life_->number, start, s_->Tick()));
  co_await MaybeClose(name, flags);
  co_return !Lost(read.code());
}

// ---- unlinked, open ---------------------------------------------------------------------------------------------

Task<bool> User::Orphan() {
  NodePtr root = life_->dirs[0];
  std::string name = "orphan" + std::to_string(s_->next_orphan++);
  auto file = co_await kernel_->Open(root, name, O_CREAT | O_EXCL | O_RDWR);
  if (file.code() == Errc::kExists) s_->Wrong("O_EXCL found " + name + ", which nobody else makes");
  if (!file.ok()) co_return !Lost(file.code());
  Bytes data(kCellBytes * (1 + Below(12)), static_cast<std::byte>(s_->next_orphan));
  auto written = co_await kernel_->Write(*file, 0, data);
  auto removed = co_await kernel_->Remove(root, name, false);
  if (removed.code() == Errc::kNotFound) s_->Wrong("unlink of " + name + ": no such file");
  Duration wait = s_->random().Between(Microseconds(1), Milliseconds(20));
  co_await SleepFor(wait);
  auto read = co_await kernel_->Read(*file, 0, 1 << 16);
  if (written.ok() && *written == data.size() && read.ok() && *read != data) {
    s_->Wrong(name + ", unlinked and open: " + std::to_string(read->size()) + " bytes of " + std::to_string(data.size()) +
              (read->size() == data.size() ? ", changed" : ""));
  }
  Errc code = read.code();
  if (code == Errc::kStale || code == Errc::kNotFound) s_->Wrong(name + ", unlinked and open, is gone");
  auto closed = co_await kernel_->Close(*file);
  s_->Count("orphan:" + std::string(ErrcName(code)));
  co_return !Lost(code) && !Lost(closed.code());
}

// One attribute, changed and looked at from everywhere; links of the file bring its attributes along.
Task<bool> User::Attributes() {
  NodePtr root = life_->dirs[0];
  auto found = co_await kernel_->Find(root, "owned");
  if (!found.ok()) co_return !Lost(found.code());
  uint64_t verb = Below(8);
  CellFile& model = *s_->owner;
  if (verb < 4) {
    uint64_t start = s_->Tick();
    auto attr = co_await kernel_->Stat(*found);
    s_->Count("stat:" + std::string(ErrcName(attr.code())));
    if (attr.ok()) s_->Wrong(model.ReadNumber(attr->uid, life_->number, start, s_->Tick()));
    co_return !Lost(attr.code());
  }
  if (verb < 7) {
    size_t write = model.BeginWrite(0, 1, life_->number, s_->Tick());
    auto set = co_await kernel_->SetOwner(*found, static_cast<uint32_t>(write));
    model.EndWrite(write, set.ok(), s_->Tick());
    s_->Count("chown:" + std::string(ErrcName(set.code())));
    co_return !Lost(set.code());
  }
  std::string name = "owned" + std::to_string(s_->next_orphan++);
  auto linked = co_await kernel_->Link(*found, root, name);
  if (!linked.ok()) co_return !Lost(linked.code());
  auto removed = co_await kernel_->Remove(root, name, false);
  co_return !Lost(removed.code());
}

// An xattr is short or takes several tree blocks, changed and looked at from everywhere.
Task<bool> User::Xattr() {
  NodePtr root = life_->dirs[0];
  auto found = co_await kernel_->Find(root, "owned");
  if (!found.ok()) co_return !Lost(found.code());
  CellFile& model = *s_->xattr;
  auto value_of = [](size_t write) {
    std::string text = std::to_string(write) + ":";
    text.append(write % 3 == 0 ? write * 97 % 9000 : write % 50, static_cast<char>('a' + write % 26));
    return text;
  };
  if (Below(2)) {
    size_t write = model.BeginWrite(0, 1, life_->number, s_->Tick());
    std::string text = value_of(write);
    Bytes value(AsBytes(text).begin(), AsBytes(text).end());
    auto set = co_await kernel_->SetXattr(*found, "user.number", std::move(value));
    model.EndWrite(write, set.ok(), s_->Tick());
    s_->Count("setxattr:" + std::string(ErrcName(set.code())));
    co_return !Lost(set.code());
  }
  uint64_t start = s_->Tick();
  auto value = co_await kernel_->GetXattr(*found, "user.number");
  s_->Count("getxattr:" + std::string(ErrcName(value.code())));
  if (!value.ok() && value.code() != Errc::kNoData) co_return !Lost(value.code());
  std::string text = value.ok() ? std::string(AsText(*value)) : "";
  uint64_t number = std::strtoull(text.c_str(), nullptr, 10);
  if (value.ok() && text != value_of(number)) s_->Wrong("an xattr that nobody wrote: " + text.substr(0, 40));
  s_->Wrong(model.ReadNumber(number, life_->number, start, s_->Tick()));
  co_return true;
}

// ---- at the end -------------------------------------------------------------------------------------------------

Task<void> Workload::State::FinalCheck(Life* life) {
  if (!life->ready) {
    bool found = co_await FindDirs(life);
    if (!found) {
      Wrong("the workload's directories cannot be found at the end");
      co_return;
    }
  }
  User user(this, life);
  for (size_t i = 0; i < cells.size(); ++i) {
    auto file = co_await user.FileOf(CellName(i), O_RDONLY);
    if (!file.ok()) {
      Wrong("at the end: open of " + CellName(i) + ": " + std::string(ErrcName(file.code())));
      co_return;
    }
    uint64_t start = Tick();
    auto read = co_await life->kernel->Read(*file, 0, cells[i].cells() * kCellBytes);
    if (!read.ok()) Wrong("at the end: " + CellName(i) + " gives " + std::string(ErrcName(read.code())));
    if (read.ok()) Wrong(cells[i].Read(0, cells[i].cells(), *read, life->number, start, Tick()));
  }
  for (size_t i = 0; i < logs.size(); ++i) {
    auto file = co_await user.FileOf(LogName(i), O_RDONLY);
    if (!file.ok()) continue;
    uint64_t start = Tick();
    auto read = co_await life->kernel->Read(*file, 0, 1 << 20);
    if (read.ok()) Wrong(logs[i].Read(*read, life->number, start, Tick()));
  }
  for (size_t i = 0; i < counters.size(); ++i) {
    auto file = co_await user.FileOf(CounterName(i), O_RDONLY);
    if (!file.ok()) continue;
    auto read = co_await life->kernel->Read(*file, 0, 8);
    uint64_t value = 0;
    if (read.ok() && !read->empty()) std::memcpy(&value, read->data(), std::min<size_t>(8, read->size()));
    if (read.ok()) Wrong(counters[i].Read(value, life->number));
  }
  co_await FinalNames(life);
  co_await user.CloseAll();
}

}  // namespace holdfast::whole
