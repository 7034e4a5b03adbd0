// Answers of KernelRequests in the forms of libfuse and, where it has no call, of the wire.
#include <cstring>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "fs/fuse/fuse_wire.h"
#include "fs/fuse/server.h"

namespace holdfast::fs::fuse {
namespace {

constexpr double kForever = 1e9;  // seconds: as long as the lock is held
constexpr size_t kAlign = 8;
size_t Padded(size_t n) { return (n + kAlign - 1) / kAlign * kAlign; }

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

void FillEntry(const EntryAnswer& answer, fuse_entry_param* out) {
  *out = {};
  out->entry_timeout = answer.keep_entry ? kForever : 0;
  const Attr& attr = answer.entry->attr;
  if (!answer.entry->found()) return;
  out->ino = attr.node;
  out->generation = attr.generation;
  out->attr_timeout = answer.keep_attr ? kForever : 0;
  FillStat(attr, &out->attr);
}

void FillEntryOut(const EntryAnswer& answer, fuse_entry_out* out) {
  *out = {};
  const Attr& a = answer.entry->attr;
  out->nodeid = a.node;
  out->generation = a.generation;
  out->entry_valid = static_cast<uint64_t>(answer.keep_entry ? kForever : 0);
  out->attr_valid = static_cast<uint64_t>(answer.keep_attr ? kForever : 0);
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
  attr.rdev = static_cast<uint32_t>(makedev(a.rdev >> 32, a.rdev & 0xffffffff));
  attr.blksize = kBlockSize;
}

StatxTime ToStatx(const WallTime& t) { return {t.seconds, t.nanoseconds, 0}; }

StatxOut FillStatx(const Attr& a, bool keep) {
  constexpr uint32_t kBasicAndBirth = 0xfff;  // STATX_BASIC_STATS | STATX_BTIME
  StatxOut out{};
  out.attr_valid = static_cast<uint64_t>(keep ? kForever : 0);
  out.mask = kBasicAndBirth;
  out.block_size = kBlockSize;
  out.nlink = a.nlink;
  out.uid = a.uid;
  out.gid = a.gid;
  out.mode = static_cast<uint16_t>(a.mode);
  out.inode = a.number.v;
  out.size = a.size;
  out.blocks = a.blocks;
  out.atime = ToStatx(a.atime);
  out.btime = ToStatx(a.btime);
  out.ctime = ToStatx(a.ctime);
  out.mtime = ToStatx(a.mtime);
  out.rdev_major = static_cast<uint32_t>(a.rdev >> 32);
  out.rdev_minor = static_cast<uint32_t>(a.rdev);
  return out;
}

// libfuse 3.14 has no field for parallel direct writes.
fuse_open_out OpenOut(const OpenAnswer& answer) {
  fuse_open_out out{};
  out.fh = reinterpret_cast<uint64_t>(answer.handle);
  if (answer.direct) out.open_flags |= FOPEN_DIRECT_IO;
  if (answer.parallel_writes) out.open_flags |= kOpenParallelDirectWrites;
  if (answer.keep_pages) out.open_flags |= FOPEN_KEEP_CACHE;
  return out;
}

// One entry of a directory on the wire; false when it does not fit.
bool Append(KernelRequests& requests, KernelInode dir, const DirPage& page, const DirEntry& entry, bool plus, char* out,
            size_t* used, size_t size) {
  size_t head = plus ? FUSE_NAME_OFFSET_DIRENTPLUS : FUSE_NAME_OFFSET;
  size_t need = Padded(head + entry.name.size());
  if (*used + need > size) return false;
  char* at = out + *used;
  std::memset(at, 0, need);
  auto* dirent = reinterpret_cast<fuse_dirent*>(plus ? at + offsetof(fuse_direntplus, dirent) : at);
  if (plus && entry.has_attr && entry.name != "." && entry.name != "..") {
    Entry full;
    full.attr = entry.attr;
    full.parent_acquisition = page.parent_acquisition;
    FillEntryOut(requests.JudgeListed(dir, entry.name, full), &reinterpret_cast<fuse_direntplus*>(at)->entry_out);
  }
  dirent->ino = entry.number.v;
  dirent->off = entry.cookie;
  dirent->namelen = entry.name.size();
  dirent->type = static_cast<uint32_t>(entry.type);
  std::memcpy(dirent->name, entry.name.data(), entry.name.size());
  *used += need;
  return true;
}

class FuseReply final : public KernelReply {
 public:
  FuseReply(FuseServer* server, fuse_req_t req, int no_data, bool statx = false, bool own = false)
      : request_(server, req), no_data_(no_data), statx_(statx), own_(own) {}

