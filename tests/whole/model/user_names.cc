// An application's work on names, and the walk at the end.
#include <algorithm>
#include <fcntl.h>

#include "tests/whole/model/workload_state.h"

namespace holdfast::whole {
namespace {

// What a call's end tells the model: an outcome, nothing but that nothing was done, or not even that.
enum class Tells { kOutcome, kNothingDone, kNothing };

Tells WhatItTells(const NameOp& op, Errc code) {
  if (code == Errc::kOk) return Tells::kOutcome;
  switch (code) {
    case Errc::kInterrupted:  // killed: it may have been done, and its answer held back by the lease
    case Errc::kDisconnected:
    case Errc::kFenced:
    case Errc::kIo:
    case Errc::kConflict: return Tells::kNothing;
    case Errc::kNotFound: return op.verb == NameVerb::kLink ? Tells::kNothingDone : Tells::kOutcome;
    case Errc::kExists: return Tells::kOutcome;
    case Errc::kIsDirectory:
    case Errc::kNotDirectory:
      // A rename looks two names up at two times.
      return op.verb == NameVerb::kRename || op.verb == NameVerb::kLink ? Tells::kNothingDone : Tells::kOutcome;
    default: return Tells::kNothingDone;  // kStale, kNoSpace, kInvalid, kBusy
  }
}

}  // namespace

Task<bool> User::CallName(size_t index) {
  NameOp op = s_->names.op(index);
  NodePtr dir = life_->dirs[static_cast<size_t>(op.dir)];
  Errc code = Errc::kOk;
  uint64_t node = 0;
  std::vector<std::pair<std::string, uint64_t>> list;
  switch (op.verb) {
    case NameVerb::kCreate:
    case NameVerb::kOpenCreate: {
      int flags = O_CREAT | O_RDWR | (op.verb == NameVerb::kCreate ? O_EXCL : 0);
      auto file = co_await kernel_->Open(dir, op.name, flags);
      code = file.code();
      if (!file.ok()) break;
      node = (*file)->node->node;
      // The tick of its end is taken before the close: the name was there before.
      s_->names.op(index).end = s_->Tick();
      auto closed = co_await kernel_->Close(*file);
      (void)closed.ok();
      break;
    }
    case NameVerb::kMakeDir: {
      auto made = co_await kernel_->MakeDir(dir, op.name);
      code = made.code();
      if (made.ok()) node = (*made)->node;
      break;
    }
    case NameVerb::kFind: {
      auto found = co_await kernel_->Find(dir, op.name);
      code = found.code();
      if (found.ok()) node = (*found)->node;
      break;
    }
    case NameVerb::kUnlink:
    case NameVerb::kRemoveDir: {
      auto removed = co_await kernel_->Remove(dir, op.name, op.verb == NameVerb::kRemoveDir);
      code = removed.code();
      break;
    }
    case NameVerb::kRename: {
      auto renamed = co_await kernel_->Rename(dir, op.name, life_->dirs[static_cast<size_t>(op.dir2)], op.name2, op.flags);
      code = renamed.code();
      break;
    }
    case NameVerb::kLink: co_return true;  // by its caller
    case NameVerb::kList: {
      size_t pages = 1;
      auto listed = co_await kernel_->List(dir, &pages);
      code = listed.code();
      if (!listed.ok()) break;
      // A directory of the workload's own (knobs.nested) is no name that is judged.
      std::erase_if(*listed, [](const Listed& l) { return l.name.size() > 1; });
      if (pages > 1) {
        NameOp asked = s_->names.op(index);
        bool goes_on = co_await ListInPages(&asked, std::move(*listed), s_->Tick());
        s_->names.op(index).ignored = true;
        co_return goes_on;
      }
      for (Listed& l : *listed) list.emplace_back(l.name, l.number);
      break;
    }
  }
  NameOp& done = s_->names.op(index);
  done.result = code;
  if (node != 0) done.node = node;
  done.list = std::move(list);
  Tells tells = WhatItTells(done, code);
  bool reads = done.verb == NameVerb::kFind || done.verb == NameVerb::kList;
  s_->Count("names:" + std::string(ErrcName(code)));
  if (code == Errc::kStale && s_->knobs.kernel.has_epoch) s_->Wrong("ESTALE reached an application: " + done.ToString());
  if (tells == Tells::kOutcome) {
    done.known = true;
    if (done.end == kNever) done.end = s_->Tick();
  } else {
    done.end = kNever;
    done.ignored = reads || tells == Tells::kNothingDone;
  }
  co_return !Lost(code);
}

// Several READDIRs are several moments: each name is judged by itself, as if it had been looked up at some time meanwhile.
Task<bool> User::ListInPages(const NameOp* op, std::vector<Listed> list, uint64_t end) {
  for (uint32_t n = 0; n < s_->knobs.names; ++n) {
    NameOp find;
    find.verb = NameVerb::kFind;
    find.dir = op->dir;
    find.name = std::string(1, static_cast<char>('a' + n));
    find.life = op->life;
    find.start = op->start;
    auto there = [&](const Listed& l) { return l.name == find.name; };
    if (std::count_if(list.begin(), list.end(), there) > 1) s_->Wrong("a listing has " + find.name + " twice: " + op->ToString());
    auto it = std::find_if(list.begin(), list.end(), there);
    find.result = it == list.end() ? Errc::kNotFound : Errc::kOk;
    if (it != list.end()) find.node = it->node;
    find.known = true;
    find.end = end;
    s_->names.Begin(std::move(find));
  }
  s_->Count("names: listed in pages");
  co_return true;
}

Task<bool> User::Names() {
  NameOp op;
  op.life = life_->number;
  op.dir = 1 + static_cast<int>(Below(life_->dirs.size() - 1));
  op.dir2 = 1 + static_cast<int>(Below(life_->dirs.size() - 1));
  op.name = std::string(1, static_cast<char>('a' + Below(s_->knobs.names)));
  op.name2 = std::string(1, static_cast<char>('a' + Below(s_->knobs.names)));
  switch (Below(16)) {
    case 0: case 1: op.verb = NameVerb::kCreate; break;
    case 2: op.verb = NameVerb::kOpenCreate; break;
    case 3: op.verb = NameVerb::kMakeDir; break;
    case 4: case 5: op.verb = NameVerb::kUnlink; break;
    case 6: op.verb = NameVerb::kRemoveDir; break;
    case 7: case 8: op.verb = NameVerb::kRename; break;
    case 9: op.verb = NameVerb::kLink; break;
    case 10: op.verb = NameVerb::kList; break;
    case 11: {
      bool synced = co_await SyncDir();
      co_return synced;
    }
    default: op.verb = NameVerb::kFind; break;
  }
  if (op.verb == NameVerb::kRename) {
    uint64_t kind = Below(4);
    op.flags = kind == 0 ? uint32_t{fs::kRenameNoReplace} : kind == 1 ? uint32_t{fs::kRenameExchange} : 0;
    if (op.dir == op.dir2 && op.name == op.name2) co_return true;
  }
  if (op.verb != NameVerb::kLink) {
    op.start = s_->Tick();
    size_t index = s_->names.Begin(std::move(op));
    bool goes_on = co_await CallName(index);
    co_return goes_on;
  }
  // link(2) finds the file first; that is an operation of its own.
  NameOp find = op;
  find.verb = NameVerb::kFind;
  find.start = s_->Tick();
  size_t found_index = s_->names.Begin(std::move(find));
  auto found = co_await kernel_->Find(life_->dirs[static_cast<size_t>(op.dir)], op.name);
  NameOp& found_op = s_->names.op(found_index);
  found_op.result = found.code();
  found_op.known = found.ok() || found.code() == Errc::kNotFound;
  found_op.ignored = !found_op.known;
  if (found_op.known) found_op.end = s_->Tick();
  if (!found.ok()) co_return !Lost(found.code());
  found_op.node = (*found)->node;
  if ((*found)->directory()) co_return true;
  op.dir = op.dir2;
  op.name = op.name2;
  op.node = (*found)->node;
  op.start = s_->Tick();
  size_t index = s_->names.Begin(op);
  auto linked = co_await kernel_->Link(*found, life_->dirs[static_cast<size_t>(op.dir)], op.name);
  NameOp& done = s_->names.op(index);
  done.result = linked.code();
  Tells tells = WhatItTells(done, linked.code());
  done.known = tells == Tells::kOutcome;
  done.ignored = tells == Tells::kNothingDone;
  if (done.known) done.end = s_->Tick();
  s_->Count("link:" + std::string(ErrcName(linked.code())));
  co_return !Lost(linked.code());
}

Task<bool> User::SyncDir() {
  size_t dir = 1 + Below(life_->dirs.size() - 1);
  uint64_t start = s_->Tick();
  auto synced = co_await kernel_->FsyncDir(life_->dirs[dir]);
  if (synced.ok()) s_->names.Synced(static_cast<int>(dir), life_->number, start, s_->Tick());
  co_return !Lost(synced.code());
}

// Every name once more, from every directory's list and one by one.
Task<void> Workload::State::FinalNames(Life* life) {
  User user(this, life);
  for (size_t dir = 1; dir < life->dirs.size(); ++dir) {
    NameOp list;
    list.verb = NameVerb::kList;
    list.dir = static_cast<int>(dir);
    list.life = life->number;
    list.start = Tick();
    size_t listed = names.Begin(std::move(list));
    co_await user.CallName(listed);
    for (uint32_t n = 0; n < knobs.names; ++n) {
      NameOp find;
      find.dir = static_cast<int>(dir);
      find.name = std::string(1, static_cast<char>('a' + n));
      find.life = life->number;
      find.start = Tick();
      size_t found = names.Begin(std::move(find));
      co_await user.CallName(found);
    }
  }
}

}  // namespace holdfast::whole
