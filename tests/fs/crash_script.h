// CrashScript: every operation that the filesystem has, one after the other, each on one of the mounts, entered into a CrashModel
// before it runs. What can be seen at once (a file's bytes, what an unlinked open file holds) is compared on the way.
#pragma once

#include <set>

#include "tests/fs/crash_model.h"
#include "tests/sim/world.h"

namespace holdfast::fs::test {

class CrashScript {
 public:
  // names_big: so many long names in one directory from the start, so that its tree has several levels.
  CrashScript(std::vector<Vfs*> mounts, sim::SimRandom* random, uint32_t names_big);
  const CrashModel& model() const { return model_; }
  void Use(size_t mount) { vfs_ = mounts_[mount]; }
  // Directories "a" and "b", and "big".
  Task<Status> Begin();
  Task<Status> Step();
  // Each mount syncs on its own, then Synced().
  bool wants_all() const { return wants_all_; }
  void Synced() {
    wants_all_ = false;
    model_.SyncedAll();
  }
  // Locks to be let go now: nothing of it, everything of the mount in use.
  bool wants_letting_go() { return std::exchange(wants_letting_go_, false); }
  uint64_t done(const std::string& what) const { return counts_.contains(what) ? counts_.at(what) : 0; }

 private:
  struct Name {
    uint64_t dir = 0;
    std::string name;
  };
  using Action = Task<Status> (CrashScript::*)();

  Caller Me(uint64_t id) const { return Caller{static_cast<uint32_t>(id), 7, 0}; }
  uint64_t Below(uint64_t n) { return random_->Below(n); }
  std::string Bytes(size_t n);
  std::string FreshName();
  uint64_t SomeDir();
  // A name in a directory with an inode of that type; nothing: name empty.
  Name Some(std::optional<FileType> type);
  uint64_t SomeFile();
  bool BelowIt(uint64_t dir, uint64_t what) const;
  void AddName(uint64_t dir, const std::string& name, uint64_t id);
  void TakeName(const Name& at, bool drop_link);
  void Touched(uint64_t id) { model_.Change(id).mtime.reset(); }
  KernelInode Node(uint64_t id) const { return nodes_.at(id); }

  // script_names.cc
  Task<Status> Make(FileType type);
  Task<Status> Create();
  Task<Status> MakeDirectory();
  Task<Status> MakeSymlink();
  Task<Status> MakeSpecial();
  Task<Status> MakeTmp();
  Task<Status> Link();
  Task<Status> Unlink();
  Task<Status> UnlinkOpen();
  Task<Status> Close();
  Task<Status> RemoveDirectory();
  Task<Status> Rename();
  Task<Status> Exchange();
  Task<Status> Grow();
  Task<Status> Shrink();
  // script_data.cc
  Task<Status> Write();
  Task<Status> WriteAt(uint64_t id, uint64_t offset, std::string bytes);
  Task<Status> WriteSparse();
  Task<Status> Truncate();
  Task<Status> Reopen();
  Task<Status> Preallocate();
  Task<Status> Punch();
  Task<Status> SetXattr();
  Task<Status> RemoveXattr();
  Task<Status> ChangeMode();
  Task<Status> ChangeTimes();
  Task<Status> Compare();
  Task<Status> Sync();
  Task<Status> Same(uint64_t id);

  std::vector<Vfs*> mounts_;
  Vfs* vfs_;
  sim::SimRandom* random_;
  uint32_t names_big_;
  CrashModel model_;
  std::map<uint64_t, KernelInode> nodes_;
  std::map<uint64_t, Vfs*> open_;  // unlinked and open there
  uint64_t next_id_ = 1;
  uint64_t big_ = 0, many_ = 0;    // the big directory, and the file with many names
  uint64_t next_name_ = 0;
  bool wants_all_ = false, wants_letting_go_ = false;
  std::map<std::string, uint64_t> counts_;
};

}  // namespace holdfast::fs::test
