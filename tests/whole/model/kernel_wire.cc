// KernelModel: requests on their way to the mount and replies on their way back, notifications, life.
#include "base/log.h"
#include "fs/mount.h"
#include "tests/whole/model/kernel_model.h"

namespace holdfast::whole {

// ---- RwLock -----------------------------------------------------------------------------------------------------

Task<RwLock::Guard> RwLock::Lock(bool shared) {
  Waiter waiter{shared, {}};
  waiters_.push_back(&waiter);
  Wake();
  co_await waiter.granted;
  co_return Guard(this, shared);
}

void RwLock::Wake() {
  while (!waiters_.empty() && !writer_ && (waiters_.front()->shared || readers_ == 0)) {
    Waiter* w = waiters_.front();
    waiters_.pop_front();
    (w->shared ? void(++readers_) : void(writer_ = true));
    w->granted.Set(true);
  }
}

void RwLock::Unlock(bool shared) {
  if (shared) {
    --readers_;
  } else {
    writer_ = false;
  }
  Wake();
}

// ---- replies ----------------------------------------------------------------------------------------------------

// Runs on the mount's executor; what it copies is used on the kernel's, later.
class ModelReply final : public fs::KernelReply {
 public:
  ModelReply(KernelModel* kernel, KernelModel::PendingPtr pending, fs::Mount* mount,
             std::shared_ptr<fs::KernelRequests> requests)
      : kernel_(kernel), pending_(std::move(pending)), mount_(mount), requests_(std::move(requests)),
        interrupt_(pending_->interrupt) {}
  ~ModelReply() override {
    if (pending_) Finish(Errc::kIo);
  }
  void Error(const holdfast::Error& error) override {
    if (fs::EndsMount(error.code) && !requests_->refusing()) mount_->Fatal(error);
    Finish(error);
  }
  fs::Interrupt* interrupt() override { return interrupt_.get(); }
  void Done() override { Finish(Errc::kOk); }
  void Data(std::span<const std::byte> bytes) override {
    answer().data.assign(bytes.begin(), bytes.end());
    Finish(Errc::kOk);
  }
  void Written(size_t bytes) override {
    answer().written = bytes;
    Finish(Errc::kOk);
  }
  void Position(uint64_t) override { Finish(Errc::kOk); }
  bool own() const override { return pending_ && pending_->own; }
  bool Entry(const fs::EntryAnswer& entry) override {
    Copy(entry, &answer());
    Finish(Errc::kOk);
    return true;
  }
  void Attr(const fs::Attr& attr, bool keep) override {
    answer().attr = attr;
    answer().keep_attr = keep;
    Finish(Errc::kOk);
  }
  void Opened(const fs::OpenAnswer& open) override {
    answer().open = open;
    Finish(Errc::kOk);
  }
  void Created(const fs::EntryAnswer& entry, const fs::OpenAnswer& open) override {
    Copy(entry, &answer());
    answer().open = open;
    Finish(Errc::kOk);
  }
  void Listing(fs::KernelRequests& requests, KernelInode dir, const fs::DirPage& page, bool plus, size_t) override {
    for (const fs::DirEntry& e : page.entries) {
      answer().listing.push_back(e);
      KernelModel::Answer listed;
      if (plus && e.has_attr && e.name != "." && e.name != "..") {
        fs::Entry full;
        full.attr = e.attr;
        full.parent_acquisition = page.parent_acquisition;
        Copy(requests.JudgeListed(dir, e.name, full), &listed);
      }
      answer().listed.push_back(std::move(listed));
    }
    Finish(Errc::kOk);
  }

 private:
  KernelModel::Answer& answer() { return *pending_->answer; }
  static void Copy(const fs::EntryAnswer& from, KernelModel::Answer* to) {
    to->entry = *from.entry;
    to->attr = from.entry->attr;
    to->keep_entry = from.keep_entry;
    to->keep_attr = from.keep_attr;
  }
  void Finish(holdfast::Error error) {
    if (!pending_) return;
    answer().error = std::move(error);
    kernel_->Deliver(std::exchange(pending_, nullptr));
  }

