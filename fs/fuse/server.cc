#include "fs/fuse/server.h"

#include <cerrno>
#include "base/log.h"

namespace holdfast::fs::fuse {
namespace {

constexpr size_t kLargestIo = 1024 * 1024;  // bytes

}  // namespace

int ErrnoOf(Errc code) {
  switch (code) {
    case Errc::kOk: return 0;
    case Errc::kInvalid: return EINVAL;
    case Errc::kUnsupported: return EOPNOTSUPP;
    case Errc::kNotFound: return ENOENT;
    case Errc::kExists: return EEXIST;
    case Errc::kPermission: return EPERM;
    case Errc::kNoSpace: return ENOSPC;
    case Errc::kBusy: return EBUSY;
    case Errc::kWouldBlock: return EAGAIN;
    case Errc::kDeadlock: return EDEADLK;
    case Errc::kStale: return ESTALE;
    case Errc::kNotDirectory: return ENOTDIR;
    case Errc::kIsDirectory: return EISDIR;
    case Errc::kNotEmpty: return ENOTEMPTY;
    case Errc::kNameTooLong: return ENAMETOOLONG;
    case Errc::kTooManyLinks: return EMLINK;
    case Errc::kCrossDevice: return EXDEV;
    case Errc::kLoop: return ELOOP;
    case Errc::kRange: return ERANGE;
    case Errc::kNoData: return ENODATA;
    case Errc::kReadOnly: return EROFS;
    case Errc::kFileTooBig: return EFBIG;
    case Errc::kExhausted: return ENOMEM;
    case Errc::kInterrupted: return EINTR;
    default: return EIO;  // device, corruption, fencing, a lost cluster
  }
}

Caller CallerOf(fuse_req_t req) {
  const fuse_ctx* context = fuse_req_ctx(req);
  return Caller{context->uid, context->gid, context->umask};
}

FuseServer::FuseServer(Parts parts) : requests_(parts) {}
FuseServer::~FuseServer() = default;

const fuse_lowlevel_ops& FuseServer::Ops() {
  static const fuse_lowlevel_ops ops = [] {
    fuse_lowlevel_ops o{};
    o.init = &FuseServer::OnInit;
    AddNameOps(&o);
    AddAttrOps(&o);
    AddDataOps(&o);
    AddDirOps(&o);
    AddXattrOps(&o);
    AddLockOps(&o);
    return o;
  }();
  return ops;
}

// Settings of filesystem.md rule 6; what libfuse cannot ask for is or-ed in by session.cc.
void FuseServer::OnInit(void* user, fuse_conn_info* c) {
  auto* self = static_cast<FuseServer*>(user);
  c->want &= ~(FUSE_CAP_AUTO_INVAL_DATA | FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE |
               FUSE_CAP_WRITEBACK_CACHE | FUSE_CAP_HANDLE_KILLPRIV);
  c->want |= c->capable & (FUSE_CAP_EXPLICIT_INVAL_DATA | FUSE_CAP_POSIX_LOCKS | FUSE_CAP_FLOCK_LOCKS |
                           FUSE_CAP_EXPORT_SUPPORT | FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_ASYNC_READ |
                           FUSE_CAP_ASYNC_DIO | FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_READDIRPLUS |
                           FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_CACHE_SYMLINKS | FUSE_CAP_NO_OPENDIR_SUPPORT |
                           FUSE_CAP_EXPIRE_ONLY);
  c->max_write = kLargestIo;
  c->max_readahead = kLargestIo;
  c->max_background = 65535;
  c->congestion_threshold = 65535;
  c->time_gran = 1;
  // After the INIT reply has been written.
  if (self->on_init_) Executor::Current().Post(self->on_init_);
}

bool FuseServer::Begin(fuse_req_t req) {
  if (!requests_.refusing()) return true;
  fuse_reply_err(req, EIO);
  return false;
}

// ---- Request ----------------------------------------------------------------------------------------------------

namespace {
void OnInterrupt(fuse_req_t, void* call) { static_cast<CallerWatch::Call*>(call)->Signalled(); }
}  // namespace

FuseServer::Request::Request(FuseServer* server, fuse_req_t req)
    : server_(server), req_(req),
      call_(std::make_unique<CallerWatch::Call>(&server->watch_, static_cast<int>(fuse_req_ctx(req)->pid))) {
  ++server_->outstanding_;
  fuse_req_interrupt_func(req, &OnInterrupt, call_.get());  // libfuse calls it until the answer
}

FuseServer::Request::~Request() {
  if (!server_) return;
  if (req_) Errno(EIO);
  if (--server_->outstanding_ == 0) server_->idle_.WakeAll();
}

void FuseServer::Request::Errno(int error) {
  fuse_req_t req = Take();
  if (req && server_->connected_) fuse_reply_err(req, error);
}

void FuseServer::Request::Error(const holdfast::Error& error) {
  int number = ErrnoOf(error.code);
  if (number == EIO) HF_LOG(LogLevel::kDebug, "fuse", "eio", {{"error", error.ToString()}});
  if (EndsMount(error.code) && server_->on_fatal_ && !server_->requests_.refusing()) server_->on_fatal_(error);
  Errno(number);
}

void FuseServer::Request::Reply(const holdfast::Status& status) {
  if (status.ok()) {
    Errno(0);
  } else {
    Error(status.error());
  }
}

void FuseServer::Request::Buffer(const void* data, size_t size) {
  fuse_req_t req = Take();
  if (server_->connected_) fuse_reply_buf(req, static_cast<const char*>(data), size);
}

void FuseServer::Request::Write(size_t bytes) {
  fuse_req_t req = Take();
  if (server_->connected_) fuse_reply_write(req, bytes);
}

}  // namespace holdfast::fs::fuse
