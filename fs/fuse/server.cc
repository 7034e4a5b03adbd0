#include "fs/fuse/server.h"

#include <cerrno>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <linux/fuse.h>

#include "base/log.h"

namespace holdfast::fs::fuse {
namespace {

constexpr double kForever = 1e9;            // seconds: as long as the lock is held
constexpr size_t kSmallBuffer = 128 * 1024;
constexpr size_t kLargeBuffer = 1024 * 1024;
constexpr size_t kBuffersKept = 32;

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

void FillStat(const Attr& attr, struct stat* out) {
  *out = {};
  out->st_ino = attr.number.v;
  out->st_mode = attr.mode;
  out->st_nlink = attr.nlink;
  out->st_uid = attr.uid;
  out->st_gid = attr.gid;
  out->st_rdev = makedev(attr.rdev >> 32, attr.rdev & 0xffffffff);
  out->st_size = static_cast<off_t>(attr.size);
  out->st_blocks = static_cast<blkcnt_t>(attr.blocks);
  out->st_blksize = kBlockSize;
  out->st_atim = {attr.atime.seconds, attr.atime.nanoseconds};
  out->st_mtim = {attr.mtime.seconds, attr.mtime.nanoseconds};
  out->st_ctim = {attr.ctime.seconds, attr.ctime.nanoseconds};
}

Caller CallerOf(fuse_req_t req) {
  const fuse_ctx* context = fuse_req_ctx(req);
  return Caller{context->uid, context->gid, context->umask};
}

FuseServer::FuseServer(Parts parts) : parts_(parts) {}
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
  c->max_write = kLargeBuffer;
  c->max_readahead = kLargeBuffer;
  c->max_background = 65535;
  c->congestion_threshold = 65535;
  c->time_gran = 1;
  // After the INIT reply has been written.
  if (self->on_init_) Executor::Current().Post(self->on_init_);
}

bool FuseServer::Begin(fuse_req_t req) {
  if (!refuse_) return true;
  fuse_reply_err(req, EIO);
  return false;
}

bool FuseServer::Suspended() const {
  return parts_.lease && CheckLease(*parts_.lease, parts_.incarnation, parts_.clock->Now()) != LeaseState::kValid &&
         !refuse_;
}

Task<void> FuseServer::AwaitLease() {
  while (Suspended()) co_await SleepFor(Milliseconds(20));
}

double FuseServer::AttrTimeout(const Attr& attr, bool keep) {
  if (supervisor_ && !supervisor_->covered()) keep = false;
  return keep && cache().GaveAttr(attr.node, attr.acquisition, attr.mode) ? kForever : 0;
}

void FuseServer::FillEntry(KernelInode parent, std::string_view name, const Entry& entry, bool keep_attr, bool plus,
                           fuse_entry_param* out) {
  *out = {};
  bool covered = !supervisor_ || supervisor_->covered();
  bool is_dir = entry.attr.type() == FileType::kDirectory;
  if (!entry.found()) {
    if (covered && cache().GaveNegative(parent, entry.parent_acquisition, name)) out->entry_timeout = kForever;
    return;
  }
  KernelInode node = entry.attr.node;
  bool keep = covered && (plus ? cache().GavePlusEntry(parent, entry.parent_acquisition, name, node, is_dir)
                               : cache().GaveEntry(parent, entry.parent_acquisition, name, node, is_dir));
  out->ino = node;
  out->generation = entry.attr.generation;
  out->entry_timeout = keep ? kForever : 0;
  out->attr_timeout = AttrTimeout(entry.attr, keep_attr);
  FillStat(entry.attr, &out->attr);
  cache().LookedUp(node);
}

void FuseServer::FillEntryOut(KernelInode parent, std::string_view name, const Entry& entry, bool keep_attr,
                              fuse_entry_out* out, bool plus) {
  fuse_entry_param param;
  FillEntry(parent, name, entry, keep_attr, plus, &param);
  *out = {};
  out->nodeid = param.ino;
  out->generation = param.generation;
  out->entry_valid = static_cast<uint64_t>(param.entry_timeout);
  out->attr_valid = static_cast<uint64_t>(param.attr_timeout);
  const Attr& a = entry.attr;
  fuse_attr& attr = out->attr;
  attr.ino = a.number.v;
  attr.size = a.size;
  attr.blocks = a.blocks;
  attr.atime = static_cast<uint64_t>(a.atime.seconds);
  attr.mtime = static_cast<uint64_t>(a.mtime.seconds);
  attr.ctime = static_cast<uint64_t>(a.ctime.seconds);
  attr.atimensec = a.atime.nanoseconds;
  attr.mtimensec = a.mtime.nanoseconds;
  attr.ctimensec = a.ctime.nanoseconds;
  attr.mode = a.mode;
  attr.nlink = a.nlink;
  attr.uid = a.uid;
  attr.gid = a.gid;
  attr.rdev = static_cast<uint32_t>(param.attr.st_rdev);
  attr.blksize = kBlockSize;
}

FileHandle* FuseServer::NewHandle(FileHandle handle) {
  ++handles_;
  return new FileHandle(handle);
}

void FuseServer::DropHandle(FileHandle* handle) {
  --handles_;
  delete handle;
}

AlignedBuffer FuseServer::TakeBuffer(size_t size) {
  bool small = size <= kSmallBuffer;
  std::vector<AlignedBuffer>& kept = small ? small_buffers_ : large_buffers_;
  if (kept.empty() || size > kLargeBuffer) {
    return AlignedBuffer(std::max(size, small ? kSmallBuffer : kLargeBuffer));
  }
  AlignedBuffer buffer = std::move(kept.back());
  kept.pop_back();
  return buffer;
}

void FuseServer::GiveBuffer(AlignedBuffer buffer) {
  if (buffer.size() == kSmallBuffer && small_buffers_.size() < kBuffersKept) small_buffers_.push_back(std::move(buffer));
  else if (buffer.size() == kLargeBuffer && large_buffers_.size() < kBuffersKept) large_buffers_.push_back(std::move(buffer));
}

// ---- Request ----------------------------------------------------------------------------------------------------

FuseServer::Request::Request(FuseServer* server, fuse_req_t req) : server_(server), req_(req) { ++server_->outstanding_; }

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
  bool fatal = error.code == Errc::kCorrupt || error.code == Errc::kIo || error.code == Errc::kConflict ||
               error.code == Errc::kDisconnected;
  if (fatal && server_->on_fatal_ && !server_->refuse_) server_->on_fatal_(error);
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

void FuseServer::Request::EntryReply(KernelInode parent, const std::string& name, const Entry& entry, bool keep_attr) {
  fuse_req_t req = Take();
  if (!server_->connected_) return;
  fuse_entry_param param;
  server_->FillEntry(parent, name, entry, keep_attr, false, &param);
  int sent = param.ino == 0 && param.entry_timeout == 0 ? fuse_reply_err(req, ENOENT) : fuse_reply_entry(req, &param);
  // The requester was killed: the kernel has not counted this lookup.
  if (sent == -ENOENT && param.ino != 0) server_->cache().Forget(param.ino, 1);
}

void FuseServer::Request::AttrReply(const Attr& attr, bool keep) {
  fuse_req_t req = Take();
  if (!server_->connected_) return;
  struct stat st;
  FillStat(attr, &st);
  fuse_reply_attr(req, &st, server_->AttrTimeout(attr, keep));
}

}  // namespace holdfast::fs::fuse
