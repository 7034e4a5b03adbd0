// KernelModel: inodes and their attributes. fs/fuse/inode.c of Linux 6.18.
#include "tests/whole/model/kernel_model.h"

namespace holdfast::whole {

using fs::KernelReplyPtr;
using fs::KernelRequests;

// fuse_iget.
Task<NodePtr> KernelModel::Get(const Answer* answer, uint64_t version, uint64_t evictions) {
  fs::Attr attr = answer->attr;
  bool keep = answer->keep_attr && (evictions == 0 || evictions == evictions_);
  NodePtr node = Live(attr.node);
  if (!node) {
    node = std::make_shared<KernelNode>(this, attr.node);
    node->connection = connection_;
    node->attr = attr;
    node->size = attr.size;
    nodes_[attr.node] = node;
  }
  ++node->lookups;
  co_await ChangeAttr(node, attr, keep, version);
  co_return node;
}

// fuse_change_attributes: an answer that is older than the last change here counts for nothing.
Task<void> KernelModel::ChangeAttr(NodePtr node, fs::Attr attr, bool keep, uint64_t version) {
  if (version != 0 && node->attr_version > version) co_return;
  node->attr_version = ++version_;
  node->attr = attr;
  node->attr_valid = keep;
  uint64_t before = node->size;
  node->size = attr.size;
  if (attr.type() == fs::FileType::kRegular && before != attr.size) co_await TruncatePages(node, attr.size);
}

Task<Result<fs::Attr>> KernelModel::Stat(NodePtr node) {
  if (node->attr_valid) {
    fs::Attr attr = node->attr;
    attr.size = node->size;
    co_return attr;
  }
  auto attr = co_await AskAttr(node, false);
  co_return attr;
}

// fuse_do_getattr. What an invalidation or a write overtook is told to the caller and not kept: i_size stays what it was.
Task<Result<fs::Attr>> KernelModel::AskAttr(NodePtr node, bool own) {
  KernelInode inode = node->node;
  uint64_t version = version_;
  Send send = [inode](KernelRequests& r, KernelReplyPtr reply) { r.GetAttr(std::move(reply), inode); };
  auto answer = co_await Ask(own ? "GETATTR own" : "GETATTR", inode, std::move(send), own);
  if (!answer->ok()) co_return answer->error;
  co_await ChangeAttr(node, answer->attr, answer->keep_attr, version);
  co_return answer->attr;
}

// statx(2) by a thread of the mount, forced to ask and forced not to.
Task<Result<Kernel::SizeSeen>> KernelModel::AskSize(KernelInode inode, uint32_t) {
  auto done = std::make_shared<Completion<Result<SizeSeen>>>();
  sim::SimExecutor* executor = executor_;
  uint64_t connection = connection_;
  world_->After(Between(knobs_.notify_max), [this, executor, inode, done, connection] {
    executor->Post([this, executor, inode, done, connection] {
      if (connection != connection_ || !requests_) return done->Set(Errc::kDisconnected);
      executor->Spawn(AskSizeHere(inode, done));
    });
  });
  Completion<Result<SizeSeen>>& answer = *done;
  auto seen = co_await answer;
  co_return seen;
}

Task<void> KernelModel::AskSizeHere(KernelInode inode, std::shared_ptr<Completion<Result<SizeSeen>>> done) {
  NodePtr node = Live(inode);
  if (!node) {
    done->Set(Errc::kNotFound);
    co_return;
  }
  auto attr = co_await AskAttr(node, true);
  if (!attr.ok()) {
    done->Set(attr.error());
    co_return;
  }
  done->Set(SizeSeen{attr->size, node->size});
}

// ftruncate(2).
Task<Status> KernelModel::Truncate(NodePtr node, uint64_t size) {
  RwLock::Guard guard = co_await node->rwsem.Lock(false);
  // fuse_set_nowrite: page WRITEs under way are waited for.
  std::vector<PagePtr> pages;
  for (auto& [index, page] : node->pages) pages.push_back(page);
  for (PagePtr& page : pages) {
    while (page->writeback > 0) co_await page->written.Wait();
  }
  KernelInode inode = node->node;
  fs::SetAttr set;
  set.which = fs::kSetSize;
  set.size = size;
  Send send = [inode, set](KernelRequests& r, KernelReplyPtr reply) { r.Set(std::move(reply), inode, set); };
  auto answer = co_await Ask("SETATTR", inode, std::move(send));
  if (!answer->ok()) co_return answer->error;
  uint64_t before = node->size;
  node->attr_version = ++version_;
  node->attr = answer->attr;
  node->attr_valid = answer->keep_attr;
  node->size = answer->attr.size;
  if (before != node->size) {
    co_await TruncatePages(node, answer->attr.size);
    co_await InvalidatePages(node, 0, UINT64_MAX);
  }
  co_return Status();
}

// chown(2). The reply's attributes are taken whatever has happened since, as older kernels do (fuse_do_setattr of 6.1).
Task<Status> KernelModel::SetOwner(NodePtr node, uint32_t uid) {
  RwLock::Guard guard = co_await node->rwsem.Lock(false);
  KernelInode inode = node->node;
  fs::SetAttr set;
  set.which = fs::kSetUid;
  set.uid = uid;
  Send send = [inode, set](KernelRequests& r, KernelReplyPtr reply) { r.Set(std::move(reply), inode, set); };
  auto answer = co_await Ask("SETATTR", inode, std::move(send));
  if (!answer->ok()) co_return answer->error;
  node->attr_version = ++version_;
  node->attr = answer->attr;
  node->attr_valid = answer->keep_attr;
  co_return Status();
}

// setxattr(2), getxattr(2): the kernel keeps none of them. As fs/fuse/ops_xattr.cc.
Task<Status> KernelModel::SetXattr(NodePtr node, std::string name, Bytes value) {
  RwLock::Guard guard = co_await node->rwsem.Lock(false);
  KernelInode inode = node->node;
  Send send = [this, inode, name, value](KernelRequests& r, KernelReplyPtr reply) {
    holdfast::Detach(DoSetXattr(&r, std::move(reply), inode, name, value));
  };
  auto answer = co_await Ask("SETXATTR", inode, std::move(send));
  node->attr_valid = false;
  co_return answer->ok() ? Status() : Status(answer->error);
}

Task<Result<Bytes>> KernelModel::GetXattr(NodePtr node, std::string name) {
  KernelInode inode = node->node;
  Send send = [this, inode, name](KernelRequests& r, KernelReplyPtr reply) {
    holdfast::Detach(DoGetXattr(&r, std::move(reply), inode, name));
  };
  auto answer = co_await Ask("GETXATTR", inode, std::move(send));
  if (!answer->ok()) co_return answer->error;
  co_return std::move(answer->data);
}

Task<void> KernelModel::DoSetXattr(fs::KernelRequests* requests, fs::KernelReplyPtr reply, KernelInode node, std::string name,
                                   Bytes value) {
  auto set = co_await requests->vfs().SetXattr(node, name, std::move(value), fs::XattrMode::kSet, reply->interrupt());
  reply->Reply(set);
}

Task<void> KernelModel::DoGetXattr(fs::KernelRequests* requests, fs::KernelReplyPtr reply, KernelInode node, std::string name) {
  auto value = co_await requests->vfs().GetXattr(node, name, reply->interrupt());
  if (requests->Suspended()) {
    bool valid = co_await requests->AwaitLease(reply->interrupt());
    if (!valid) value = Errc::kInterrupted;
  }
  if (value.ok()) {
    reply->Data(*value);
  } else {
    reply->Fail(value.error());
  }
}

Task<Status> KernelModel::FsyncDir(NodePtr dir) {
  RwLock::Guard guard = co_await dir->rwsem.Lock(false);
  KernelInode inode = dir->node;
  Send send = [inode](KernelRequests& r, KernelReplyPtr reply) { r.Fsync(std::move(reply), inode, false); };
  auto answer = co_await Ask("FSYNCDIR", inode, std::move(send));
  co_return answer->error.code == Errc::kOk ? Status() : Status(answer->error);
}

}  // namespace holdfast::whole
