// Vfs: rename. Locks: the rename lock if the parents differ (no directory moves meanwhile, so ancestry is stable); the
// ancestors of both parents one PR at a time; then the parents, the upper one first (unrelated: by number); then what
// is moved and what is replaced, directories before files, then by number.
#include <algorithm>

#include "fs/orphans.h"
#include "fs/vfs.h"
#include "fs/vfs_make.h"

namespace holdfast::fs {
namespace {

struct Request {
  KernelInode parent = 0;
  std::string name;
  KernelInode new_parent = 0;
  std::string new_name;
  uint32_t flags = 0;
  Interrupt* interrupt = nullptr;
};

inline constexpr size_t kDepthMax = 100'000;

// The directory and all above it, nearest first. REQUIRES: the rename lock.
Task<Result<std::vector<InodeNo>>> AncestorsOf(VfsCore* core, KernelInode node, Interrupt* interrupt) {
  std::vector<InodeNo> chain;
  for (KernelInode at = node;;) {
    auto locked = co_await LockDirectory(core, at, LockMode::kPr, interrupt);
    if (!locked.ok()) co_return locked.error();
    Inode& inode = **locked;
    chain.push_back(inode.number);
    if (inode.number == core->root()) co_return chain;
    if (inode.core.nlink == 0) co_return Errc::kNotFound;
    if (chain.size() > kDepthMax) co_return Error(Errc::kCorrupt, "directories form a loop");
    at = NodeOf(InodeNo(inode.core.parent), inode.core.parent_generation, core->root());
  }
}

bool Contains(const std::vector<InodeNo>& chain, InodeNo number) {
  return std::find(chain.begin(), chain.end(), number) != chain.end();
}

struct Parents {
  LockGuard rename;
  LockedInode from;
  LockedInode to;  // empty: the same directory
  std::vector<InodeNo> above_from;
  std::vector<InodeNo> above_to;
  Inode* source_dir() { return &*from; }
  Inode* target_dir() { return to ? &*to : &*from; }
};

Task<Status> LockParents(VfsCore* core, const Request* r, Parents* p) {
  if (r->parent == r->new_parent) {
    auto only = co_await LockDirectory(core, r->parent, LockMode::kEx, r->interrupt, true);
    if (!only.ok()) co_return only.error();
    p->from = std::move(*only);
    co_return Status();
  }
  auto rename = co_await core->parts.locks->Lock(kRenameResource, LockMode::kEx, Interruptible(r->interrupt));
  if (!rename.ok()) co_return rename.error();
  p->rename = std::move(*rename);
  auto above_from = co_await AncestorsOf(core, r->parent, r->interrupt);
  if (!above_from.ok()) co_return above_from.error();
  auto above_to = co_await AncestorsOf(core, r->new_parent, r->interrupt);
  if (!above_to.ok()) co_return above_to.error();
  p->above_from = std::move(*above_from);
  p->above_to = std::move(*above_to);
  InodeNo from = p->above_from.front(), to = p->above_to.front();
  bool to_first = Contains(p->above_from, to) || (!Contains(p->above_to, from) && to < from);
  KernelInode upper = to_first ? r->new_parent : r->parent, lower = to_first ? r->parent : r->new_parent;
  auto first = co_await LockDirectory(core, upper, LockMode::kEx, r->interrupt, true);
  if (!first.ok()) co_return first.error();
  auto second = co_await LockDirectory(core, lower, LockMode::kEx, r->interrupt, true);
  if (!second.ok()) co_return second.error();
  p->from = std::move(to_first ? *second : *first);
  p->to = std::move(to_first ? *first : *second);
  co_return Status();
}

struct Children {
  LockedInode source;
  LockedInode target;  // empty: nothing is replaced
};

Task<Status> LockChildren(VfsCore* core, const FoundName* source, const FoundName* target, Children* out,
                          Interrupt* interrupt) {
  bool both = target->found;
  bool source_is_dir = source->type == FileType::kDirectory, target_is_dir = target->type == FileType::kDirectory;
  bool target_first =
      both && (target_is_dir != source_is_dir ? target_is_dir : target->inode < source->inode);
  const FoundName* order[2] = {target_first ? target : source, target_first ? source : target};
  for (int i = 0; i < (both ? 2 : 1); ++i) {
    auto locked = co_await core->LockNumber(order[i]->inode, order[i]->generation, LockMode::kEx, Interruptible(interrupt));
    if (!locked.ok()) co_return locked.error();
    (order[i] == source ? out->source : out->target) = std::move(*locked);
  }
  co_return Status();
}

Status CheckKinds(const Inode& source, const Inode* target, uint32_t flags) {
  uint32_t kept = kFlagImmutable | kFlagAppend;
  if ((source.core.flags & kept) != 0 || (target != nullptr && (target->core.flags & kept) != 0)) return Errc::kPermission;
  if (target == nullptr || (flags & kRenameExchange) != 0) return Status();
  if (source.directory() && !target->directory()) return Errc::kNotDirectory;
  if (!source.directory() && target->directory()) return Errc::kIsDirectory;
  if (target->directory() && target->entries() > 0) return Errc::kNotEmpty;
  return Status();
}

void MoveTo(Inode& child, Inode& from, Inode& to) {
  if (!child.directory() || &from == &to) return;
  from.core.nlink = from.core.nlink - 1;
  to.core.nlink = to.core.nlink + 1;
  child.core.parent = to.number.v;
  child.core.parent_generation = to.core.generation;
}

// All checks are done, all locks held: the transaction.
Task<Result<RenameResult>> Apply(VfsCore* core, const Request* r, Parents* p, Children* c, FoundName source,
                                 FoundName target) {
  Inode& from = *p->source_dir();
  Inode& to = *p->target_dir();
  Inode& moved = *c->source;
  Inode* replaced = target.found ? &*c->target : nullptr;
  bool exchange = (r->flags & kRenameExchange) != 0;
  NameChange out(core, &from), in(core, &to);
  Status prepared;
  if (target.found) {
    prepared = co_await in.PrepareRedirect(target.cookie);
  } else {
    prepared = co_await in.PrepareInsert(&r->new_name);
  }
  if (!prepared.ok()) co_return prepared.error();
  Reservation reservation;
  if (!target.found) {
    ReserveRequest request{in.meta(), 0, BlockNo(to.number.v)};
    auto reserved = co_await core->Reserve(request, r->interrupt);
    if (!reserved.ok()) co_return reserved.error();
    reservation = std::move(*reserved);
  }
  // Last, because it may lock groups.
  if (exchange) {
    prepared = co_await out.PrepareRedirect(source.cookie);
  } else {
    prepared = co_await out.PrepareRemove(source.cookie, r->interrupt);
  }
  if (!prepared.ok()) co_return prepared.error();
  auto tx = co_await core->parts.journal->Begin(8 + out.credits() + in.credits());
  if (!tx.ok()) co_return tx.error();
  out.Join(&*tx, &reservation);
  in.Join(&*tx, &reservation);
  Status status = target.found ? in.Redirect(r->new_name, moved) : in.Insert(r->new_name, moved);
  if (status.ok()) status = exchange ? out.Redirect(r->name, *replaced) : out.Remove(r->name);
  if (!status.ok()) {
    tx->Abort();
    from.Reload();
    if (&to != &from) to.Reload();
    co_return status.error();
  }
  WallTime now = core->Now();
  MoveTo(moved, from, to);
  if (exchange) MoveTo(*replaced, to, from);
  if (replaced != nullptr && !exchange) {
    if (replaced->directory()) to.core.nlink = to.core.nlink - 1;
    replaced->core.nlink = replaced->directory() ? 0 : replaced->core.nlink - 1;
    if (replaced->core.nlink == 0 && (replaced->core.state & kInodeOrphan) == 0) core->orphans->Push(*tx, *replaced);
  }
  moved.Touch(now, false);
  moved.Log(*tx, false);
  if (replaced != nullptr) {
    replaced->Touch(now, false);
    replaced->Log(*tx, false);
  }
  from.Touch(now, true);
  from.Log(*tx, true);
  if (&to != &from) {
    to.Touch(now, true);
    to.Log(*tx, true);
  }
  tx->Finish();
  RenameResult result;
  result.moved = core->AttrOf(moved);
  result.replaced = replaced != nullptr ? core->Node(*replaced) : 0;
  result.replaced_gone = replaced != nullptr && replaced->core.nlink == 0;
  result.old_parent_acquisition = p->from.guard().acquisition();
  result.new_parent_acquisition = p->to ? p->to.guard().acquisition() : result.old_parent_acquisition;
  co_return result;
}

}  // namespace

Task<Result<RenameResult>> Vfs::Rename(KernelInode parent, std::string name, KernelInode new_parent,
                                       std::string new_name, uint32_t flags, Interrupt* interrupt) {
  VfsCore* core = core_.get();
  if ((flags & ~(kRenameNoReplace | kRenameExchange)) != 0 || flags == (kRenameNoReplace | kRenameExchange))
    co_return Errc::kInvalid;
  for (const std::string* n : {&name, &new_name}) {
    auto good = CheckName(*n);
    if (!good.ok()) co_return good.error();
    if (*n == "." || *n == "..") co_return Errc::kBusy;
  }
  Request r{parent, std::move(name), new_parent, std::move(new_name), flags, interrupt};
  Parents p;
  auto locked = co_await LockParents(core, &r, &p);
  if (!locked.ok()) co_return locked.error();
  auto source = co_await FindName(core, p.source_dir(), &r.name);
  if (!source.ok()) co_return source.error();
  if (!source->found) co_return Errc::kNotFound;
  auto target = co_await FindName(core, p.target_dir(), &r.new_name);
  if (!target.ok()) co_return target.error();
  bool exchange = (flags & kRenameExchange) != 0;
  if (target->found && (flags & kRenameNoReplace) != 0) co_return Errc::kExists;
  if (exchange && !target->found) co_return Errc::kNotFound;
  if (Contains(p.above_to, source->inode)) co_return Errc::kInvalid;
  if (target->found && Contains(p.above_from, target->inode)) co_return exchange ? Errc::kInvalid : Errc::kNotEmpty;
  if (target->found && target->inode == source->inode) {
    // Two names of one inode: POSIX wants nothing done.
    auto same = co_await core->LockNumber(source->inode, source->generation, LockMode::kPr, Interruptible(interrupt));
    if (!same.ok()) co_return same.error();
    RenameResult result;
    result.moved = core->AttrOf(**same);
    co_return result;
  }
  Children c;
  auto children = co_await LockChildren(core, &*source, &*target, &c, interrupt);
  if (!children.ok()) co_return children.error();
  auto kinds = CheckKinds(*c.source, target->found ? &*c.target : nullptr, flags);
  if (!kinds.ok()) co_return kinds.error();
  if (c.source->directory() && p.to && p.target_dir()->core.nlink >= kLinkMax) co_return Errc::kTooManyLinks;
  auto applied = co_await Apply(core, &r, &p, &c, *source, *target);
  co_return applied;
}

}  // namespace holdfast::fs
