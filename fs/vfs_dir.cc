// Vfs: readdir by cookie.
#include "fs/vfs.h"
#include "fs/vfs_make.h"

namespace holdfast::fs {
namespace {

inline constexpr size_t kEntryBytes = 24;       // of a FUSE directory entry without its name
inline constexpr size_t kEntryPlusBytes = 152;  // with attributes

struct Filling {
  VfsCore* core = nullptr;
  ReadDirOptions options;
  DirPage page;
  size_t used = 0;

  bool Fits(size_t name_bytes) {
    size_t bytes = (options.plus ? kEntryPlusBytes : kEntryBytes) + ((name_bytes + 7) & ~size_t{7});
    if (used + bytes > options.bytes_max) return false;
    used += bytes;
    return true;
  }
};

bool AddDots(Filling* f, Inode& dir) {
  const InodeNo root = f->core->root();
  InodeNo up = dir.number == root ? root : InodeNo(dir.core.parent);
  uint32_t up_generation = dir.number == root ? uint32_t{dir.core.generation} : uint32_t{dir.core.parent_generation};
  for (uint64_t cookie = f->options.cookie + 1; cookie <= 2; ++cookie) {
    if (!f->Fits(2)) return false;
    DirEntry e;
    e.name = cookie == 1 ? "." : "..";
    e.number = cookie == 1 ? dir.number : up;
    e.node = cookie == 1 ? f->core->Node(dir) : NodeOf(up, up_generation, root);
    e.type = FileType::kDirectory;
    e.cookie = cookie;
    f->page.entries.push_back(std::move(e));
  }
  return true;
}

// Attributes where the inode's lock is free at once: a listing waits for nobody.
Task<void> AddAttributes(Filling* f) {
  LockOptions noqueue;
  noqueue.noqueue = true;
  for (DirEntry& e : f->page.entries) {
    if (e.cookie <= 2) continue;
    auto locked = co_await f->core->Lock(e.node, LockMode::kPr, noqueue);
    if (!locked.ok()) continue;
    e.attr = f->core->AttrOf(**locked);
    e.has_attr = true;
  }
}

}  // namespace

Task<Result<DirPage>> Vfs::ReadDir(KernelInode node, ReadDirOptions options) {
  VfsCore* core = core_.get();
  auto locked = co_await LockDirectory(core, node, LockMode::kPr, options.interrupt);
  if (!locked.ok()) co_return locked.error();
  Inode* dir = &**locked;
  Filling f{core, options, {}, 0};
  f.page.parent_acquisition = locked->guard().acquisition();
  if (!AddDots(&f, *dir)) co_return std::move(f.page);
  InodeTree t(*core->parts.cache, *dir, NodeKind::kNames);
  Directory names(t.tree, core->parts.super->hash_key);
  uint64_t at = std::max(options.cookie, kCookieFirst - 1);
  for (;;) {
    HF_CO_LOAD(next, names.After(at), core, dir);
    if (!*next) {
      f.page.end = true;
      break;
    }
    const NameRecord& r = **next;
    if (!f.Fits(r.name.size())) break;
    DirEntry e;
    e.name = r.name;
    e.number = r.inode;
    e.node = NodeOf(r.inode, r.generation, core->root());
    e.type = static_cast<FileType>(r.type);
    e.cookie = at = r.cookie;
    f.page.entries.push_back(std::move(e));
  }
  if (options.plus) co_await AddAttributes(&f);
  co_return std::move(f.page);
}

}  // namespace holdfast::fs
