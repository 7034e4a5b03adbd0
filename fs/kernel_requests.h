// KernelRequests: what each request of the operating system's kernel asks of vfs.h, what the kernel may keep of the answer,
// and in which order (filesystem.md, "The kernel's side"). FUSE-free: fs/fuse parses requests and writes answers; the
// simulator's model of a kernel (tests/whole/model) makes the same calls.
// INVARIANT: what the kernel may keep is decided (KernelCache::Gave...) in the same turn in which the reply is sent.
// INVARIANT: nothing that the kernel may keep is handed out while the lease is over.
// Files: kernel_requests.cc (replies, lease, names, attributes, directories), kernel_requests_data.cc (open files).
// Threading: one executor. Each call begins a coroutine of its own and returns.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/lease_page.h"
#include "fs/kernel_cache.h"
#include "fs/range_locks.h"
#include "fs/vfs.h"

namespace holdfast::fs {

// What of open(2)'s flags matters here.
struct OpenMode {
  bool write = false;
  bool append = false;
  bool direct = false;  // O_DIRECT
  bool sync = false;    // O_SYNC, O_DSYNC
  bool truncate = false;
  bool exclusive = false;
  bool kill_privileges = false;  // FUSE_OPEN_KILL_SUIDGID
};

// One open file; its address is the kernel's file handle.
struct FileHandle {
  KernelInode inode = 0;
  bool write = false;
  bool append = false;
  bool direct = false;  // only faults go through the page cache
  bool sync = false;
  bool locked = false;  // a range lock was set through it
};

// Timeouts are unlimited or 0.
struct EntryAnswer {
  const Entry* entry = nullptr;  // not found: an absent name
  bool keep_entry = false;
  bool keep_attr = false;
};

struct OpenAnswer {
  FileHandle* handle = nullptr;
  bool direct = false;           // FOPEN_DIRECT_IO
  bool keep_pages = false;       // FOPEN_KEEP_CACHE
  bool parallel_writes = false;  // FOPEN_PARALLEL_DIRECT_WRITES
};

class KernelRequests;

// Answers one request, once; one that goes without an answer gives EIO.
class KernelReply {
 public:
  virtual ~KernelReply() = default;
  virtual void Error(const holdfast::Error& error) = 0;
  virtual void Done() = 0;
  virtual void Data(std::span<const std::byte> bytes) = 0;
  virtual void Written(size_t bytes) = 0;
  virtual void Position(uint64_t offset) = 0;
  // False: the requester is gone and the kernel has not counted the lookup.
  virtual bool Entry(const EntryAnswer& answer) = 0;
  virtual void Attr(const fs::Attr& attr, bool keep) = 0;
  virtual void Opened(const OpenAnswer& answer) = 0;
  virtual void Created(const EntryAnswer& entry, const OpenAnswer& open) = 0;
  // plus: each entry that has attributes and goes out is first put through requests.JudgeListed().
  virtual void Listing(KernelRequests& requests, KernelInode dir, const DirPage& page, bool plus, size_t size) = 0;
  // Raised when the process that asked is being killed (rule 7): what it waits for ends. nullptr: it never is.
  virtual Interrupt* interrupt() { return nullptr; }
  // The question of a thread of ours (Kernel::AskSize), not an application's.
  virtual bool own() const { return false; }
  // A process that is ending gets no signals: from `patience` on that raises the interrupt too.
  virtual void EndWhenExiting(Duration patience) { (void)patience; }

  // The answer to an operation that failed. One that was ended so that the kernel lets go of a directory is to be repeated.
  void Fail(const holdfast::Error& error) {
    Interrupt* ended = error.code == Errc::kInterrupted ? interrupt() : nullptr;
    if (ended != nullptr && ended->raised() && !ended->killed()) {
      Error(Errc::kStale);
    } else {
      Error(error);
    }
  }
  void Reply(const holdfast::Status& status) {
    if (status.ok()) {
      Done();
    } else {
      Fail(status.error());
    }
  }
};
using KernelReplyPtr = std::unique_ptr<KernelReply>;

// Must the mount withdraw when an operation ends with this? Damage, or a device that is lost.
constexpr bool EndsMount(Errc code) {
  return code == Errc::kCorrupt || code == Errc::kIo || code == Errc::kConflict || code == Errc::kDisconnected;
}

class KernelRequests {
 public:
  struct Parts {
    Vfs* vfs = nullptr;
    KernelCache* cache = nullptr;
    RangeLocks* ranges = nullptr;
    const LeasePage* lease = nullptr;  // nullptr: none
    Incarnation incarnation;
    Clock* clock = nullptr;
  };
  explicit KernelRequests(Parts parts) : parts_(parts) {}
  ~KernelRequests() { background_.Abandon(); }

