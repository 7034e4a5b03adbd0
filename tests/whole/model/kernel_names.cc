// KernelModel: names. fs/fuse/dir.c and fs/namei.c of Linux 6.18.
#include <fcntl.h>

#include "tests/whole/model/kernel_model.h"

namespace holdfast::whole {

using fs::Caller;
using fs::KernelReplyPtr;
using fs::KernelRequests;

namespace {
const Caller kRoot{0, 0, 022};
}

// d_invalidate: out of the tree with all below it. Who has it open keeps the node.
// By value: the caller's may be the one in the map.
void KernelModel::Unhash(NodePtr dir, const std::string& name, DentryPtr dentry) {
  auto it = dir->children.find(name);
  if (it != dir->children.end() && it->second == dentry) dir->children.erase(it);
  if (dentry->node && dentry->node->directory()) dentry->node->children.clear();
}

// d_splice_alias: a directory has one dentry; if the server moved it, so does it.
DentryPtr KernelModel::Splice(NodePtr dir, const std::string& name, NodePtr node, bool keep, uint64_t epoch) {
  if (node && node->directory()) {
    for (auto& [number, weak] : nodes_) {
      NodePtr other = weak.lock();
      if (!other) continue;
      std::erase_if(other->children, [&](auto& child) { return child.second->node == node; });
    }
  }
  auto dentry = std::make_shared<Dentry>(Dentry{node, keep, epoch});
  dir->children[name] = dentry;
  return dentry;
}

void KernelModel::ReclaimSomething(NodePtr dir) {
  if (!world_->random().Chance(knobs_.drop_dentry) || dir->children.empty()) return;
  auto it = std::next(dir->children.begin(), static_cast<ptrdiff_t>(world_->random().Below(dir->children.size())));
  if (!it->second->node || it->second->node->children.empty()) dir->children.erase(it);
}

// fuse_dentry_revalidate.
Task<KernelModel::Verdict> KernelModel::Revalidate(NodePtr dir, std::string name, DentryPtr dentry, bool always) {
  if (dentry->epoch < epoch_) co_return Verdict::kInvalid;
  if (dentry->keep && !always) co_return Verdict::kValid;
  if (!dentry->node) co_return Verdict::kInvalid;
  uint64_t version = version_;
  KernelInode parent = dir->node;
  Send send = [parent, name](KernelRequests& r, KernelReplyPtr reply) { r.Lookup(std::move(reply), parent, name); };
  auto answer = co_await Ask("LOOKUP", parent, std::move(send));
  if (!answer->ok() || !answer->entry.found()) co_return Verdict::kInvalid;
  NodePtr node = dentry->node;
  if (answer->attr.node != node->node) {
    SendForget(answer->attr.node, 1, connection_);
    co_return Verdict::kInvalid;
  }
  ++node->lookups;
  co_await ChangeAttr(node, answer->attr, answer->keep_attr, version);
  dentry->keep = answer->keep_entry;
  co_return Verdict::kValid;
}

// fuse_lookup of a name that has no dentry.
Task<Result<DentryPtr>> KernelModel::LookUp(NodePtr dir, std::string name) {
  uint64_t epoch = epoch_;
  uint64_t version = version_, evictions = evictions_;
  KernelInode parent = dir->node;
  Send send = [parent, name](KernelRequests& r, KernelReplyPtr reply) { r.Lookup(std::move(reply), parent, name); };
  auto answer = co_await Ask("LOOKUP", parent, std::move(send));
  if (!answer->ok() && answer->error.code != Errc::kNotFound) co_return answer->error;
  if (!answer->ok() || !answer->entry.found()) {
    co_return Splice(dir, name, nullptr, answer->ok() && answer->keep_entry, epoch);
  }
  NodePtr node = co_await Get(answer.get(), version, evictions);
  co_return Splice(dir, name, node, answer->keep_entry, epoch);
}

// A valid dentry of that name, negative or not. locked: the caller has i_rwsem for writing.
Task<Result<DentryPtr>> KernelModel::Walk(NodePtr dir, std::string name, bool always, bool locked) {
  ReclaimSomething(dir);
  for (;;) {
    auto it = dir->children.find(name);
    if (it != dir->children.end()) {
      DentryPtr dentry = it->second;
      Verdict verdict = co_await Revalidate(dir, name, dentry, always);
      if (verdict == Verdict::kValid) co_return dentry;
      Unhash(dir, name, dentry);
      always = false;  // what is looked up from here on is fresh
    }
    RwLock::Guard guard;
    if (!locked) {
      RwLock::Guard shared = co_await dir->rwsem.Lock(true);
      guard = std::move(shared);
    }
    // d_alloc_parallel: one of those that look the name up asks, the others wait for it.
    auto looking = dir->looking.find(name);
    if (looking != dir->looking.end()) {
      std::shared_ptr<WaitList> list = looking->second;
      co_await list->Wait();
      continue;
    }
    if (dir->children.contains(name)) continue;
    dir->looking[name] = std::make_shared<WaitList>();
    auto found = co_await LookUp(dir, name);
    std::shared_ptr<WaitList> list = dir->looking[name];
    dir->looking.erase(name);
    list->WakeAll();
    co_return found;
  }
}

Task<Result<NodePtr>> KernelModel::FindOnce(NodePtr dir, std::string name, bool always) {
  auto dentry = co_await Walk(dir, name, always, false);
  if (!dentry.ok()) co_return dentry.error();
  if (!(*dentry)->node) co_return Errc::kNotFound;
  co_return (*dentry)->node;
}

Task<Result<NodePtr>> KernelModel::Find(NodePtr dir, std::string name) {
  auto first = co_await FindOnce(dir, name, false);
  if (first.code() != Errc::kStale) co_return first;
  auto second = co_await FindOnce(dir, name, true);
  co_return second;
}

Task<Result<NodePtr>> KernelModel::MakeDirOnce(NodePtr dir, std::string name, bool) {
  auto guard = co_await dir->rwsem.Lock(false);
  auto there = co_await Walk(dir, name, true, true);
  if (!there.ok()) co_return there.error();
  if ((*there)->node) co_return Errc::kExists;
  uint64_t epoch = epoch_;
  KernelInode parent = dir->node;
  Send send = [parent, name](KernelRequests& r, KernelReplyPtr reply) {
    r.MakeDir(std::move(reply), parent, name, 040755, kRoot);
  };
  auto answer = co_await Ask("MKDIR", parent, std::move(send));
  if (!answer->ok()) {
    // fuse_invalidate_entry of create_new_entry's caller: the next one asks.
    Unhash(dir, name, *there);
    co_return answer->error;
  }
  NodePtr node = co_await Get(answer.get(), 0);
  Splice(dir, name, node, answer->keep_entry, epoch);
  dir->attr_valid = false;
  co_return node;
}

Task<Result<NodePtr>> KernelModel::MakeDir(NodePtr dir, std::string name) {
  auto first = co_await MakeDirOnce(dir, name, false);
  if (first.code() != Errc::kStale) co_return first;
  auto second = co_await MakeDirOnce(dir, name, true);
  co_return second;
}

Task<Result<FilePtr>> KernelModel::OpenOnce(NodePtr dir, std::string name, int flags, bool always) {
  NodePtr node;
  if ((flags & O_CREAT) == 0) {
    auto found = co_await FindOnce(dir, name, always);
    if (!found.ok()) co_return found.error();
    node = *found;
  } else {
    bool exclusive = (flags & O_EXCL) != 0;
    RwLock::Guard guard = co_await dir->rwsem.Lock(false);
    auto there = co_await Walk(dir, name, always || exclusive, true);
    if (!there.ok()) co_return there.error();
    node = (*there)->node;
    if (node && exclusive) co_return Errc::kExists;
    if (!node) {
      auto created = co_await CreateFile(dir, name, flags);
      if (!created.ok()) Unhash(dir, name, *there);
      co_return created;
    }
  }
  if (node->directory()) co_return Errc::kIsDirectory;
  auto opened = co_await OpenNode(node, flags);
  co_return opened;
}

Task<Result<FilePtr>> KernelModel::Open(NodePtr dir, std::string name, int flags) {
  auto first = co_await OpenOnce(dir, name, flags, false);
  if (first.code() != Errc::kStale) co_return first;
  auto second = co_await OpenOnce(dir, name, flags, true);
  co_return second;
}

Task<Status> KernelModel::RemoveOnce(NodePtr dir, std::string name, bool directory, bool always) {
  RwLock::Guard guard = co_await dir->rwsem.Lock(false);
  auto there = co_await Walk(dir, name, always, true);
  if (!there.ok()) co_return there.error();
  NodePtr victim = (*there)->node;
  if (!victim) co_return Errc::kNotFound;
  if (directory && !victim->directory()) co_return Errc::kNotDirectory;
  if (!directory && victim->directory()) co_return Errc::kIsDirectory;
  RwLock::Guard inner = co_await victim->rwsem.Lock(false);
  KernelInode parent = dir->node;
  Send send = [parent, name, directory](KernelRequests& r, KernelReplyPtr reply) {
    r.Remove(std::move(reply), parent, name, directory);
  };
  auto answer = co_await Ask(directory ? "RMDIR" : "UNLINK", parent, std::move(send));
  if (!answer->ok()) {
    if (answer->error.code == Errc::kInterrupted || answer->error.code == Errc::kNotFound) Unhash(dir, name, *there);
    co_return answer->error;
  }
  dir->attr_valid = false;
  victim->attr_version = ++version_;
  victim->attr_valid = false;
  // The name is negative now, without a timeout.
  auto it = dir->children.find(name);
  if (it != dir->children.end() && it->second == *there) it->second = std::make_shared<Dentry>(Dentry{nullptr, false, epoch_});
  co_return Status();
}

Task<Status> KernelModel::Remove(NodePtr dir, std::string name, bool directory) {
  auto first = co_await RemoveOnce(dir, name, directory, false);
  if (first.code() != Errc::kStale) co_return first;
  auto second = co_await RemoveOnce(dir, name, directory, true);
  co_return second;
}

Task<Status> KernelModel::RenameOnce(NodePtr dir, std::string name, NodePtr new_dir, std::string new_name, uint32_t flags,
                                     bool always) {
  // lock_rename: ancestors first; the workload's directories are siblings or parent and child, with the lower number above.
  NodePtr first = dir, second = new_dir;
  if (first->node > second->node) std::swap(first, second);
  RwLock::Guard guard = co_await first->rwsem.Lock(false);
  RwLock::Guard guard2;
  if (first != second) {
    RwLock::Guard other = co_await second->rwsem.Lock(false);
    guard2 = std::move(other);
  }
  auto from = co_await Walk(dir, name, always, true);
  if (!from.ok()) co_return from.error();
  auto to = co_await Walk(new_dir, new_name, true, true);
  if (!to.ok()) co_return to.error();
  bool exchange = (flags & fs::kRenameExchange) != 0;
  if (!(*from)->node) co_return Errc::kNotFound;
  if ((flags & fs::kRenameNoReplace) != 0 && (*to)->node) co_return Errc::kExists;
  if (exchange && !(*to)->node) co_return Errc::kNotFound;
  NodePtr moved = (*from)->node, target = (*to)->node;
  if (moved == new_dir || target == dir) co_return Errc::kInvalid;
  if (moved == target) co_return Errc::kBusy;  // vfs_rename: two names of one inode, nothing is done (and nothing said)
  if (target && !exchange) {
    if (moved->directory() && !target->directory()) co_return Errc::kNotDirectory;
    if (!moved->directory() && target->directory()) co_return Errc::kIsDirectory;
  }
  KernelInode parent = dir->node, new_parent = new_dir->node;
  Send send = [parent, name, new_parent, new_name, flags](KernelRequests& r, KernelReplyPtr reply) {
    r.Rename(std::move(reply), parent, name, new_parent, new_name, flags);
  };
  auto answer = co_await Ask("RENAME", parent, std::move(send));
  if (!answer->ok()) {
    if (answer->error.code == Errc::kInterrupted) Unhash(dir, name, *from);
    co_return answer->error;
  }
  dir->attr_valid = new_dir->attr_valid = false;
  moved->attr_valid = false;
  if (target) target->attr_valid = false;
  // d_move / d_exchange: a dentry keeps its timeout and its epoch.
  auto from_there = dir->children.find(name);
  bool hashed = from_there != dir->children.end() && from_there->second == *from;
  if (hashed) dir->children.erase(from_there);
  auto to_there = new_dir->children.find(new_name);
  bool to_hashed = to_there != new_dir->children.end() && to_there->second == *to;
  if (to_hashed) new_dir->children.erase(to_there);
  if (hashed) new_dir->children[new_name] = *from;
  if (exchange && to_hashed) dir->children[name] = *to;
  co_return Status();
}

Task<Status> KernelModel::Rename(NodePtr dir, std::string name, NodePtr new_dir, std::string new_name, uint32_t flags) {
  auto first = co_await RenameOnce(dir, name, new_dir, new_name, flags, false);
  if (first.code() != Errc::kStale) co_return first;
  auto second = co_await RenameOnce(dir, name, new_dir, new_name, flags, true);
  co_return second;
}

Task<Status> KernelModel::Link(NodePtr node, NodePtr dir, std::string name) {
  RwLock::Guard guard = co_await dir->rwsem.Lock(false);
  auto there = co_await Walk(dir, name, true, true);
  if (!there.ok()) co_return there.error();
  if ((*there)->node) co_return Errc::kExists;
  RwLock::Guard inner = co_await node->rwsem.Lock(false);
  uint64_t epoch = epoch_;
  KernelInode inode = node->node, parent = dir->node;
  Send send = [inode, parent, name](KernelRequests& r, KernelReplyPtr reply) {
    r.Link(std::move(reply), inode, parent, name);
  };
  auto answer = co_await Ask("LINK", inode, std::move(send));
  if (!answer->ok()) {
    Unhash(dir, name, *there);
    co_return answer->error;
  }
  NodePtr linked = co_await Get(answer.get(), 0);
  Splice(dir, name, linked, answer->keep_entry, epoch);
  dir->attr_valid = false;
  co_return Status();
}

// getdents until the end: as many READDIRs as it takes, i_rwsem is let go between them.
Task<Result<std::vector<Listed>>> KernelModel::List(NodePtr dir, size_t* pages) {
  std::vector<Listed> out;
  uint64_t cookie = 0;
  for (*pages = 1;; ++*pages) {
    RwLock::Guard guard = co_await dir->rwsem.Lock(true);
    bool plus = world_->random().Chance(knobs_.readdir_plus);
    uint64_t version = version_, evictions = evictions_;
    KernelInode inode = dir->node;
    size_t size = knobs_.readdir_bytes;
    Send send = [inode, plus, size, cookie](KernelRequests& r, KernelReplyPtr reply) {
      r.ReadDir(std::move(reply), inode, size, cookie, plus);
    };
    auto answer = co_await Ask(plus ? "READDIRPLUS" : "READDIR", inode, std::move(send));
    if (!answer->ok()) co_return answer->error;
    // Without an entry: the end.
    if (answer->listing.empty() && *pages > 1) --*pages;
    if (answer->listing.empty()) co_return out;
    cookie = answer->listing.back().cookie;
    co_await TakeListing(dir, answer, version, evictions, &out);
  }
}

Task<void> KernelModel::TakeListing(NodePtr dir, std::shared_ptr<Answer> answer, uint64_t version, uint64_t evictions,
                                    std::vector<Listed>* out) {
  for (size_t i = 0; i < answer->listing.size(); ++i) {
    const fs::DirEntry& e = answer->listing[i];
    if (e.name == "." || e.name == "..") continue;
    out->push_back({e.name, e.number.v, e.node, e.type});
    const Answer& listed = answer->listed[i];
    if (!listed.entry.found()) continue;
    // fuse_direntplus_link: the epoch is that of now, not of the request.
    uint64_t epoch = epoch_;
    auto it = dir->children.find(e.name);
    if (it != dir->children.end() && it->second->node && it->second->node->node == listed.attr.node) {
      DentryPtr dentry = it->second;
      ++dentry->node->lookups;
      co_await ChangeAttr(dentry->node, listed.attr, listed.keep_attr, version);
      dentry->keep = listed.keep_entry;
      dentry->epoch = epoch;
      continue;
    }
    if (it != dir->children.end()) Unhash(dir, e.name, it->second);
    if (dir->looking.contains(e.name)) {  // somebody else is looking it up: his answer counts
      SendForget(listed.attr.node, 1, connection_);
      continue;
    }
    NodePtr node = co_await Get(&listed, version, evictions);
    Splice(dir, e.name, node, listed.keep_entry, epoch);
  }
}

}  // namespace holdfast::whole
