// KernelModel: the operating system of one node as applications and a mount see it: names with timeouts and epochs,
// attributes with versions, page cache, i_rwsem and page locks, mappings, requests and replies that take time, FORGETs.
// Below it are the production calls of fs/kernel_requests.h; the mount's invalidations come through base/kernel.h.
// Source: Linux 6.18 fs/fuse/{dir,file,inode,readdir,notify}.c, fs/namei.c, mm/{filemap,truncate}.c, without writeback cache,
// with EXPLICIT_INVAL_DATA, ATOMIC_O_TRUNC, PARALLEL_DIROPS, DIRECT_IO_ALLOW_MMAP, as fs/fuse/server.cc asks for.
// Applications run on executor(), which outlives mounts: a kernel goes on when a mount process dies.
// Files: kernel_wire.cc (requests, notifications, life), kernel_names.cc, kernel_attr.cc, kernel_pages.cc, kernel_files.cc.
// Errors are those of vfs.h; kDisconnected: the connection was ended (ENOTCONN), the outcome is unknown.
#pragma once

#include <functional>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/kernel.h"
#include "base/sync.h"
#include "fs/kernel_requests.h"
#include "tests/sim/world.h"
#include "tests/whole/model/knobs.h"

namespace holdfast::fs {
class Mount;
}

namespace holdfast::whole {

class KernelModel;

// i_rwsem: first come, first served; readers together.
class RwLock {
 public:
  class [[nodiscard]] Guard {
   public:
    Guard() = default;
    Guard(RwLock* lock, bool shared) : lock_(lock), shared_(shared) {}
    Guard(Guard&& o) noexcept : lock_(std::exchange(o.lock_, nullptr)), shared_(o.shared_) {}
    Guard& operator=(Guard&& o) noexcept {
      Release();
      lock_ = std::exchange(o.lock_, nullptr);
      shared_ = o.shared_;
      return *this;
    }
    ~Guard() { Release(); }
    void Release() {
      if (lock_) std::exchange(lock_, nullptr)->Unlock(shared_);
    }

   private:
    RwLock* lock_ = nullptr;
    bool shared_ = false;
  };
  Task<Guard> Lock(bool shared);

 private:
  void Unlock(bool shared);
  void Wake();
  struct Waiter {
    bool shared;
    Completion<bool> granted;
  };
  int readers_ = 0;
  bool writer_ = false;
  std::list<Waiter*> waiters_;
};

inline constexpr uint64_t kPageBytes = 4096;

struct Page {
  std::vector<std::byte> data = std::vector<std::byte>(kPageBytes);
  bool attached = true;  // false: taken out of the cache
  bool uptodate = false;
  bool dirty = false;
  Mutex lock;
  int writeback = 0;
  WaitList written;
};
using PagePtr = std::shared_ptr<Page>;

struct KernelNode;
using NodePtr = std::shared_ptr<KernelNode>;

struct Dentry {
  NodePtr node;  // nullptr: a negative one
  bool keep = false;
  uint64_t epoch = 0;
};
using DentryPtr = std::shared_ptr<Dentry>;

// struct inode. Whoever holds a NodePtr keeps it in memory: dentries, open files, operations; then comes its FORGET.
struct KernelNode {
  KernelNode(KernelModel* k, KernelInode n) : kernel(k), node(n) {}
  ~KernelNode();
  KernelModel* kernel;
  KernelInode node;
  uint64_t connection = 0;  // of which mount
  uint64_t lookups = 0;
  fs::Attr attr;
  bool attr_valid = false;
  uint64_t attr_version = 0;
  uint64_t size = 0;
  RwLock rwsem;
  std::map<std::string, DentryPtr> children;
  std::map<std::string, std::shared_ptr<WaitList>> looking;  // names being looked up
  std::map<uint64_t, PagePtr> pages;                         // by page number
  std::vector<fs::FileHandle*> write_files;
  bool directory() const { return attr.type() == fs::FileType::kDirectory; }
};

// struct file. The last owner calls Close.
struct OpenFile {
  NodePtr node;
  fs::FileHandle* handle = nullptr;
  uint64_t connection = 0;
  int flags = 0;
  bool direct = false;
  bool locked = false;
  uint64_t owner = 0;
};
using FilePtr = std::shared_ptr<OpenFile>;

struct Listed {
  std::string name;
  uint64_t number = 0;
  KernelInode node = 0;
  fs::FileType type = fs::FileType::kUnknown;
};

class KernelModel final : public Kernel {
 public:
  KernelModel(sim::World* world, NodeId node, KernelKnobs knobs);
  ~KernelModel() override;