  void SetCache(KernelCache* cache) { parts_.cache = cache; }
  // Is somebody there who empties the kernel's caches when this process dies? Without one nothing may be kept.
  void SetCovered(std::function<bool()> covered) { covered_ = std::move(covered); }
  // From now on every new request is answered with an error.
  void Refuse() { refuse_ = true; }
  bool refusing() const { return refuse_; }

  // ---- names ----------------------------------------------------------------------------------------------------
  void Lookup(KernelReplyPtr reply, KernelInode parent, std::string name);
  void Forget(KernelInode inode, uint64_t count);
  void MakeNode(KernelReplyPtr reply, KernelInode parent, std::string name, uint32_t mode, uint64_t rdev, Caller caller);
  void MakeDir(KernelReplyPtr reply, KernelInode parent, std::string name, uint32_t mode, Caller caller);
  void Symlink(KernelReplyPtr reply, KernelInode parent, std::string name, std::string target, Caller caller);
  void Link(KernelReplyPtr reply, KernelInode inode, KernelInode parent, std::string name);
  void Remove(KernelReplyPtr reply, KernelInode parent, std::string name, bool directory);
  void Rename(KernelReplyPtr reply, KernelInode parent, std::string name, KernelInode new_parent, std::string new_name,
              uint32_t flags);
  void ReadLink(KernelReplyPtr reply, KernelInode inode);

  // ---- attributes, directories ----------------------------------------------------------------------------------
  void GetAttr(KernelReplyPtr reply, KernelInode inode);
  void Set(KernelReplyPtr reply, KernelInode inode, SetAttr set);
  void ReadDir(KernelReplyPtr reply, KernelInode dir, size_t size, uint64_t cookie, bool plus);
  // Files and directories.
  void Fsync(KernelReplyPtr reply, KernelInode inode, bool data_only);

  // ---- open files -----------------------------------------------------------------------------------------------
  void Open(KernelReplyPtr reply, KernelInode inode, OpenMode open);
  void Create(KernelReplyPtr reply, KernelInode parent, std::string name, uint32_t mode, OpenMode open,
              Caller caller);
  void TmpFile(KernelReplyPtr reply, KernelInode parent, uint32_t mode, OpenMode open, Caller caller);
  // owner 0: a fault of a mapping.
  void Read(KernelReplyPtr reply, FileHandle* handle, uint64_t offset, size_t size, uint64_t owner);
  // data lives as long as the reply.
  void Write(KernelReplyPtr reply, FileHandle* handle, uint64_t offset, std::span<const std::byte> data,
             WriteOptions options);
  // close(2) by a process.
  void Flush(KernelReplyPtr reply, FileHandle* handle, uint64_t owner);
  // The last close; handle is gone afterwards.
  void Release(KernelReplyPtr reply, FileHandle* handle);
  void Fallocate(KernelReplyPtr reply, KernelInode inode, uint64_t offset, uint64_t length, uint32_t mode);
  void Seek(KernelReplyPtr reply, KernelInode inode, uint64_t offset, bool data);

  // ---- for replies and for requests that are served elsewhere -----------------------------------------------------
  bool KeepAttr(const fs::Attr& attr, bool keep);
  // Counts the lookup if there is an inode.
  EntryAnswer Judge(KernelInode parent, std::string_view name, const Entry& entry, bool keep_attr, bool plus = false);
  EntryAnswer JudgeListed(KernelInode parent, std::string_view name, const Entry& entry) {
    return Judge(parent, name, entry, true, true);
  }
  // Holds a reply while the lease is over.
  bool Suspended() const;
  // False: its process is being killed meanwhile; nothing that was read may be answered.
  Task<bool> AwaitLease(Interrupt* interrupt);
  AlignedBuffer TakeBuffer(size_t size);
  void GiveBuffer(AlignedBuffer buffer);
  size_t open_handles() const { return handles_; }
  // For what goes on after its request was answered.
  Scope& background() { return background_; }

