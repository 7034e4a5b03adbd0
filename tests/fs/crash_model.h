// CrashModel: what a tree may look like after a crash. Every operation's outcome is entered before the operation runs; what is
// found after a cut must then be
//   one mount: the whole tree of one moment between the last sync and the cut (transactions keep their order, each is atomic);
//   two mounts: of each inode and each directory the state of such a moment (fsck ties names to link counts);
// and each file must have a size it had (or the end of a block on its way there) and only bytes that it had at that place, since
// it was synced: no byte of another file, no zeroes below a logged size (ordered data). A file that never left its inode is the
// whole of one moment. Inodes are known by their owner's uid, which is never changed.
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "fs/vfs.h"

namespace holdfast::fs::test {

// The bytes of a file; pages that are not there are zeroes.
struct Content {
  uint64_t size = 0;
  bool inline_ever = true;  // it was never larger than what an inode holds, nor preallocated
  std::map<uint64_t, std::shared_ptr<const std::string>> pages;

  void Put(uint64_t offset, std::string_view bytes);  // does not move the size
  void Write(uint64_t offset, std::string_view bytes);
  void Zero(uint64_t offset, uint64_t length);
  void Resize(uint64_t to);
  char At(uint64_t i) const;
  std::string Text(uint64_t offset, uint64_t length) const;
};

struct Meta {
  FileType type = FileType::kRegular;
  uint32_t mode = 0, gid = 0, nlink = 0;
  uint64_t rdev = 0;
  uint64_t parent = 0;                    // of a directory
  std::string target;                     // of a symlink
  std::optional<int64_t> mtime;           // known while nothing but utimens has moved it
  std::map<std::string, std::string> xattrs;
  std::map<std::string, uint64_t> names;  // of a directory
};
using Snapshot = std::map<uint64_t, std::shared_ptr<const Meta>>;  // by uid; 0 is the root

struct FoundTree {
  Snapshot tree;
  std::map<uint64_t, Content> data;
};

class CrashModel {
 public:
  CrashModel();
  // The tree as it is now; Change() makes a copy of one inode to be edited, Done() enters a moment.
  const Meta& at(uint64_t id) const { return *now_.at(id); }
  bool has(uint64_t id) const { return now_.contains(id); }
  const Snapshot& now() const { return now_; }
  Meta& Change(uint64_t id);
  void Drop(uint64_t id) { now_.erase(id); }
  void Done() { moments_.push_back(now_); }

  // The newest content of a file, and a new one (entered before the call that makes it).
  const Content& data(uint64_t id) const { return versions_.at(id).back(); }
  bool has_data(uint64_t id) const { return versions_.contains(id); }
  void NewData(uint64_t id, Content content) { versions_[id].push_back(std::move(content)); }

  // What the call before this has made durable: everything, or one file's data (and one mount's whole tree with it).
  void SyncedTree() { moments_.erase(moments_.begin(), moments_.end() - 1); }
  void SyncedData(uint64_t id);
  void SyncedAll();

  // "" or what is wrong.
  std::string Judge(const FoundTree& found, bool one_mount) const;
  std::string JudgeData(uint64_t id, const Content& found) const;

 private:
  std::string JudgeInode(uint64_t id, const Meta* found) const;
  Snapshot now_;
  std::vector<Snapshot> moments_;                        // since the last sync, oldest first
  std::map<uint64_t, std::vector<Content>> versions_;  // since the file's last sync, oldest first
};

// "" or the first field that differs.
std::string Differs(const Meta& found, const Meta& wanted, bool root);
// Reads the whole tree through a mount.
Task<Result<FoundTree>> ReadTree(Vfs* vfs);

}  // namespace holdfast::fs::test