  // ---- life -----------------------------------------------------------------------------------------------------
  // A mount; its root is the only inode known.
  void Connect(fs::Mount* mount, sim::SimExecutor* server);
  // The supervisor's work: everything is told to ask again, pages are dropped.
  Task<void> Sweep();
  // The connection is ended: requests under way and later ones give kDisconnected.
  void Disconnect();
  // As umount: what nobody uses goes. REQUIRES: applications have ended.
  void ForgetAll();
  bool connected() const { return requests_ != nullptr; }
  std::shared_ptr<fs::KernelRequests> requests_shared() { return requests_; }
  sim::SimExecutor& executor() { return *executor_; }
  NodePtr root() { return root_; }
  // A process with a request under way is killed: the request ends with kInterrupted if it only waits.
  void KillSomebody();
  size_t outstanding() const { return pending_.size(); }
  std::string Dump() const;

  // ---- for applications: names ----------------------------------------------------------------------------------
  Task<Result<NodePtr>> Find(NodePtr dir, std::string name);
  Task<Result<NodePtr>> MakeDir(NodePtr dir, std::string name);
  // flags of open(2), O_CREAT among them or not.
  Task<Result<FilePtr>> Open(NodePtr dir, std::string name, int flags);
  Task<Result<FilePtr>> OpenNode(NodePtr node, int flags);
  Task<Status> Remove(NodePtr dir, std::string name, bool directory);
  Task<Status> Rename(NodePtr dir, std::string name, NodePtr new_dir, std::string new_name, uint32_t flags);
  Task<Status> Link(NodePtr node, NodePtr dir, std::string name);
  // pages: how many READDIRs it took. Only one is one moment.
  Task<Result<std::vector<Listed>>> List(NodePtr dir, size_t* pages);
  Task<Result<fs::Attr>> Stat(NodePtr node);

  // ---- for applications: files ----------------------------------------------------------------------------------
  Task<Result<Bytes>> Read(FilePtr file, uint64_t offset, uint64_t length);
  Task<Result<uint64_t>> Write(FilePtr file, uint64_t offset, Bytes data);
  // A load from / a store into a shared mapping of the file, within one page. kRange: SIGBUS.
  Task<Result<Bytes>> Load(FilePtr file, uint64_t offset, uint64_t length);
  Task<Status> Store(FilePtr file, uint64_t offset, Bytes data);
  Task<Status> Truncate(NodePtr node, uint64_t size);
  Task<Status> SetOwner(NodePtr node, uint32_t uid);
  // fallocate(2): flags of fs::FallocateFlag.
  Task<Status> Fallocate(FilePtr file, uint64_t offset, uint64_t length, uint32_t flags);
  Task<Status> SetXattr(NodePtr node, std::string name, Bytes value);
  Task<Result<Bytes>> GetXattr(NodePtr node, std::string name);
  Task<Status> Fsync(FilePtr file);
  Task<Status> FsyncDir(NodePtr dir);
  Task<Status> Close(FilePtr file);
  // fcntl(F_SETLKW), or flock(2): type kUnlock ends it.
  Task<Status> LockRange(FilePtr file, uint64_t start, uint64_t end, dlm::RangeType type,
                         dlm::RangeSpace space = dlm::RangeSpace::kFcntl);

