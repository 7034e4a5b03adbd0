// FuseServer: answers the kernel's requests with the operations of vfs.h and applies the kernel's rules through
// KernelCache (fs/kernel_cache.h). One coroutine per request; requests are answered in the order in which they finish.
// INVARIANT: every request gets one reply, unless the connection is gone; nothing that the kernel may keep is handed
// out while the lease is over or no supervisor is there.
// Files: server.cc (life, replies), ops_names.cc, ops_attr.cc, ops_data.cc, ops_dir.cc, ops_xattr.cc, ops_locks.cc.
// Threading: the reactor's.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <unordered_set>

#include "base/lease_page.h"
#include "fs/fuse/session.h"
#include "fs/fuse/supervisor_link.h"
#include "fs/kernel_cache.h"
#include "fs/range_locks.h"
#include "fs/vfs.h"

struct fuse_entry_out;

namespace holdfast::fs::fuse {

// One open file or directory; its address is the kernel's fh.
struct FileHandle {
  KernelInode inode = 0;
  bool write = false;
  bool append = false;
  bool direct = false;  // FOPEN_DIRECT_IO: only faults go through the page cache
  bool sync = false;
  bool locked = false;  // a range lock was set through it
};

class FuseServer {
 public:
  struct Parts {
    Vfs* vfs = nullptr;
    KernelCache* cache = nullptr;
    RangeLocks* ranges = nullptr;
    const LeasePage* lease = nullptr;  // nullptr: none
    Incarnation incarnation;
    Clock* clock = nullptr;
    bool read_only = false;
  };
  explicit FuseServer(Parts parts);
  ~FuseServer();

  static const fuse_lowlevel_ops& Ops();
  // Before the session is started.
  void Attach(FuseSession* session, KernelCache* cache) {
    session_ = session;
    parts_.cache = cache;
  }
  void SetSupervisor(SupervisorLink* supervisor) { supervisor_ = supervisor; }
  // An operation met damage or a dead device: the mount must withdraw.
  void SetOnFatal(std::function<void(holdfast::Error)> on_fatal) { on_fatal_ = std::move(on_fatal); }
  void SetOnInit(std::function<void()> on_init) { on_init_ = std::move(on_init); }

  // No more replies may be sent (the session is about to be closed).
  void Disconnect() { connected_ = false; }
  // From now on every new request is answered EIO.
  void Refuse() { refuse_ = true; }
  size_t outstanding() const { return outstanding_; }
  WaitList& idle() { return idle_; }
  size_t open_handles() const { return handles_; }

  // ---- for the ops ------------------------------------------------------------------------------------------------
  // A request under way: counts it, answers it once.
  class Request {
   public:
    Request(FuseServer* server, fuse_req_t req);
    Request(Request&& o) noexcept : server_(std::exchange(o.server_, nullptr)), req_(std::exchange(o.req_, nullptr)) {}
    Request& operator=(Request&&) = delete;
    ~Request();
    fuse_req_t raw() const { return req_; }
    void Error(const holdfast::Error& error);
    void Errno(int error);  // 0: success without data
    void Reply(const holdfast::Status& status);
    void Buffer(const void* data, size_t size);
    void Write(size_t bytes);
    // Replies that hand out inodes; see GaveEntry/GaveAttr. keep_attr false: attribute timeout 0 (rule 3).
    void EntryReply(KernelInode parent, const std::string& name, const Entry& entry, bool keep_attr);
    void AttrReply(const Attr& attr, bool keep);

   private:
    friend class FuseServer;
    fuse_req_t Take() { return std::exchange(req_, nullptr); }
    FuseServer* server_;
    fuse_req_t req_;
  };

  static FuseServer* Of(fuse_req_t req) { return static_cast<FuseServer*>(fuse_req_userdata(req)); }
  // Refused requests are answered here; true: go on.
  bool Begin(fuse_req_t req);
  // Holds a reply while the lease is over. False: withdrawn meanwhile.
  bool Suspended() const;
  Task<void> AwaitLease();
  void FillEntry(KernelInode parent, std::string_view name, const Entry& entry, bool keep_attr, bool plus,
                 fuse_entry_param* out);
  // The same in the wire's form, for replies that libfuse has no call for.
  void FillEntryOut(KernelInode parent, std::string_view name, const Entry& entry, bool keep_attr, fuse_entry_out* out,
                    bool plus = false);
  double AttrTimeout(const Attr& attr, bool keep);
  FileHandle* NewHandle(FileHandle handle);
  void DropHandle(FileHandle* handle);
  AlignedBuffer TakeBuffer(size_t size);
  void GiveBuffer(AlignedBuffer buffer);

  Vfs& vfs() { return *parts_.vfs; }
  KernelCache& cache() { return *parts_.cache; }
  RangeLocks& ranges() { return *parts_.ranges; }
  FuseSession* session() { return session_; }

 private:
  static void OnInit(void* user, fuse_conn_info* connection);

  Parts parts_;
  FuseSession* session_ = nullptr;
  SupervisorLink* supervisor_ = nullptr;
  std::function<void()> on_init_;
  std::function<void(holdfast::Error)> on_fatal_;
  bool connected_ = true;
  bool refuse_ = false;
  size_t outstanding_ = 0;
  size_t handles_ = 0;
  WaitList idle_;
  std::vector<AlignedBuffer> small_buffers_, large_buffers_;
};

int ErrnoOf(Errc code);
void FillStat(const Attr& attr, struct stat* out);
Caller CallerOf(fuse_req_t req);

// Each file of operations adds its own.
void AddNameOps(fuse_lowlevel_ops* ops);
void AddAttrOps(fuse_lowlevel_ops* ops);
void AddDataOps(fuse_lowlevel_ops* ops);
void AddDirOps(fuse_lowlevel_ops* ops);
void AddXattrOps(fuse_lowlevel_ops* ops);
void AddLockOps(fuse_lowlevel_ops* ops);

}  // namespace holdfast::fs::fuse
