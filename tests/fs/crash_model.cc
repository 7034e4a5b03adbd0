#include "tests/fs/crash_model.h"

#include <cstring>
#include <set>

#include "base/bytes.h"
#include "fs/disk_inode.h"

namespace holdfast::fs::test {

// ---- Content --------------------------------------------------------------------------------------------------------

void Content::Put(uint64_t offset, std::string_view bytes) {
  while (!bytes.empty()) {
    uint64_t page = offset / kBlockSize, skip = offset % kBlockSize;
    size_t n = std::min<size_t>(bytes.size(), kBlockSize - skip);
    auto it = pages.find(page);
    auto copy = std::make_shared<std::string>(it == pages.end() ? std::string(kBlockSize, '\0') : *it->second);
    copy->replace(skip, n, bytes.substr(0, n));
    pages[page] = std::move(copy);
    offset += n;
    bytes.remove_prefix(n);
  }
}

void Content::Write(uint64_t offset, std::string_view bytes) {
  Put(offset, bytes);
  size = std::max<uint64_t>(size, offset + bytes.size());
  if (size > kInlineDataMax) inline_ever = false;
}

void Content::Zero(uint64_t offset, uint64_t length) {
  uint64_t end = offset + length;
  for (auto it = pages.lower_bound(offset / kBlockSize); it != pages.end() && it->first * kBlockSize < end;) {
    uint64_t from = std::max(offset, it->first * kBlockSize), to = std::min(end, (it->first + 1) * kBlockSize);
    if (to - from == kBlockSize) {
      it = pages.erase(it);
      continue;
    }
    auto copy = std::make_shared<std::string>(*it->second);
    copy->replace(from % kBlockSize, to - from, to - from, '\0');
    it->second = std::move(copy);
    ++it;
  }
}

void Content::Resize(uint64_t to) {
  if (to < size) Zero(to, size - to);
  size = to;
  if (size > kInlineDataMax) inline_ever = false;
}

char Content::At(uint64_t i) const {
  auto it = pages.find(i / kBlockSize);
  return it == pages.end() ? '\0' : (*it->second)[i % kBlockSize];
}

std::string Content::Text(uint64_t offset, uint64_t length) const {
  std::string out(offset >= size ? 0 : std::min(length, size - offset), '\0');
  for (size_t i = 0; i < out.size(); ++i) out[i] = At(offset + i);
  return out;
}

// ---- CrashModel -----------------------------------------------------------------------------------------------------

CrashModel::CrashModel() {
  auto root = std::make_shared<Meta>();
  root->type = FileType::kDirectory;
  root->nlink = 2;
  now_[0] = std::move(root);
  Done();
}

Meta& CrashModel::Change(uint64_t id) {
  auto it = now_.find(id);
  auto copy = it == now_.end() ? std::make_shared<Meta>() : std::make_shared<Meta>(*it->second);
  Meta& out = *copy;
  now_[id] = std::move(copy);
  return out;
}

void CrashModel::SyncedData(uint64_t id) {
  auto& all = versions_.at(id);
  all.erase(all.begin(), all.end() - 1);
}

void CrashModel::SyncedAll() {
  SyncedTree();
  for (auto& [id, all] : versions_) all.erase(all.begin(), all.end() - 1);
}

std::string Differs(const Meta& found, const Meta& wanted, bool root) {
  auto number = [](const char* what, uint64_t a, uint64_t b) {
    return std::string(what) + " " + std::to_string(a) + ", not " + std::to_string(b);
  };
  if (found.type != wanted.type) return number("type", static_cast<uint64_t>(found.type), static_cast<uint64_t>(wanted.type));
  if (found.nlink != wanted.nlink) return number("nlink", found.nlink, wanted.nlink);
  for (auto& [name, id] : wanted.names) {
    auto it = found.names.find(name);
    if (it == found.names.end()) return "no name " + name;
    if (it->second != id) return number(("name " + name + " is inode").c_str(), it->second, id);
  }
  for (auto& [name, id] : found.names)
    if (!wanted.names.contains(name)) return "an additional name " + name;
  if (root) return "";
  if (found.mode != wanted.mode) return number("mode", found.mode, wanted.mode);
  if (found.gid != wanted.gid) return number("gid", found.gid, wanted.gid);
  if (found.rdev != wanted.rdev) return number("rdev", found.rdev, wanted.rdev);
  if (found.parent != wanted.parent) return number("'..' is inode", found.parent, wanted.parent);
  if (found.target != wanted.target) return "another symlink target";
  if (wanted.mtime && found.mtime != wanted.mtime)
    return number("mtime", static_cast<uint64_t>(found.mtime.value_or(0)), static_cast<uint64_t>(*wanted.mtime));
  for (auto& [name, value] : wanted.xattrs) {
    auto it = found.xattrs.find(name);
    if (it == found.xattrs.end()) return "no xattr " + name;
    if (it->second != value) return "another value of xattr " + name;
  }
  if (found.xattrs.size() != wanted.xattrs.size()) return "additional xattrs";
  return "";
}

namespace {

std::string TreeDiffers(const Snapshot& found, const Snapshot& wanted) {
  for (auto& [id, meta] : wanted) {
    auto it = found.find(id);
    if (it == found.end()) return "inode " + std::to_string(id) + " is missing";
    std::string what = Differs(*it->second, *meta, id == 0);
    if (!what.empty()) return "inode " + std::to_string(id) + ": " + what;
  }
  for (auto& [id, meta] : found)
    if (!wanted.contains(id)) return "inode " + std::to_string(id) + " should not be there";
  return "";
}

}  // namespace

// Two mounts: one inode's state, of any moment since the last sync. nullptr: it was not found.
std::string CrashModel::JudgeInode(uint64_t id, const Meta* found) const {
  std::string what;
  const Meta* last = nullptr;
  for (size_t i = moments_.size(); i-- > 0;) {
    auto it = moments_[i].find(id);
    if (found == nullptr) {
      if (it == moments_[i].end()) return "";
      continue;
    }
    if (it == moments_[i].end() || it->second.get() == last) continue;
    last = it->second.get();
    std::string differs = Differs(*found, *last, id == 0);
    if (differs.empty()) return "";
    if (what.empty()) what = differs;
  }
  if (found == nullptr) return "inode " + std::to_string(id) + " is gone";
  return "inode " + std::to_string(id) + (last ? ": " + what : " should not be there");
}

std::string CrashModel::Judge(const FoundTree& found, bool one_mount) const {
  std::string wrong;
  if (one_mount) {
    bool any = false;
    for (size_t i = moments_.size(); i-- > 0 && !any;) any = TreeDiffers(found.tree, moments_[i]).empty();
    if (!any) {
      return "the tree is that of no moment since the last sync: against now: " + TreeDiffers(found.tree, moments_.back()) +
             "; against the sync: " + TreeDiffers(found.tree, moments_.front());
    }
  } else {
    std::set<uint64_t> ids;
    for (auto& moment : moments_)
      for (auto& [id, meta] : moment) ids.insert(id);
    for (auto& [id, meta] : found.tree) ids.insert(id);
    for (uint64_t id : ids) {
      auto it = found.tree.find(id);
      wrong = JudgeInode(id, it == found.tree.end() ? nullptr : it->second.get());
      if (!wrong.empty()) return wrong;
    }
  }
  for (auto& [id, content] : found.data) {
    wrong = JudgeData(id, content);
    if (!wrong.empty()) return "file " + std::to_string(id) + ": " + wrong;
  }
  return "";
}

namespace {

// May that byte of that file be there? Also the zeroes behind a truncation that is not durable itself: a page that was written
// after it carries them to the disk.
bool Explained(const std::vector<Content>& all, uint64_t i, char byte) {
  bool longer = false;
  for (const Content& v : all) {
    if (v.size > i && v.At(i) == byte) return true;
    bool last_page = i < (v.size + kBlockSize - 1) / kBlockSize * kBlockSize;
    if (byte == 0 && longer && v.size <= i && last_page) return true;
    longer |= v.size > i;
  }
  return false;
}

}  // namespace

std::string CrashModel::JudgeData(uint64_t id, const Content& found) const {
  auto at = versions_.find(id);
  if (at == versions_.end()) return found.size == 0 ? "" : "was never written";
  const std::vector<Content>& all = at->second;
  uint64_t least = UINT64_MAX, most = 0;
  bool size_known = false, inline_only = true;
  std::set<uint64_t> pages;
  for (auto& [page, bytes] : found.pages) pages.insert(page);
  for (const Content& version : all) {
    least = std::min(least, version.size);
    most = std::max(most, version.size);
    size_known |= version.size == found.size;
    inline_only &= version.inline_ever;
    for (auto& [page, bytes] : version.pages) pages.insert(page);
  }
  bool on_its_way = found.size % kBlockSize == 0 && found.size > least && found.size < most;
  if (!size_known && !on_its_way) return "size " + std::to_string(found.size) + ", which it never had since it was synced";
  if (inline_only) {
    bool whole = std::any_of(all.begin(), all.end(), [&](const Content& v) {
      return v.size == found.size && v.Text(0, v.size) == found.Text(0, found.size);
    });
    return whole ? "" : "a mixture of what it held inside its inode";
  }
  for (uint64_t page : pages) {
    uint64_t begin = page * kBlockSize, end = std::min(found.size, begin + kBlockSize);
    for (uint64_t i = begin; i < end; ++i) {
      char byte = found.At(i);
      if (!Explained(all, i, byte))
        return "byte " + std::to_string(i) + " of " + std::to_string(found.size) + " is " +
               std::to_string(static_cast<uint8_t>(byte)) + ", which it never was since it was synced";
    }
  }
  return "";
}

// ---- reading --------------------------------------------------------------------------------------------------------

namespace {

Task<Result<Content>> ReadFile(Vfs* vfs, KernelInode node, uint64_t size) {
  Content content;
  content.size = size;
  for (uint64_t at = 0; at < size;) {
    auto begin = co_await vfs->SeekData(node, at);
    if (begin.code() == Errc::kNoData) break;
    if (!begin.ok()) co_return begin.error();
    auto end = co_await vfs->SeekHole(node, *begin);
    if (!end.ok()) co_return end.error();
    uint64_t length = std::min<uint64_t>(*end - *begin, 1 << 20);
    AlignedBuffer out((length + kBlockSize - 1) / kBlockSize * kBlockSize);
    auto read = co_await vfs->Read(node, *begin, out.span().first(length), {});
    if (!read.ok()) co_return read.error();
    if (read->bytes != length) co_return Error(Errc::kIo, "a short read inside a file");
    content.Put(*begin, AsText(std::as_const(out).span().first(length)));
    at = *begin + length;
  }
  co_return content;
}

Task<Status> ReadXattrs(Vfs* vfs, KernelInode node, Meta* meta) {
  auto names = co_await vfs->ListXattr(node);
  if (!names.ok()) co_return names.error();
  for (const std::string& name : *names) {
    auto value = co_await vfs->GetXattr(node, name);
    if (!value.ok()) co_return value.error();
    meta->xattrs[name] = std::string(AsText(*value));
  }
  co_return Status();
}

struct Open {
  KernelInode node = 0;
  uint64_t id = 0;
};

Task<Result<Open>> ReadInode(Vfs* vfs, Open dir, std::string name, FoundTree* out) {
  auto entry = co_await vfs->Lookup(dir.node, name);
  if (!entry.ok()) co_return entry.error();
  if (!entry->found()) co_return Error(Errc::kIo, "readdir gives " + name + ", lookup does not");
  const Attr attr = entry->attr;
  Open open{attr.node, attr.uid};
  if (out->tree.contains(open.id)) co_return open;
  auto meta = std::make_shared<Meta>();
  meta->type = attr.type();
  meta->mode = attr.mode & 07777;
  meta->gid = attr.gid;
  meta->nlink = attr.nlink;
  meta->rdev = attr.rdev;
  meta->mtime = attr.mtime.seconds;
  HF_CO_TRY(co_await ReadXattrs(vfs, attr.node, meta.get()));
  if (meta->type == FileType::kSymlink) {
    auto target = co_await vfs->ReadLink(attr.node);
    if (!target.ok()) co_return target.error();
    meta->target = *target;
  }
  if (meta->type == FileType::kDirectory) {
    std::string up = "..";
    auto parent = co_await vfs->Lookup(attr.node, up);
    if (!parent.ok()) co_return parent.error();
    meta->parent = parent->attr.uid;
  }
  if (meta->type == FileType::kRegular) {
    auto content = co_await ReadFile(vfs, attr.node, attr.size);
    if (!content.ok()) co_return content.error();
    out->data[open.id] = std::move(*content);
  }
  out->tree[open.id] = std::move(meta);
  co_return open;
}

}  // namespace

Task<Result<FoundTree>> ReadTree(Vfs* vfs) {
  FoundTree out;
  auto root = std::make_shared<Meta>();
  auto attr = co_await vfs->GetAttr(kRootNode);
  if (!attr.ok()) co_return attr.error();
  root->type = FileType::kDirectory;
  root->nlink = attr->nlink;
  out.tree[0] = std::move(root);
  std::vector<Open> todo{{kRootNode, 0}};
  while (!todo.empty()) {
    Open dir = todo.back();
    todo.pop_back();
    auto meta = std::make_shared<Meta>(*out.tree.at(dir.id));
    ReadDirOptions options;
    options.bytes_max = 700;  // several pages
    for (bool end = false; !end;) {
      auto page = co_await vfs->ReadDir(dir.node, options);
      if (!page.ok()) co_return page.error();
      end = page->end;
      if (!end && page->entries.empty()) co_return Error(Errc::kIo, "an empty page in the middle of a directory");
      for (const DirEntry& e : page->entries) {
        options.cookie = e.cookie;
        if (e.name == "." || e.name == "..") continue;
        auto open = co_await ReadInode(vfs, dir, e.name, &out);
        if (!open.ok()) co_return open.error();
        bool fresh = meta->names.emplace(e.name, open->id).second;
        if (!fresh) co_return Error(Errc::kIo, "readdir gives " + e.name + " twice");
        if (e.type == FileType::kDirectory) todo.push_back(*open);
      }
    }
    out.tree[dir.id] = std::move(meta);
  }
  co_return out;
}

}  // namespace holdfast::fs::test
