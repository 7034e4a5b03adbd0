// KernelRequests: the lease, what the kernel may keep; requests about names, attributes and directories.
#include "fs/kernel_requests.h"

#include "base/mutants.h"

namespace holdfast::fs {
namespace {

constexpr size_t kSmallBuffer = 128 * 1024;
constexpr size_t kLargeBuffer = 1024 * 1024;
constexpr size_t kBuffersKept = 32;

}  // namespace

bool KernelRequests::Refused(KernelReply& reply) {
  if (refuse_) reply.Error(holdfast::Error(Errc::kFenced, "the mount is ending"));
  return refuse_;
}

bool KernelRequests::Suspended() const {
  return parts_.lease && CheckLease(*parts_.lease, parts_.incarnation, parts_.clock->Now()) != LeaseState::kValid &&
         !refuse_;
}

Task<bool> KernelRequests::AwaitLease(Interrupt* interrupt) {
  while (Suspended()) {
    if (interrupt != nullptr && interrupt->killed()) co_return false;
    co_await SleepFor(Milliseconds(20));
  }
  co_return true;
}

AlignedBuffer KernelRequests::TakeBuffer(size_t size) {
  bool small = size <= kSmallBuffer;
  std::vector<AlignedBuffer>& kept = small ? small_buffers_ : large_buffers_;
  if (kept.empty() || size > kLargeBuffer) {
    return AlignedBuffer(std::max(size, small ? kSmallBuffer : kLargeBuffer));
  }
  AlignedBuffer buffer = std::move(kept.back());
  kept.pop_back();
  return buffer;
}

void KernelRequests::GiveBuffer(AlignedBuffer buffer) {
  if (buffer.size() == kSmallBuffer && small_buffers_.size() < kBuffersKept) small_buffers_.push_back(std::move(buffer));
  else if (buffer.size() == kLargeBuffer && large_buffers_.size() < kBuffersKept) large_buffers_.push_back(std::move(buffer));
}

// ---- what the kernel may keep -----------------------------------------------------------------------------------

bool KernelRequests::KeepAttr(const fs::Attr& attr, bool keep) {
  if (attr.type() == FileType::kRegular) cache().GaveSize(attr.node, attr.size);
  if (covered_ && !covered_()) keep = false;
  return keep && cache().GaveAttr(attr.node, attr.acquisition, attr.mode);
}

EntryAnswer KernelRequests::Judge(KernelInode parent, std::string_view name, const Entry& entry, bool keep_attr, bool plus) {
  EntryAnswer answer;
  answer.entry = &entry;
  bool covered = !covered_ || covered_();
  if (!entry.found()) {
    answer.keep_entry = covered && cache().GaveNegative(parent, entry.parent_acquisition, name);
    return answer;
  }
  KernelInode node = entry.attr.node;
  bool is_dir = entry.attr.type() == FileType::kDirectory;
  answer.keep_entry = covered && (plus ? cache().GavePlusEntry(parent, entry.parent_acquisition, name, node, is_dir)
                                       : cache().GaveEntry(parent, entry.parent_acquisition, name, node, is_dir));
  answer.keep_attr = KeepAttr(entry.attr, keep_attr);
  cache().LookedUp(node);
  return answer;
}

void KernelRequests::ReplyEntry(KernelReply& reply, KernelInode parent, const std::string& name, const Entry& entry,
                                bool keep_attr) {
  bool counted = reply.Entry(Judge(parent, name, entry, keep_attr));
  // The requester was killed: the kernel has not counted this lookup.
  if (!counted && entry.found()) cache().Forget(entry.attr.node, 1);
}

// ---- names ------------------------------------------------------------------------------------------------------

Task<void> KernelRequests::DoLookup(KernelReplyPtr reply, DirRequest, KernelInode parent, std::string name) {
  auto entry = co_await vfs().Lookup(parent, name, reply->interrupt());
  if (entry.ok() && entry->found()) {
    // A path is walked again from its beginning after ESTALE: here it has not yet taken that directory's i_rwsem.
    while (cache().Hurts(entry->attr.node) && !Raised(reply->interrupt())) co_await SleepFor(Milliseconds(1));
  }
  if (Suspended()) {
    bool valid = co_await AwaitLease(reply->interrupt());
    if (!valid) entry = Errc::kInterrupted;
  }
  if (entry.ok()) {
    ReplyEntry(*reply, parent, name, *entry, true);
  } else {
    reply->Fail(entry.error());
  }
}

Task<void> KernelRequests::ReplyNew(KernelReply* reply, KernelInode parent, std::string name, Result<Entry> entry,
                                    bool keep_attr) {
  if (Suspended()) {
    bool valid = co_await AwaitLease(reply->interrupt());
    if (!valid) entry = Errc::kInterrupted;
  }
  if (entry.ok()) {
    ReplyEntry(*reply, parent, name, *entry, keep_attr);
  } else {
    reply->Fail(entry.error());
  }
}

Task<void> KernelRequests::DoMakeNode(KernelReplyPtr reply, DirRequest, KernelInode parent, std::string name, uint32_t mode,
                                      uint64_t rdev, Caller caller) {
  caller.interrupt = reply->interrupt();
  auto entry = co_await vfs().MakeNode(parent, name, mode, rdev, caller);
  co_await ReplyNew(reply.get(), parent, name, std::move(entry), true);
}

Task<void> KernelRequests::DoMakeDir(KernelReplyPtr reply, DirRequest, KernelInode parent, std::string name, uint32_t mode,
                                     Caller caller) {
  caller.interrupt = reply->interrupt();
  auto entry = co_await vfs().MakeDir(parent, name, mode, caller);
  co_await ReplyNew(reply.get(), parent, name, std::move(entry), true);
}

Task<void> KernelRequests::DoSymlink(KernelReplyPtr reply, DirRequest, KernelInode parent, std::string name,
                                     std::string target, Caller caller) {
  caller.interrupt = reply->interrupt();
  auto entry = co_await vfs().Symlink(parent, name, target, caller);
  co_await ReplyNew(reply.get(), parent, name, std::move(entry), true);
}

Task<void> KernelRequests::DoLink(KernelReplyPtr reply, DirRequest, KernelInode inode, KernelInode parent,
                                  std::string name) {
  auto entry = co_await vfs().Link(inode, parent, name, reply->interrupt());
  // Rule 3: the kernel takes LINK's attributes whatever has happened since.
  co_await ReplyNew(reply.get(), parent, name, std::move(entry), HF_MUTANT(kKeepsLinkAttr));
}

Task<void> KernelRequests::DoRemove(KernelReplyPtr reply, DirRequest, KernelInode parent, std::string name, bool directory) {
  Result<RemoveResult> removed = Errc::kIo;
  if (directory) {
    auto result = co_await vfs().RemoveDir(parent, name, reply->interrupt());
    removed = std::move(result);
  } else {
    auto result = co_await vfs().Unlink(parent, name, reply->interrupt());
    removed = std::move(result);
  }
  if (Suspended()) {
    bool valid = co_await AwaitLease(reply->interrupt());
    if (!valid) removed = Errc::kInterrupted;
  }
  if (removed.ok()) {
    // The kernel turns the name into a negative entry of its own, without a timeout: it will ask.
    reply->Done();
  } else {
    reply->Fail(removed.error());
  }
}

Task<void> KernelRequests::DoRename(KernelReplyPtr reply, DirRequest, DirRequest, KernelInode parent, std::string name,
                                    KernelInode new_parent, std::string new_name, uint32_t flags) {
  auto renamed = co_await vfs().Rename(parent, name, new_parent, new_name, flags, reply->interrupt());
  if (Suspended()) {
    bool valid = co_await AwaitLease(reply->interrupt());
    if (!valid) renamed = Errc::kInterrupted;
  }
  if (!renamed.ok()) {
    reply->Fail(renamed.error());
    co_return;
  }
  // The kernel moves its dentry with the timeout that it has; it is a name of the new parent now.
  bool is_dir = renamed->moved.type() == FileType::kDirectory;
  cache().Renamed(new_parent, renamed->new_parent_acquisition, new_name, renamed->moved.node, is_dir);
  if ((flags & kRenameExchange) != 0) {
    cache().Renamed(parent, renamed->old_parent_acquisition, name, renamed->replaced, true);
  }
  reply->Done();
}

Task<void> KernelRequests::DoReadLink(KernelReplyPtr reply, KernelInode inode) {
  auto target = co_await vfs().ReadLink(inode, reply->interrupt());
  if (Suspended()) {
    bool valid = co_await AwaitLease(reply->interrupt());
    if (!valid) target = Errc::kInterrupted;
  }
  if (target.ok()) {
    reply->Data(AsBytes(*target));
  } else {
    reply->Fail(target.error());
  }
}

void KernelRequests::Lookup(KernelReplyPtr reply, KernelInode parent, std::string name) {
  if (Refused(*reply)) return;
  DirRequest request(&cache(), parent, reply->interrupt(), Holds::kAnother);
  Detach(DoLookup(std::move(reply), std::move(request), parent, std::move(name)));
}

void KernelRequests::Forget(KernelInode inode, uint64_t count) {
  if (cache().Forget(inode, count)) vfs().Forget(inode);
}

void KernelRequests::MakeNode(KernelReplyPtr reply, KernelInode parent, std::string name, uint32_t mode, uint64_t rdev,
                              Caller caller) {
  if (Refused(*reply)) return;
  DirRequest request(&cache(), parent, reply->interrupt());
  Detach(DoMakeNode(std::move(reply), std::move(request), parent, std::move(name), mode, rdev, caller));
}

void KernelRequests::MakeDir(KernelReplyPtr reply, KernelInode parent, std::string name, uint32_t mode, Caller caller) {
  if (Refused(*reply)) return;
  DirRequest request(&cache(), parent, reply->interrupt());
  Detach(DoMakeDir(std::move(reply), std::move(request), parent, std::move(name), mode, caller));
}

void KernelRequests::Symlink(KernelReplyPtr reply, KernelInode parent, std::string name, std::string target, Caller caller) {
  if (Refused(*reply)) return;
  DirRequest request(&cache(), parent, reply->interrupt());
  Detach(DoSymlink(std::move(reply), std::move(request), parent, std::move(name), std::move(target), caller));
}

void KernelRequests::Link(KernelReplyPtr reply, KernelInode inode, KernelInode parent, std::string name) {
  if (Refused(*reply)) return;
  DirRequest request(&cache(), parent, reply->interrupt());
  Detach(DoLink(std::move(reply), std::move(request), inode, parent, std::move(name)));
}

void KernelRequests::Remove(KernelReplyPtr reply, KernelInode parent, std::string name, bool directory) {
  if (Refused(*reply)) return;
  DirRequest request(&cache(), parent, reply->interrupt(), directory ? Holds::kAnother : Holds::kThis);
  Detach(DoRemove(std::move(reply), std::move(request), parent, std::move(name), directory));
}

void KernelRequests::Rename(KernelReplyPtr reply, KernelInode parent, std::string name, KernelInode new_parent,
                            std::string new_name, uint32_t flags) {
  if (Refused(*reply)) return;
  DirRequest from(&cache(), parent, reply->interrupt(), Holds::kAnother);
  DirRequest to(&cache(), new_parent, reply->interrupt(), Holds::kAnother);
  Detach(DoRename(std::move(reply), std::move(from), std::move(to), parent, std::move(name),
                  new_parent, std::move(new_name), flags));
}

void KernelRequests::ReadLink(KernelReplyPtr reply, KernelInode inode) {
  if (!Refused(*reply)) Detach(DoReadLink(std::move(reply), inode));
}

// ---- attributes, directories ------------------------------------------------------------------------------------

Task<void> KernelRequests::DoGetAttr(KernelReplyPtr reply, KernelInode inode) {
  auto attr = co_await vfs().GetAttr(inode, reply->interrupt());
  if (attr.ok() && attr->type() == FileType::kRegular && !reply->own()) {
    Task<Status> tell = cache().TellSize(inode, attr->generation, attr->size);
    auto told = co_await OrInterrupted<Status>(&background_, reply->interrupt(), std::move(tell));
    if (!told.ok()) attr = told.error();
  }
  if (Suspended()) {
    bool valid = co_await AwaitLease(reply->interrupt());
    if (!valid) attr = Errc::kInterrupted;
  }
  if (attr.ok()) {
    reply->Attr(*attr, KeepAttr(*attr, true));
  } else {
    reply->Fail(attr.error());
  }
}

// SETATTR holds the inode's i_rwsem, which dropping a directory's names waits for.
Task<void> KernelRequests::DoSet(KernelReplyPtr reply, DirRequest, KernelInode inode, SetAttr set) {
  auto attr = co_await vfs().Set(inode, set, reply->interrupt());
  if (Suspended()) {
    bool valid = co_await AwaitLease(reply->interrupt());
    if (!valid) attr = Errc::kInterrupted;
  }
  if (attr.ok()) {
    if (attr->type() == FileType::kRegular) {
      cache().GaveSize(inode, attr->size);
      if ((set.which & kSetSize) != 0) cache().TruncatedTo(inode, attr->size);
    }
    // Rule 3: some kernels take them whatever has happened since.
    reply->Attr(*attr, HF_MUTANT(kKeepsLinkAttr) && KeepAttr(*attr, true));
  } else {
    reply->Fail(attr.error());
  }
}

Task<void> KernelRequests::DoReadDir(KernelReplyPtr reply, DirRequest, KernelInode dir, size_t size, uint64_t cookie,
                                     bool plus) {
  ReadDirOptions options;
  options.cookie = cookie;
  options.bytes_max = size;
  options.plus = plus;
  options.interrupt = reply->interrupt();
  auto page = co_await vfs().ReadDir(dir, options);
  if (Suspended()) {
    bool valid = co_await AwaitLease(reply->interrupt());
    if (!valid) page = Errc::kInterrupted;
  }
  if (page.ok()) {
    reply->Listing(*this, dir, *page, plus, size);
  } else {
    reply->Fail(page.error());
  }
}

Task<void> KernelRequests::DoFsync(KernelReplyPtr reply, DirRequest, KernelInode inode, bool data_only) {
  auto synced = co_await vfs().Fsync(inode, data_only, reply->interrupt());
  reply->Reply(synced);
}

void KernelRequests::GetAttr(KernelReplyPtr reply, KernelInode inode) {
  if (!Refused(*reply)) Detach(DoGetAttr(std::move(reply), inode));
}

void KernelRequests::Set(KernelReplyPtr reply, KernelInode inode, SetAttr set) {
  if (Refused(*reply)) return;
  DirRequest request(&cache(), inode, reply->interrupt());
  Detach(DoSet(std::move(reply), std::move(request), inode, set));
}

void KernelRequests::ReadDir(KernelReplyPtr reply, KernelInode dir, size_t size, uint64_t cookie, bool plus) {
  if (Refused(*reply)) return;
  DirRequest request(&cache(), dir, reply->interrupt(), Holds::kPatient);
  Detach(DoReadDir(std::move(reply), std::move(request), dir, size, cookie, plus));
}

void KernelRequests::Fsync(KernelReplyPtr reply, KernelInode inode, bool data_only) {
  if (Refused(*reply)) return;
  DirRequest request(&cache(), inode, reply->interrupt(), Holds::kPatient);
  Detach(DoFsync(std::move(reply), std::move(request), inode, data_only));
}

}  // namespace holdfast::fs
