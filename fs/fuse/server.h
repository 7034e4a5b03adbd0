// FuseServer: hands the kernel's requests to KernelRequests (fs/kernel_requests.h: vfs and the kernel's rules) and
// writes the answers. One coroutine per request; requests are answered in the order in which they finish.
// INVARIANT: every request gets one reply, unless the connection is gone.
// Files: server.cc (life, requests), reply.cc, ops_names.cc, ops_attr.cc, ops_data.cc, ops_dir.cc, ops_xattr.cc,
// ops_locks.cc.
// Threading: the reactor's.
#pragma once

#include <cerrno>
#include <functional>
#include <memory>
#include <string>

#include "base/lease_page.h"
#include "fs/fuse/caller_watch.h"
#include "fs/fuse/fuse_kernel.h"
#include "fs/fuse/session.h"
#include "fs/fuse/supervisor_link.h"
#include "fs/kernel_requests.h"

namespace holdfast::fs::fuse {

class FuseServer {
 public:
  using Parts = KernelRequests::Parts;
  explicit FuseServer(Parts parts);
  ~FuseServer();

  static const fuse_lowlevel_ops& Ops();
  // Before the session is started.
  void Attach(FuseSession* session, FuseKernel* kernel, KernelCache* cache) {
    session_ = session;
    kernel_ = kernel;
    requests_.SetCache(cache);
  }
  void SetSupervisor(SupervisorLink* supervisor) {
    requests_.SetCovered([supervisor] { return supervisor->covered(); });
  }
  // An operation met damage or a dead device: the mount must withdraw.
  void SetOnFatal(std::function<void(holdfast::Error)> on_fatal) { on_fatal_ = std::move(on_fatal); }
  void SetOnInit(std::function<void()> on_init) { on_init_ = std::move(on_init); }

  // No more replies may be sent (the session is about to be closed).
  void Disconnect() { connected_ = false; }
  // From now on every new request is answered EIO.
  void Refuse() { requests_.Refuse(); }
  size_t outstanding() const { return outstanding_; }
  WaitList& idle() { return idle_; }

  // ---- for the ops ------------------------------------------------------------------------------------------------
  // A request under way: counts it, answers it once.
  class Request {
   public:
    Request(FuseServer* server, fuse_req_t req);
    Request(Request&& o) noexcept
        : server_(std::exchange(o.server_, nullptr)), req_(std::exchange(o.req_, nullptr)), call_(std::move(o.call_)) {}
    Request& operator=(Request&&) = delete;
    ~Request();
    fuse_req_t raw() const { return req_; }
    CallerWatch::Call* call() const { return call_.get(); }
    Interrupt* interrupt() const { return call_->interrupt(); }
    void Error(const holdfast::Error& error);
    void Errno(int error);  // 0: success without data
    void Reply(const holdfast::Status& status);
    void Buffer(const void* data, size_t size);
    void Write(size_t bytes);
    void Entry(const EntryAnswer& answer, bool* counted);
    void Attr(const fs::Attr& attr, bool keep);

   private:
    friend class FuseServer;
    fuse_req_t Take() { return std::exchange(req_, nullptr); }
    FuseServer* server_;
    fuse_req_t req_;
    std::unique_ptr<CallerWatch::Call> call_;
  };

  static FuseServer* Of(fuse_req_t req) { return static_cast<FuseServer*>(fuse_req_userdata(req)); }
  // Refused requests are answered here; true: go on.
  bool Begin(fuse_req_t req);
  // Holds a reply while the lease is over.
  bool Suspended() const { return requests_.Suspended(); }
  Task<bool> AwaitLease(Interrupt* interrupt) { return requests_.AwaitLease(interrupt); }

  KernelRequests& requests() { return requests_; }
  Vfs& vfs() { return requests_.vfs(); }
  KernelCache& cache() { return requests_.cache(); }
  RangeLocks& ranges() { return requests_.ranges(); }
  FuseSession* session() { return session_; }
  FuseKernel* kernel() { return kernel_; }

 private:
  static void OnInit(void* user, fuse_conn_info* connection);

  CallerWatch watch_;
  KernelRequests requests_;
  FuseSession* session_ = nullptr;
  FuseKernel* kernel_ = nullptr;
  std::function<void()> on_init_;
  std::function<void(holdfast::Error)> on_fatal_;
  bool connected_ = true;
  size_t outstanding_ = 0;
  WaitList idle_;
};

int ErrnoOf(Errc code);
Caller CallerOf(fuse_req_t req);
// A request's answer as KernelRequests gives it. no_data: what kNoData means there.
KernelReplyPtr ReplyTo(FuseServer* server, fuse_req_t req, int no_data = ENODATA);
// A GETATTR's, or, in the form of that, a STATX's.
KernelReplyPtr ReplyAttr(FuseServer* server, fuse_req_t req, bool statx);

// Each file of operations adds its own.
void AddNameOps(fuse_lowlevel_ops* ops);
void AddAttrOps(fuse_lowlevel_ops* ops);
void AddDataOps(fuse_lowlevel_ops* ops);
void AddDirOps(fuse_lowlevel_ops* ops);
void AddXattrOps(fuse_lowlevel_ops* ops);
void AddLockOps(fuse_lowlevel_ops* ops);

}  // namespace holdfast::fs::fuse