  void Error(const holdfast::Error& error) override {
    if (error.code == Errc::kNoData) {
      request_.Errno(no_data_);
    } else {
      request_.Error(error);
    }
  }
  void Done() override { request_.Errno(0); }
  bool own() const override { return own_; }
  Interrupt* interrupt() override { return request_.interrupt(); }
  void EndWhenExiting(Duration patience) override { request_.call()->EndWhenExiting(patience); }
  void Data(std::span<const std::byte> bytes) override { request_.Buffer(bytes.data(), bytes.size()); }
  void Written(size_t bytes) override { request_.Write(bytes); }
  void Position(uint64_t offset) override {
    fuse_lseek_out out{offset};
    request_.Buffer(&out, sizeof(out));
  }
  bool Entry(const EntryAnswer& answer) override {
    bool counted = true;
    request_.Entry(answer, &counted);
    return counted;
  }
  void Attr(const fs::Attr& attr, bool keep) override {
    if (!statx_) {
      request_.Attr(attr, keep);
      return;
    }
    StatxOut out = FillStatx(attr, keep);
    request_.Buffer(&out, sizeof(out));
  }
  void Opened(const OpenAnswer& answer) override {
    fuse_open_out out = OpenOut(answer);
    request_.Buffer(&out, sizeof(out));
  }
  void Created(const EntryAnswer& entry, const OpenAnswer& open) override {
    struct {
      fuse_entry_out entry;
      fuse_open_out open;
    } out{};
    FillEntryOut(entry, &out.entry);
    out.open = OpenOut(open);
    request_.Buffer(&out, sizeof(out));
  }
  void Listing(KernelRequests& requests, KernelInode dir, const DirPage& page, bool plus, size_t size) override {
    AlignedBuffer buffer = requests.TakeBuffer(size);
    size_t used = 0;
    for (const DirEntry& entry : page.entries) {
      if (!Append(requests, dir, page, entry, plus, reinterpret_cast<char*>(buffer.data()), &used, size)) break;
    }
    request_.Buffer(buffer.data(), used);
    requests.GiveBuffer(std::move(buffer));
  }

 private:
  FuseServer::Request request_;
  int no_data_;
  bool statx_;
  bool own_;
};

}  // namespace

KernelReplyPtr ReplyTo(FuseServer* server, fuse_req_t req, int no_data) {
  return std::make_unique<FuseReply>(server, req, no_data);
}

KernelReplyPtr ReplyAttr(FuseServer* server, fuse_req_t req, bool statx) {
  return std::make_unique<FuseReply>(server, req, ENODATA, statx, server->kernel()->Asks(fuse_req_ctx(req)->pid));
}

void FuseServer::Request::Entry(const EntryAnswer& answer, bool* counted) {
  fuse_req_t req = Take();
  if (!server_->connected_) return;
  fuse_entry_param param;
  FillEntry(answer, &param);
  int sent = param.ino == 0 && param.entry_timeout == 0 ? fuse_reply_err(req, ENOENT) : fuse_reply_entry(req, &param);
  *counted = sent != -ENOENT;
}

void FuseServer::Request::Attr(const fs::Attr& attr, bool keep) {
  fuse_req_t req = Take();
  if (!server_->connected_) return;
  struct stat st;
  FillStat(attr, &st);
  fuse_reply_attr(req, &st, keep ? kForever : 0);
}

}  // namespace holdfast::fs::fuse