  KernelModel* kernel_;
  KernelModel::PendingPtr pending_;
  fs::Mount* mount_;
  std::shared_ptr<fs::KernelRequests> requests_;
  std::shared_ptr<fs::Interrupt> interrupt_;
};

void KernelModel::Deliver(PendingPtr pending) {
  Duration delay = Between(knobs_.reply_max);
  if (world_->random().Chance(knobs_.slow_reply)) delay = Between(knobs_.slow_reply_max);
  sim::SimExecutor* executor = executor_;
  world_->After(delay, [this, executor, pending] {
    executor->Post([this, pending] {
      if (pending->over) return;
      pending->over = true;
      HF_LOG(LogLevel::kDebug, "kernel", "answered",
             {{"at", world_->now().ns / 1000}, {"node", node_id_.v}, {"id", pending->id}, {"what", pending->what},
              {"error", ErrcName(pending->answer->error.code)}});
      pending_.remove(pending);
      pending->done.Set(true);
    });
  });
}

fs::KernelReplyPtr KernelModel::ReplyFor(PendingPtr pending, fs::Mount* mount, std::shared_ptr<fs::KernelRequests> requests) {
  return std::make_unique<ModelReply>(this, std::move(pending), mount, std::move(requests));
}

// ---- requests ---------------------------------------------------------------------------------------------------

// First come, first served, as on /dev/fuse.
void KernelModel::Deliver(std::function<void(fs::KernelRequests&)> call) {
  Instant arrival = std::max(world_->now() + Between(knobs_.request_max), last_arrival_);
  last_arrival_ = arrival;
  std::shared_ptr<fs::KernelRequests> requests = requests_;
  sim::SimExecutor* server = server_;
  world_->At(arrival, [requests, server, call = std::move(call)] {
    server->Post([requests, call] { call(*requests); });
  });
}

Task<std::shared_ptr<KernelModel::Answer>> KernelModel::Ask(const char* what, KernelInode inode, Send send, bool own) {
  auto pending = std::make_shared<Pending>();
  pending->own = own;
  pending->what = what;
  pending->since = world_->now();
  pending->inode = inode;
  if (!requests_) {
    pending->answer->error = holdfast::Error(Errc::kDisconnected, "no connection");
    co_return pending->answer;
  }
  pending_.push_back(pending);
  pending->id = ++next_request_;
  HF_LOG(LogLevel::kDebug, "kernel", "asks", {{"at", world_->now().ns / 1000}, {"node", node_id_.v}, {"id", pending->id}, {"what", what}, {"inode", inode & 0xffff'ffff}});
  fs::Mount* mount = mount_;
  std::shared_ptr<fs::KernelRequests> requests = requests_;
  std::function<void(fs::KernelRequests&)> call = [this, pending, mount, requests, send](fs::KernelRequests& r) {
    send(r, ReplyFor(pending, mount, requests));
  };
  Deliver(std::move(call));
  co_await pending->done;
  co_return pending->answer;
}

KernelNode::~KernelNode() {
  ++kernel->evictions_;
  kernel->SendForget(node, lookups, connection);
}

void KernelModel::SendForget(KernelInode node, uint64_t count, uint64_t connection) {
  if (!requests_ || count == 0 || node == fs::kRootNode || connection != connection_) return;
  Deliver([node, count](fs::KernelRequests& r) { r.Forget(node, count); });
}

// ---- life -------------------------------------------------------------------------------------------------------

KernelModel::KernelModel(sim::World* world, NodeId node, KernelKnobs knobs)
    : world_(world), node_id_(node), knobs_(knobs), executor_(&world->Start(node)) {}

KernelModel::~KernelModel() { requests_ = nullptr; }

void KernelModel::Connect(fs::Mount* mount, sim::SimExecutor* server) {
  mount_ = mount;
  server_ = server;
  ++connection_;
  mount->AttachKernel(this);
  fs::KernelRequests::Parts parts;
  parts.vfs = &mount->vfs();
  parts.cache = &mount->kernel_cache();
  parts.ranges = &mount->ranges();
  parts.lease = mount->lease();
  parts.incarnation = mount->owner().incarnation;
  parts.clock = &server->clock();
  requests_ = std::make_shared<fs::KernelRequests>(parts);
  nodes_.clear();
  root_ = std::make_shared<KernelNode>(this, fs::kRootNode);
  root_->connection = connection_;
  root_->attr.mode = 040755;
  root_->attr.node = fs::kRootNode;
  nodes_[fs::kRootNode] = root_;
}

Task<void> KernelModel::Sweep() {
  ++epoch_;
  std::vector<NodePtr> all;
  for (auto& [number, weak] : nodes_) {
    if (NodePtr node = weak.lock()) all.push_back(node);
  }
  for (NodePtr node : all) {
    node->attr_valid = false;
    node->attr_version = ++version_;
    // Locked pages are not up to date; they end with the connection.
    std::vector<uint64_t> present;
    for (auto& [index, page] : node->pages) present.push_back(index);
    for (uint64_t index : present) {
      auto it = node->pages.find(index);
      if (it != node->pages.end() && !it->second->lock.locked()) Detach(*node, index);
    }
  }
  co_return;
}

void KernelModel::Disconnect() {
  requests_ = nullptr;
  std::list<PendingPtr> ended;
  ended.swap(pending_);
  for (PendingPtr& pending : ended) {
    pending->over = true;
    pending->answer = std::make_shared<Answer>();
    pending->answer->error = holdfast::Error(Errc::kDisconnected, "the connection has ended");
    pending->done.Set(true);
  }
}

void KernelModel::KillSomebody() {
  if (pending_.empty()) return;
  auto it = std::next(pending_.begin(), static_cast<ptrdiff_t>(world_->random().Below(pending_.size())));
  std::string what = (*it)->what;
  if (what == "WRITE page" || what == "RELEASE" || (*it)->own) return;
  server_->Post([interrupt = (*it)->interrupt] { interrupt->Raise(); });
}

void KernelModel::ForgetAll() {
  if (root_) root_->children.clear();
}

std::string KernelModel::Dump() const {
  std::string out = "kernel of node " + std::to_string(node_id_.v) + (connected() ? "" : " (not connected)") + "\n";
  for (const PendingPtr& p : pending_) {
    out += "  " + std::string(p->what) + " of inode " + std::to_string(p->inode & 0xffff'ffff) + " since " + std::to_string((world_->now() - p->since).ms()) + " ms\n";
  }
  return out;
}

// ---- notifications ----------------------------------------------------------------------------------------------

NodePtr KernelModel::Live(KernelInode inode) {
  auto it = nodes_.find(inode);
  return it == nodes_.end() ? nullptr : it->second.lock();
}

// They run in the mount's pool of threads, inside the kernel: a mount that dies does not end them.
Task<Status> KernelModel::InvalidateInode(KernelInode inode, int64_t offset, int64_t length) {
  auto done = std::make_shared<Completion<Errc>>();
  sim::SimExecutor* executor = executor_;
  uint64_t connection = connection_;
  world_->After(NotifyDelay(), [this, executor, inode, offset, length, done, connection] {
    executor->Post([this, executor, inode, offset, length, done, connection] {
      if (connection != connection_ || !requests_) return done->Set(Errc::kOk);
      executor->Spawn(InvalidateHere(inode, offset, length, done));
    });
  });
  Completion<Errc>& answer = *done;
  Errc code = co_await answer;
  co_return code;
}

Task<void> KernelModel::InvalidateHere(KernelInode inode, int64_t offset, int64_t length,
                                       std::shared_ptr<Completion<Errc>> done) {
  NodePtr node = Live(inode);
  HF_LOG(LogLevel::kDebug, "kernel", "invalidate",
         {{"at", world_->now().ns / 1000}, {"node", node_id_.v}, {"inode", inode & 0xffff'ffff}, {"offset", offset}, {"length", length},
          {"known", node != nullptr}});
  if (!node) {
    done->Set(Errc::kNotFound);
    co_return;
  }
  node->attr_version = ++version_;
  node->attr_valid = false;
  if (offset >= 0) {
    uint64_t first = static_cast<uint64_t>(offset) / kPageBytes;
    uint64_t last = length <= 0 ? UINT64_MAX : static_cast<uint64_t>(offset + length - 1) / kPageBytes;
    co_await InvalidatePages(node, first, last);
  }
  done->Set(Errc::kOk);
}

Task<Status> KernelModel::DropEntries(KernelInode parent, std::vector<KernelEntryDrop> names) {
  auto done = std::make_shared<Completion<Errc>>();
  sim::SimExecutor* executor = executor_;
  uint64_t connection = connection_;
  world_->After(Between(knobs_.notify_max), [this, executor, parent, names = std::move(names), done, connection] {
    executor->Post([this, executor, parent, names, done, connection] {
      if (connection != connection_ || !requests_) return done->Set(Errc::kOk);
      executor->Spawn(DropHere(parent, names, done));
    });
  });
  Completion<Errc>& answer = *done;
  Errc code = co_await answer;
  co_return code;
}

Task<void> KernelModel::DropHere(KernelInode parent, std::vector<KernelEntryDrop> names,
                                 std::shared_ptr<Completion<Errc>> done) {
  NodePtr dir = Live(parent);
  for (const KernelEntryDrop& drop : names) {
    if (!dir) break;
    auto guard = co_await dir->rwsem.Lock(false);
    auto it = dir->children.find(drop.name);
    if (it == dir->children.end()) continue;
    dir->attr_valid = false;
    DentryPtr dentry = it->second;
    dentry->keep = false;
    if (!drop.expire_only) Unhash(dir, drop.name, dentry);
  }
  done->Set(Errc::kOk);
}

Status KernelModel::Epoch() {
  if (!knobs_.has_epoch) return Errc::kUnsupported;
  ++epoch_;
  return Status();
}

}  // namespace holdfast::whole