  // ---- Kernel (called on the mount's executor) --------------------------------------------------------------------
  bool has_epoch() const override { return knobs_.has_epoch; }
  Task<Status> InvalidateInode(KernelInode inode, int64_t offset, int64_t length) override;
  Task<Status> DropEntries(KernelInode parent, std::vector<KernelEntryDrop> names) override;
  Status Epoch() override;
  Task<Result<SizeSeen>> AskSize(KernelInode inode, uint32_t generation) override;

 private:
  friend struct KernelNode;
  friend class ModelReply;
  // What came back for one request.
  struct Answer {
    holdfast::Error error = Errc::kOk;
    fs::Entry entry;
    bool keep_entry = false;
    bool keep_attr = false;
    fs::Attr attr;
    fs::OpenAnswer open;
    Bytes data;
    size_t written = 0;
    std::vector<fs::DirEntry> listing;
    std::vector<Answer> listed;  // READDIRPLUS: of those with attributes; others have no entry
    bool ok() const { return error.code == Errc::kOk; }
  };
  struct Pending {
    const char* what = "";
    uint64_t id = 0;
    KernelInode inode = 0;
    Instant since;
    std::shared_ptr<Answer> answer = std::make_shared<Answer>();
    bool over = false;
    bool own = false;  // of a thread of the mount
    std::shared_ptr<fs::Interrupt> interrupt = std::make_shared<fs::Interrupt>();
    Completion<bool> done;
  };
  using PendingPtr = std::shared_ptr<Pending>;
  using Send = std::function<void(fs::KernelRequests&, fs::KernelReplyPtr)>;

  Task<std::shared_ptr<Answer>> Ask(const char* what, KernelInode inode, Send send, bool own = false);
  void Deliver(PendingPtr pending);
  fs::KernelReplyPtr ReplyFor(PendingPtr pending, fs::Mount* mount, std::shared_ptr<fs::KernelRequests> requests);
  Task<void> SetRange(fs::KernelRequests* requests, fs::KernelReplyPtr reply, fs::RangeLocks::Lock lock);
  void SendForget(KernelInode node, uint64_t count, uint64_t connection);
  void Deliver(std::function<void(fs::KernelRequests&)> call);
  Duration NotifyDelay() {
    bool slow = knobs_.slow_notify > 0 && world_->random().Chance(knobs_.slow_notify);
    return Between(slow ? knobs_.slow_notify_max : knobs_.notify_max);
  }
  Duration Between(Duration max) { return world_->random().Between(Microseconds(1), max); }

  // Names.
  enum class Verdict { kValid, kInvalid };
  Task<Verdict> Revalidate(NodePtr dir, std::string name, DentryPtr dentry, bool always);
  Task<Result<DentryPtr>> LookUp(NodePtr dir, std::string name);  // i_rwsem is held
  Task<Result<DentryPtr>> Walk(NodePtr dir, std::string name, bool always, bool locked);
  Task<Result<NodePtr>> FindOnce(NodePtr dir, std::string name, bool always);
  Task<Result<NodePtr>> MakeDirOnce(NodePtr dir, std::string name, bool always);
  Task<Result<FilePtr>> OpenOnce(NodePtr dir, std::string name, int flags, bool always);
  Task<Status> RemoveOnce(NodePtr dir, std::string name, bool directory, bool always);
  Task<Status> RenameOnce(NodePtr dir, std::string name, NodePtr new_dir, std::string new_name, uint32_t flags, bool always);
  Task<Result<FilePtr>> CreateFile(NodePtr dir, std::string name, int flags);
  void Unhash(NodePtr dir, const std::string& name, DentryPtr dentry);
  DentryPtr Splice(NodePtr dir, const std::string& name, NodePtr node, bool keep, uint64_t epoch);
  void ReclaimSomething(NodePtr dir);
  Task<void> TakeListing(NodePtr dir, std::shared_ptr<Answer> answer, uint64_t version, uint64_t evictions,
                         std::vector<Listed>* out);
  // Counts the lookup of an answer. version 0: attributes are taken whatever has happened since. If an inode was evicted since
  // the request began (evictions), it may have been this one, with newer attributes: they are asked for again.
  Task<NodePtr> Get(const Answer* answer, uint64_t version, uint64_t evictions = 0);
  Task<Result<fs::Attr>> AskAttr(NodePtr node, bool own);
  Task<void> AskSizeHere(KernelInode inode, std::shared_ptr<Completion<Result<SizeSeen>>> done);
  Task<void> ChangeAttr(NodePtr node, fs::Attr attr, bool keep, uint64_t version);

