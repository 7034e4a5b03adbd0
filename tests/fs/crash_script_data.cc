// CrashScript: bytes, sizes, attributes, syncs; and the choice of what comes next.
#include "base/check.h"
#include "tests/fs/crash_script.h"

namespace holdfast::fs::test {

namespace {

constexpr uint64_t kFar = uint64_t{1} << 33;  // of sparse files: their extents fill tree blocks

}  // namespace

Task<Status> CrashScript::WriteAt(uint64_t id, uint64_t offset, std::string bytes) {
  Content content = model_.data(id);
  content.Write(offset, bytes);
  Touched(id);
  model_.Done();
  model_.NewData(id, std::move(content));
  WriteOptions options;
  options.sync = Below(12) == 0;
  bool sync = options.sync;
  auto written = co_await vfs_->Write(Node(id), offset, AsBytes(bytes), options);
  if (!written.ok()) co_return written.error();
  if (written->file_size != model_.data(id).size) co_return Error(Errc::kIo, "a write gives another size");
  if (sync) model_.SyncedData(id);
  co_return Status();
}

Task<Status> CrashScript::Write() {
  uint64_t id = SomeFile();
  if (id == 0) co_return Status();
  const Content& content = model_.data(id);
  bool behind = Below(2) == 0 && content.size < 60'000;
  uint64_t offset = behind ? content.size : Below(std::min<uint64_t>(content.size, 60'000) + 1);
  if (Below(6) == 0) offset += Below(20'000);
  auto written = co_await WriteAt(id, offset, Bytes(Below(3) ? 1 + Below(3000) : 1 + Below(40'000)));
  co_return written;
}

// Single pages far apart: many extents, indirect tree blocks, several transactions of one write-back. Behind the end and upwards
// no earlier state of the file explains zeroes below its size.
Task<Status> CrashScript::WriteSparse() {
  uint64_t id = SomeFile();
  if (id == 0) co_return Status();
  bool upwards = Below(2) == 0;
  for (uint64_t i = 0, n = 5 + Below(60); i < n; ++i) {
    Content content = model_.data(id);
    uint64_t offset = (Below(2) ? Below(400) * 2 : Below(kFar / kBlockSize)) * kBlockSize + (Below(4) ? 0 : Below(4000));
    if (upwards) offset = (content.size / kBlockSize + 1 + Below(3)) * kBlockSize;
    std::string bytes = Bytes(1 + Below(kBlockSize));
    content.Write(offset, bytes);
    Touched(id);
    model_.NewData(id, std::move(content));
    auto written = co_await vfs_->Write(Node(id), offset, AsBytes(bytes), {});
    if (!written.ok()) co_return written.error();
  }
  model_.Done();
  co_return Status();
}

Task<Status> CrashScript::Truncate() {
  uint64_t id = SomeFile();
  if (id == 0) co_return Status();
  Content content = model_.data(id);
  uint64_t to = Below(3) ? Below(content.size + 1) : content.size + Below(30'000);
  if (Below(5) == 0) to = to / kBlockSize * kBlockSize;
  content.Resize(to);
  Touched(id);
  model_.Done();
  model_.NewData(id, std::move(content));
  SetAttr set;
  set.which = kSetSize;
  set.size = to;
  auto done = co_await vfs_->Set(Node(id), set);
  if (!done.ok()) co_return done.error();
  co_return done->size == to ? Status() : Status(Error(Errc::kIo, "a truncation gives another size"));
}

// O_TRUNC.
Task<Status> CrashScript::Reopen() {
  uint64_t id = SomeFile();
  if (id == 0) co_return Status();
  Content content = model_.data(id);
  content.Resize(0);
  Touched(id);
  model_.Done();
  model_.NewData(id, std::move(content));
  OpenOptions options;
  options.write = options.truncate = true;
  auto opened = co_await vfs_->Open(Node(id), options);
  if (!opened.ok()) co_return opened.error();
  auto released = co_await vfs_->Release(Node(id));
  co_return opened->attr.size == 0 ? released : Status(Error(Errc::kIo, "O_TRUNC leaves a size"));
}

Task<Status> CrashScript::Preallocate() {
  uint64_t id = SomeFile();
  if (id == 0) co_return Status();
  Content content = model_.data(id);
  uint64_t offset = Below(std::min<uint64_t>(content.size, 100'000) + 5000), length = 1 + Below(50'000);
  uint32_t flags = Below(2) ? uint32_t{kFallocKeepSize} : 0;
  bool zero = Below(3) == 0;
  if (zero) flags |= kFallocZeroRange;
  if (zero) content.Zero(offset, length);
  if ((flags & kFallocKeepSize) == 0 && offset + length > content.size) content.Resize(offset + length);
  content.inline_ever = false;
  Touched(id);
  model_.Done();
  model_.NewData(id, std::move(content));
  auto done = co_await vfs_->Fallocate(Node(id), offset, length, flags);
  if (!done.ok()) co_return done.error();
  if (done->size != model_.data(id).size) co_return Error(Errc::kIo, "fallocate gives another size");
  if (Below(2)) co_return Status();
  // Unwritten space becomes written: its data comes first.
  auto written = co_await WriteAt(id, offset + Below(length), Bytes(1 + Below(9000)));
  co_return written;
}

Task<Status> CrashScript::Punch() {
  uint64_t id = SomeFile();
  if (id == 0) co_return Status();
  Content content = model_.data(id);
  uint64_t offset = Below(std::min<uint64_t>(content.size, 100'000) + 1), length = 1 + Below(40'000);
  content.Zero(offset, length);
  content.inline_ever = false;
  Touched(id);
  model_.Done();
  model_.NewData(id, std::move(content));
  auto done = co_await vfs_->Fallocate(Node(id), offset, length, kFallocKeepSize | kFallocPunchHole);
  co_return done.ok() ? Status() : Status(done.error());
}

Task<Status> CrashScript::SetXattr() {
  Name at = Some(std::nullopt);
  if (at.name.empty()) co_return Status();
  uint64_t id = model_.at(at.dir).names.at(at.name);
  std::string name = "user.x" + std::to_string(Below(4));
  std::string value = Bytes(Below(3) ? Below(80) : Below(9000));
  model_.Change(id).xattrs[name] = value;
  model_.Done();
  holdfast::Bytes bytes(AsBytes(value).begin(), AsBytes(value).end());
  auto done = co_await vfs_->SetXattr(Node(id), name, std::move(bytes), XattrMode::kSet);
  co_return done;
}

Task<Status> CrashScript::RemoveXattr() {
  for (auto& [id, meta] : model_.now()) {
    if (meta->xattrs.empty() || Below(2)) continue;
    std::string name = meta->xattrs.begin()->first;
    KernelInode node = Node(id);
    model_.Change(id).xattrs.erase(name);
    model_.Done();
    auto done = co_await vfs_->RemoveXattr(node, name);
    co_return done;
  }
  co_return Status();
}

Task<Status> CrashScript::ChangeMode() {
  Name at = Some(std::nullopt);
  if (at.name.empty()) co_return Status();
  uint64_t id = model_.at(at.dir).names.at(at.name);
  SetAttr set;
  set.which = kSetMode | (Below(2) ? uint32_t{kSetGid} : 0);
  set.mode = static_cast<uint32_t>(Below(0777));
  set.gid = static_cast<uint32_t>(1 + Below(90));
  Meta& meta = model_.Change(id);
  meta.mode = set.mode;
  if ((set.which & kSetGid) != 0) meta.gid = set.gid;
  model_.Done();
  auto done = co_await vfs_->Set(Node(id), set);
  co_return done.ok() ? Status() : Status(done.error());
}

Task<Status> CrashScript::ChangeTimes() {
  Name at = Some(std::nullopt);
  if (at.name.empty()) co_return Status();
  uint64_t id = model_.at(at.dir).names.at(at.name);
  SetAttr set;
  set.which = kSetMtime | kSetAtime;
  set.mtime = {static_cast<int64_t>(1000 + Below(1'000'000)), 5};
  set.atime = set.mtime;
  model_.Change(id).mtime = set.mtime.seconds;
  model_.Done();
  auto done = co_await vfs_->Set(Node(id), set);
  co_return done.ok() ? Status() : Status(done.error());
}

// What the file holds now, as a reader sees it.
Task<Status> CrashScript::Same(uint64_t id) {
  const Content content = model_.data(id);
  uint64_t from = content.size > 200'000 && Below(2) ? content.size - 50'000 : 0;
  AlignedBuffer out(208 * 1024);
  auto read = co_await vfs_->Read(Node(id), from, out.span().first(200'000), {});
  if (!read.ok()) co_return read.error();
  bool same = read->file_size == content.size &&
              AsText(std::as_const(out).span().first(read->bytes)) == content.Text(from, 200'000);
  co_return same ? Status() : Status(Error(Errc::kIo, "file " + std::to_string(id) + " reads wrong, without a crash"));
}

Task<Status> CrashScript::Compare() {
  uint64_t id = SomeFile();
  if (id == 0) co_return Status();
  auto same = co_await Same(id);
  co_return same;
}

Task<Status> CrashScript::Sync() {
  uint64_t id = SomeFile();
  if (id == 0 || Below(3) == 0) {
    wants_all_ = true;
    co_return Status();
  }
  HF_CO_TRY(co_await vfs_->Fsync(Node(id), false));
  model_.SyncedData(id);
  if (mounts_.size() == 1) model_.SyncedTree();
  co_return Status();
}

Task<Status> CrashScript::Step() {
  struct Kind {
    const char* name;
    uint32_t weight;
    Action action;
  };
  using S = CrashScript;
  static constexpr Kind kKinds[] = {
      {"create", 12, &S::Create}, {"mkdir", 4, &S::MakeDirectory}, {"symlink", 2, &S::MakeSymlink},
      {"mknod", 2, &S::MakeSpecial}, {"tmpfile", 3, &S::MakeTmp}, {"link", 4, &S::Link}, {"unlink", 5, &S::Unlink},
      {"unlink open", 3, &S::UnlinkOpen},
      {"close", 3, &S::Close}, {"rmdir", 3, &S::RemoveDirectory}, {"rename", 8, &S::Rename}, {"exchange", 3, &S::Exchange},
      {"grow", 2, &S::Grow}, {"shrink", 2, &S::Shrink}, {"write", 14, &S::Write}, {"sparse", 2, &S::WriteSparse},
      {"truncate", 7, &S::Truncate}, {"O_TRUNC", 1, &S::Reopen}, {"fallocate", 5, &S::Preallocate},
      {"punch", 4, &S::Punch},
      {"setxattr", 5, &S::SetXattr}, {"removexattr", 2, &S::RemoveXattr}, {"chmod", 3, &S::ChangeMode},
      {"utimens", 3, &S::ChangeTimes}, {"compare", 4, &S::Compare}, {"sync", 7, &S::Sync}};
  uint32_t sum = 0;
  for (const Kind& kind : kKinds) sum += kind.weight;
  uint64_t pick = Below(sum);
  const Kind* chosen = kKinds;
  while (pick >= chosen->weight) pick -= (chosen++)->weight;
  ++counts_[chosen->name];
  Action action = chosen->action;
  Status done = co_await (this->*action)();
  if (!done.ok()) co_return Error(done.error().code, std::string(chosen->name) + ": " + done.error().message);
  if (Below(9) == 0) wants_letting_go_ = true;
  if (Below(6) == 0) {
    Duration nap = Milliseconds(static_cast<int64_t>(Below(3000)));
    co_await SleepFor(nap);
  }
  co_return Status();
}

}  // namespace holdfast::fs::test
