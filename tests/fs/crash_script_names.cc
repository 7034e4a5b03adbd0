// CrashScript: names, links, directories.
#include <sys/stat.h>

#include "base/check.h"
#include "tests/fs/crash_script.h"

namespace holdfast::fs::test {

CrashScript::CrashScript(std::vector<Vfs*> mounts, sim::SimRandom* random, uint32_t names_big)
    : mounts_(std::move(mounts)), vfs_(mounts_[0]), random_(random), names_big_(names_big) {
  nodes_[0] = kRootNode;
}

std::string CrashScript::Bytes(size_t n) {
  std::string s(n, 0);
  for (size_t i = 0; i < n; i += 8) {
    uint64_t x = random_->Next() | 0x0101010101010101;  // no zeroes: they are what holes show
    for (size_t k = i; k < std::min(n, i + 8); ++k) s[k] = static_cast<char>(x >> 8 * (k - i));
  }
  return s;
}

std::string CrashScript::FreshName() {
  return "n" + std::to_string(next_name_++) + std::string(Below(3) ? Below(20) : 100 + Below(140), 'x');
}

uint64_t CrashScript::SomeDir() {
  std::vector<uint64_t> all;
  for (auto& [id, meta] : model_.now())
    if (meta->type == FileType::kDirectory && id != big_) all.push_back(id);
  return all[Below(all.size())];
}

CrashScript::Name CrashScript::Some(std::optional<FileType> type) {
  std::vector<Name> all;
  for (auto& [id, meta] : model_.now()) {
    if (meta->type != FileType::kDirectory || id == big_) continue;
    for (auto& [name, child] : meta->names)
      if (child != big_ && child != many_ && (!type || model_.at(child).type == *type)) all.push_back({id, name});
  }
  return all.empty() ? Name{} : all[Below(all.size())];
}

uint64_t CrashScript::SomeFile() {
  Name at = Some(FileType::kRegular);
  return at.name.empty() ? 0 : model_.at(at.dir).names.at(at.name);
}

bool CrashScript::BelowIt(uint64_t dir, uint64_t what) const {
  for (uint64_t at = dir; at != 0; at = model_.at(at).parent)
    if (at == what) return true;
  return what == 0;
}

void CrashScript::AddName(uint64_t dir, const std::string& name, uint64_t id) {
  model_.Change(dir).names[name] = id;
  Touched(dir);
}

void CrashScript::TakeName(const Name& at, bool drop_link) {
  uint64_t id = model_.at(at.dir).names.at(at.name);
  model_.Change(at.dir).names.erase(at.name);
  Touched(at.dir);
  if (!drop_link) return;
  bool directory = model_.at(id).type == FileType::kDirectory;
  uint32_t left = directory ? 0 : --model_.Change(id).nlink;
  if (directory) --model_.Change(at.dir).nlink;
  if (left == 0) model_.Drop(id);
}

Task<Status> CrashScript::Make(FileType type) {
  uint64_t dir = SomeDir(), id = next_id_++;
  std::string name = FreshName();
  Meta& meta = model_.Change(id);
  meta.type = type;
  meta.mode = type == FileType::kSymlink ? 0777 : 0644;
  meta.gid = 7;
  meta.nlink = type == FileType::kDirectory ? 2 : 1;
  if (type == FileType::kDirectory) meta.parent = dir;
  if (type == FileType::kSymlink) meta.target = Bytes(Below(2) ? 1 + Below(200) : 3000 + Below(1000));
  if (type == FileType::kCharDevice) meta.rdev = 0x100 + Below(200);
  std::string target = meta.target;
  uint64_t rdev = meta.rdev;
  AddName(dir, name, id);
  if (type == FileType::kDirectory) ++model_.Change(dir).nlink;
  model_.Done();
  Result<Entry> made = Errc::kInvalid;
  if (type == FileType::kRegular) {
    OpenOptions options;
    options.write = true;
    auto result = co_await vfs_->Create(Node(dir), name, 0644, true, Me(id), options);
    made = std::move(result);
    if (made.ok()) HF_CO_TRY(co_await vfs_->Release(made->attr.node));
    model_.NewData(id, Content());
  } else if (type == FileType::kDirectory) {
    auto result = co_await vfs_->MakeDir(Node(dir), name, 0644, Me(id));
    made = std::move(result);
  } else if (type == FileType::kSymlink) {
    auto result = co_await vfs_->Symlink(Node(dir), name, target, Me(id));
    made = std::move(result);
  } else {
    uint32_t mode = (type == FileType::kFifo ? S_IFIFO : S_IFCHR) | 0644;
    auto result = co_await vfs_->MakeNode(Node(dir), name, mode, rdev, Me(id));
    made = std::move(result);
  }
  if (!made.ok()) co_return made.error();
  nodes_[id] = made->attr.node;
  co_return Status();
}

Task<Status> CrashScript::Create() { return Make(FileType::kRegular); }
Task<Status> CrashScript::MakeDirectory() { return Make(FileType::kDirectory); }
Task<Status> CrashScript::MakeSymlink() { return Make(FileType::kSymlink); }
Task<Status> CrashScript::MakeSpecial() { return Make(Below(2) ? FileType::kFifo : FileType::kCharDevice); }

// O_TMPFILE, written, linked: its first name brings the bytes along as far as they are synced.
Task<Status> CrashScript::MakeTmp() {
  uint64_t dir = SomeDir(), id = next_id_++;
  auto made = co_await vfs_->TmpFile(Node(dir), 0600, Me(id));
  if (!made.ok()) co_return made.error();
  nodes_[id] = made->attr.node;
  model_.NewData(id, Content());
  std::string bytes = Bytes(1 + Below(20'000));
  Content content;
  content.Write(0, bytes);
  model_.NewData(id, content);
  auto written = co_await vfs_->Write(Node(id), 0, AsBytes(bytes), {});
  if (!written.ok()) co_return written.error();
  if (Below(2)) {
    HF_CO_TRY(co_await vfs_->Fsync(Node(id), false));
    model_.SyncedData(id);
    if (mounts_.size() == 1) model_.SyncedTree();
  }
  std::string name = FreshName();
  if (Below(4) != 0) {
    Meta& meta = model_.Change(id);
    meta.mode = 0600;
    meta.gid = 7;
    meta.nlink = 1;
    AddName(dir, name, id);
    model_.Done();
    auto linked = co_await vfs_->Link(Node(id), Node(dir), name);
    if (!linked.ok()) co_return linked.error();
  }
  auto released = co_await vfs_->Release(Node(id));
  co_return released;
}

Task<Status> CrashScript::Link() {
  uint64_t id = SomeFile(), dir = SomeDir();
  if (id == 0) co_return Status();
  std::string name = FreshName();
  AddName(dir, name, id);
  ++model_.Change(id).nlink;
  model_.Done();
  auto linked = co_await vfs_->Link(Node(id), Node(dir), name);
  co_return linked.ok() ? Status() : Status(linked.error());
}

Task<Status> CrashScript::Unlink() {
  Name at = Some(std::nullopt);
  if (at.name.empty()) co_return Status();
  uint64_t id = model_.at(at.dir).names.at(at.name);
  if (model_.at(id).type == FileType::kDirectory) co_return Status();
  TakeName(at, true);
  model_.Done();
  auto removed = co_await vfs_->Unlink(Node(at.dir), at.name);
  co_return removed.ok() ? Status() : Status(removed.error());
}

Task<Status> CrashScript::UnlinkOpen() {
  Name at = Some(FileType::kRegular);
  if (at.name.empty()) co_return Status();
  uint64_t id = model_.at(at.dir).names.at(at.name);
  if (model_.at(id).nlink > 1 || open_.contains(id)) co_return Status();
  auto opened = co_await vfs_->Open(Node(id), {});
  if (!opened.ok()) co_return opened.error();
  open_[id] = vfs_;
  TakeName(at, true);
  model_.Done();
  auto removed = co_await vfs_->Unlink(Node(at.dir), at.name);
  co_return removed.ok() ? Status() : Status(removed.error());
}

Task<Status> CrashScript::Close() {
  if (open_.empty()) co_return Status();
  auto [id, vfs] = *std::next(open_.begin(), static_cast<ptrdiff_t>(Below(open_.size())));
  if (vfs != vfs_) co_return Status();
  HF_CO_TRY(co_await Same(id));
  open_.erase(id);
  auto released = co_await vfs_->Release(Node(id));
  co_return released;
}

Task<Status> CrashScript::RemoveDirectory() {
  Name at = Some(FileType::kDirectory);
  if (at.name.empty()) co_return Status();
  uint64_t id = model_.at(at.dir).names.at(at.name);
  bool full = !model_.at(id).names.empty();
  if (!full) {
    TakeName(at, true);
    model_.Done();
  }
  auto removed = co_await vfs_->RemoveDir(Node(at.dir), at.name);
  if (full) co_return removed.code() == Errc::kNotEmpty ? Status() : Status(Error(Errc::kIo, "a full directory was removed"));
  co_return removed.ok() ? Status() : Status(removed.error());
}

// To a new name, or over an existing one of the same kind.
Task<Status> CrashScript::Rename() {
  Name from = Some(std::nullopt);
  if (from.name.empty()) co_return Status();
  uint64_t id = model_.at(from.dir).names.at(from.name);
  bool directory = model_.at(id).type == FileType::kDirectory;
  Name to{SomeDir(), FreshName()};
  if (Below(2)) {
    Name over = Some(directory ? std::optional(FileType::kDirectory) : std::nullopt);
    uint64_t victim = over.name.empty() ? id : model_.at(over.dir).names.at(over.name);
    bool fits = victim != id && (model_.at(victim).type == FileType::kDirectory) == directory;
    if (directory && fits) fits = model_.at(victim).names.empty();
    if (fits) to = over;
  }
  if (directory && BelowIt(to.dir, id)) {
    auto refused = co_await vfs_->Rename(Node(from.dir), from.name, Node(to.dir), to.name, 0);
    co_return refused.code() == Errc::kInvalid ? Status() : Status(Error(Errc::kIo, "a directory moved below itself"));
  }
  if (model_.at(to.dir).names.contains(to.name)) TakeName(to, true);
  TakeName(from, false);
  AddName(to.dir, to.name, id);
  if (directory) {
    --model_.Change(from.dir).nlink;
    ++model_.Change(to.dir).nlink;
    model_.Change(id).parent = to.dir;
  }
  model_.Done();
  auto renamed = co_await vfs_->Rename(Node(from.dir), from.name, Node(to.dir), to.name, 0);
  co_return renamed.ok() ? Status() : Status(renamed.error());
}

Task<Status> CrashScript::Exchange() {
  Name one = Some(std::nullopt), two = Some(std::nullopt);
  if (one.name.empty()) co_return Status();
  uint64_t a = model_.at(one.dir).names.at(one.name), b = model_.at(two.dir).names.at(two.name);
  bool a_dir = model_.at(a).type == FileType::kDirectory, b_dir = model_.at(b).type == FileType::kDirectory;
  if (a == b || (a_dir && BelowIt(two.dir, a)) || (b_dir && BelowIt(one.dir, b))) co_return Status();
  TakeName(one, false);
  TakeName(two, false);
  AddName(one.dir, one.name, b);
  AddName(two.dir, two.name, a);
  if (a_dir) {
    --model_.Change(one.dir).nlink;
    ++model_.Change(two.dir).nlink;
    model_.Change(a).parent = two.dir;
  }
  if (b_dir) {
    --model_.Change(two.dir).nlink;
    ++model_.Change(one.dir).nlink;
    model_.Change(b).parent = one.dir;
  }
  model_.Done();
  auto renamed = co_await vfs_->Rename(Node(one.dir), one.name, Node(two.dir), two.name, kRenameExchange);
  co_return renamed.ok() ? Status() : Status(renamed.error());
}

// The big directory: its tree splits and merges.
Task<Status> CrashScript::Grow() {
  for (uint64_t i = 0, n = 1 + Below(25); i < n; ++i) {
    std::string name = "big" + std::to_string(next_name_++) + std::string(200, 'y');
    AddName(big_, name, many_);
    ++model_.Change(many_).nlink;
    model_.Done();
    auto linked = co_await vfs_->Link(Node(many_), Node(big_), name);
    if (!linked.ok()) co_return linked.error();
  }
  co_return Status();
}

Task<Status> CrashScript::Shrink() {
  for (uint64_t i = 0, n = 1 + Below(Below(8) ? 25 : 200); i < n && model_.at(big_).names.size() > 1; ++i) {
    auto& names = model_.at(big_).names;
    Name at{big_, std::next(names.begin(), static_cast<ptrdiff_t>(Below(names.size())))->first};
    TakeName(at, true);
    model_.Done();
    auto removed = co_await vfs_->Unlink(Node(big_), at.name);
    if (!removed.ok()) co_return removed.error();
  }
  co_return Status();
}

Task<Status> CrashScript::Begin() {
  for (const char* name : {"a", "b", "big"}) {
    uint64_t id = next_id_++;
    Meta& meta = model_.Change(id);
    meta.type = FileType::kDirectory;
    meta.mode = 0755;
    meta.gid = 7;
    meta.nlink = 2;
    AddName(0, name, id);
    ++model_.Change(0).nlink;
    model_.Done();
    std::string text = name;
    auto made = co_await vfs_->MakeDir(kRootNode, text, 0755, Me(id));
    if (!made.ok()) co_return made.error();
    nodes_[id] = made->attr.node;
    big_ = id;
  }
  many_ = next_id_++;
  Meta& meta = model_.Change(many_);
  meta.mode = 0644;
  meta.gid = 7;
  meta.nlink = 1;
  AddName(big_, "first", many_);
  model_.NewData(many_, Content());
  std::string first = "first";
  auto made = co_await vfs_->Create(Node(big_), first, 0644, true, Me(many_), {});
  if (!made.ok()) co_return made.error();
  nodes_[many_] = made->attr.node;
  HF_CO_TRY(co_await vfs_->Release(Node(many_)));
  for (uint32_t i = 0; i < names_big_; ++i) {
    std::string name = "big" + std::to_string(next_name_++) + std::string(200, 'y');
    AddName(big_, name, many_);
    ++model_.Change(many_).nlink;
    auto linked = co_await vfs_->Link(Node(many_), Node(big_), name);
    if (!linked.ok()) co_return linked.error();
  }
  model_.Done();
  auto synced = co_await vfs_->SyncFs();
  Synced();
  co_return synced;
}

}  // namespace holdfast::fs::test