  Vfs& vfs() { return *parts_.vfs; }
  KernelCache& cache() { return *parts_.cache; }
  RangeLocks& ranges() { return *parts_.ranges; }

 private:
  using DirRequest = KernelCache::DirRequest;
  using Holds = KernelCache::Holds;
  using PageRequest = KernelCache::PageRequest;

  bool Refused(KernelReply& reply);
  void ReplyEntry(KernelReply& reply, KernelInode parent, const std::string& name, const Entry& entry, bool keep_attr);
  OpenAnswer OpenedWith(FileHandle handle, OpenMode open, bool keep_pages);
  // Remembers a new file's handle; it is direct unless EX is still held (rule 5).
  FileHandle NewFile(const fs::Attr& attr, OpenMode open);

  Task<void> DoLookup(KernelReplyPtr reply, DirRequest request, KernelInode parent, std::string name);
  Task<void> ReplyNew(KernelReply* reply, KernelInode parent, std::string name, Result<Entry> entry, bool keep_attr);
  Task<void> DoMakeNode(KernelReplyPtr reply, DirRequest request, KernelInode parent, std::string name, uint32_t mode,
                        uint64_t rdev, Caller caller);
  Task<void> DoMakeDir(KernelReplyPtr reply, DirRequest request, KernelInode parent, std::string name, uint32_t mode,
                       Caller caller);
  Task<void> DoSymlink(KernelReplyPtr reply, DirRequest request, KernelInode parent, std::string name, std::string target,
                       Caller caller);
  Task<void> DoLink(KernelReplyPtr reply, DirRequest request, KernelInode inode, KernelInode parent, std::string name);
  Task<void> DoRemove(KernelReplyPtr reply, DirRequest request, KernelInode parent, std::string name, bool directory);
  Task<void> DoRename(KernelReplyPtr reply, DirRequest from, DirRequest to, KernelInode parent, std::string name,
                      KernelInode new_parent, std::string new_name, uint32_t flags);
  Task<void> DoReadLink(KernelReplyPtr reply, KernelInode inode);
  Task<void> DoGetAttr(KernelReplyPtr reply, KernelInode inode);
  Task<void> DoSet(KernelReplyPtr reply, DirRequest request, KernelInode inode, SetAttr set);
  Task<void> DoReadDir(KernelReplyPtr reply, DirRequest request, KernelInode dir, size_t size, uint64_t cookie, bool plus);
  Task<void> DoFsync(KernelReplyPtr reply, DirRequest request, KernelInode inode, bool data_only);
  Task<holdfast::Error> CloseAgain(KernelInode inode);
  Task<void> DoOpen(KernelReplyPtr reply, KernelInode inode, OpenMode open);
  Task<void> DoCreate(KernelReplyPtr reply, DirRequest request, KernelInode parent, std::string name, uint32_t mode,
                      OpenMode open, Caller caller);
  Task<void> DoTmpFile(KernelReplyPtr reply, KernelInode parent, uint32_t mode, OpenMode open, Caller caller);
  Task<void> DoRead(KernelReplyPtr reply, std::optional<PageRequest> pages, FileHandle* handle, uint64_t offset,
                    size_t size);
  Task<void> DoWrite(KernelReplyPtr reply, std::optional<PageRequest> pages, FileHandle* handle, uint64_t offset,
                     std::span<const std::byte> data, WriteOptions options);
  Task<void> DoFlush(KernelReplyPtr reply, FileHandle* handle, uint64_t owner);
  Task<void> DoRelease(KernelReplyPtr reply, FileHandle* handle);
  Task<void> DoFallocate(KernelReplyPtr reply, KernelInode inode, uint64_t offset, uint64_t length, uint32_t mode);
  Task<void> DoSeek(KernelReplyPtr reply, KernelInode inode, uint64_t offset, bool data);

  Parts parts_;
  std::function<bool()> covered_;
  bool refuse_ = false;
  size_t handles_ = 0;
  std::vector<AlignedBuffer> small_buffers_, large_buffers_;
  Scope background_;
};

}  // namespace holdfast::fs