  // Pages.
  PagePtr PageAt(KernelNode& node, uint64_t index);
  void Detach(KernelNode& node, uint64_t index);
  // The first page, with what the READ gave it, even if it has been dropped since: its reader holds a reference.
  Task<Result<PagePtr>> FillPages(NodePtr node, fs::FileHandle* handle, uint64_t index, uint64_t ahead);
  Task<Status> WritePage(NodePtr node, uint64_t index, PagePtr page);
  Task<Status> WriteDirty(NodePtr node, uint64_t first, uint64_t last);
  Task<void> InvalidatePages(NodePtr node, uint64_t first, uint64_t last);
  Task<void> TruncatePages(NodePtr node, uint64_t size);
  Task<Result<Bytes>> ReadCached(FilePtr file, uint64_t offset, uint64_t length);
  Task<Result<Bytes>> ReadDirect(FilePtr file, uint64_t offset, uint64_t length);
  Task<Result<uint64_t>> WriteCached(FilePtr file, uint64_t offset, Bytes data);
  Task<Result<uint64_t>> WriteDirect(FilePtr file, uint64_t offset, Bytes data);
  Task<Result<uint64_t>> SendWrite(FilePtr file, uint64_t offset, Bytes data);
  void Wrote(KernelNode& node, uint64_t end);
  Task<void> Truncated(NodePtr node);
  Task<void> TruncateRange(NodePtr node, uint64_t offset, uint64_t length);
  Task<void> DoSetXattr(fs::KernelRequests* requests, fs::KernelReplyPtr reply, KernelInode node, std::string name, Bytes value);
  Task<void> DoGetXattr(fs::KernelRequests* requests, fs::KernelReplyPtr reply, KernelInode node, std::string name);
  Task<Result<PagePtr>> Fault(FilePtr file, uint64_t index, bool store);
  FilePtr FinishOpen(NodePtr node, const fs::OpenAnswer& open, int flags);

  Task<void> InvalidateHere(KernelInode inode, int64_t offset, int64_t length, std::shared_ptr<Completion<Errc>> done);
  Task<void> DropHere(KernelInode parent, std::vector<KernelEntryDrop> names, std::shared_ptr<Completion<Errc>> done);
  NodePtr Live(KernelInode inode);

  sim::World* world_;
  NodeId node_id_;
  KernelKnobs knobs_;
  sim::SimExecutor* executor_;
  fs::Mount* mount_ = nullptr;
  sim::SimExecutor* server_ = nullptr;
  std::shared_ptr<fs::KernelRequests> requests_;  // nullptr: not connected
  uint64_t connection_ = 0;
  uint64_t epoch_ = 1;
  uint64_t version_ = 1;  // fc->attr_version
  uint64_t evictions_ = 1;  // fc->evict_ctr
  uint64_t next_owner_ = 1;
  uint64_t next_request_ = 0;
  Instant last_arrival_;
  std::map<KernelInode, std::weak_ptr<KernelNode>> nodes_;
  NodePtr root_;
  std::list<PendingPtr> pending_;
};

}  // namespace holdfast::whole
