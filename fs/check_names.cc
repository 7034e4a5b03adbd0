// Check: the tree of names from the root, and the orphan lists.
#include <algorithm>
#include <set>

#include "fs/check_state.h"
#include "fs/directory.h"
#include "fs/siphash.h"

namespace holdfast::fs {

Task<Status> Checker::WalkNames() {
  Known* root = nullptr;
  HF_CO_TRY(co_await VisitInode(report_.super.root_inode.v, report_.super.root_generation, 4, 0, &root));
  if (!root) co_return Status();
  if (root->type != 4 || root->generation != report_.super.root_generation)
    Error("root", "the root inode is not the one that the superblock names", report_.super.root_inode.v, report_.super.root_inode.v);
  root->names = 0;
  // Directories are entered one after the other: the depth of the tree costs no stack.
  while (!directories_.empty()) {
    Directory next = directories_.front();
    directories_.pop_front();
    Known* known = nullptr;
    HF_CO_TRY(co_await VisitInode(next.number, next.generation, 4, 0, &known));
  }
  co_return Status();
}

// Reads the blocks of a directory's inodes in large pieces ahead of the visits.
Task<Status> Checker::Prefetch(std::vector<uint64_t> blocks) {
  constexpr size_t kRunMax = 64, kGap = 8;
  std::sort(blocks.begin(), blocks.end());
  blocks.erase(std::unique(blocks.begin(), blocks.end()), blocks.end());
  fetched_.clear();
  for (size_t i = 0; i < blocks.size();) {
    size_t k = i;
    while (k + 1 < blocks.size() && blocks[k + 1] - blocks[k] <= kGap && blocks[k + 1] - blocks[i] < kRunMax) ++k;
    AlignedBuffer run((blocks[k] - blocks[i] + 1) * kBlockSize);
    auto read = co_await device_.Read(blocks[i] * kBlockSize, run.span());
    if (!read.ok()) co_return read;
    for (size_t b = i; b <= k; ++b) {
      auto one = std::make_shared<AlignedBuffer>(kBlockSize);
      std::copy_n(run.data() + (blocks[b] - blocks[i]) * kBlockSize, kBlockSize, one->data());
      fetched_[blocks[b]] = std::move(one);
    }
    i = k + 1;
  }
  co_return Status();
}

Task<Status> Checker::CheckDirectory(uint64_t number, const DiskInode& disk, TreeWalk& walk) {
  const DiskInode inode = disk;
  auto problem = [&](const std::string& what) { Error("directory", "directory " + std::to_string(number) + ": " + what, number, number); };
  uint64_t entries = 0, bytes = 0;
  constexpr size_t kBatch = 4096;
  std::vector<std::pair<uint64_t, std::vector<std::byte>>> records = std::move(walk.records);
  walk.records.clear();
  std::set<std::string> names_of_hash;
  uint64_t last_hash = 0;
  for (size_t i = 0; i < records.size(); ++i) {
    if (i % kBatch == 0) {
      std::vector<uint64_t> wanted;
      for (size_t k = i; k < records.size() && k < i + kBatch; ++k) {
        auto name = fs::Directory::Decode({records[k].first, records[k].second});
        if (name.ok() && geometry_.ValidTarget(BlockNo(name->inode.v)) && !inodes_.contains(name->inode.v)) wanted.push_back(name->inode.v);
      }
      HF_CO_TRY(co_await Prefetch(std::move(wanted)));
    }
    auto& [key, value] = records[i];
    auto name = fs::Directory::Decode({key, value});
    if (!name.ok()) {
      problem(name.error().message);
      continue;
    }
    ++entries;
    ++report_.counts.names;
    bytes += name->name.size() + 24;
    std::string text(name->name);
    uint64_t hash = SipHash(report_.super.hash_key, text) & kCookieHashMask;
    if (hash == 0) hash = 1;
    if (key >> kCookieCollisionBits != hash) problem("the name '" + text + "' is under another's hash");
    if (text == "." || text == "..") problem("a name is '" + text + "'");
    if (hash != last_hash) names_of_hash.clear();
    last_hash = hash;
    if (!names_of_hash.insert(text).second) problem("the name '" + text + "' is there twice");
    uint64_t target = name->inode.v;
    uint32_t generation = name->generation;
    uint8_t type = name->type;
    if (!geometry_.ValidTarget(BlockNo(target))) {
      problem("the name '" + text + "' points outside the groups");
      continue;
    }
    if (type == 4) {
      // Entered later; here only that it has one name and knows its parent.
      auto known = inodes_.find(target);
      if (known != inodes_.end() && known->second.names > 0) problem("the directory '" + text + "' (inode " + std::to_string(target) + ") has two names");
      if (target == report_.super.root_inode.v) {
        problem("the root has a name");
        continue;
      }
      AlignedBuffer peek(kBlockSize);
      auto good = co_await ReadBlock(BlockNo(target), BlockType::kInode, peek.span(), "directory", target);
      if (!good.ok()) co_return good.error();
      if (!*good) continue;
      const auto& child = *reinterpret_cast<const DiskInode*>(peek.data() + kInodeOffset);
      if (child.generation != generation || (child.mode >> 12 & 15) != 4) {
        problem("the name '" + text + "' points to inode " + std::to_string(target) + ", which is something else");
        continue;
      }
      if (child.parent != number || child.parent_generation != inode.generation)
        problem("the directory '" + text + "' (inode " + std::to_string(target) + ") believes to be in inode " + std::to_string(uint64_t{child.parent}));
      ++pending_names_[target];
      ++inodes_.at(number).children;
      directories_.push_back({target, generation});
      continue;
    }
    Known* known = nullptr;
    HF_CO_TRY(co_await VisitInode(target, generation, type, number, &known));
    if (known) ++known->names;
  }
  fetched_.clear();
  if (entries != (uint64_t{inode.entries_high} << 32 | inode.entries_low))
    problem("says " + std::to_string(uint64_t{inode.entries_high} << 32 | inode.entries_low) + " entries, has " + std::to_string(entries));
  if (!walk.bad && bytes != inode.size) problem("size " + std::to_string(uint64_t{inode.size}) + ", its names add up to " + std::to_string(bytes));
  co_return Status();
}

Task<Status> Checker::CheckOrphans() {
  for (auto& [number, names] : pending_names_) {
    if (auto it = inodes_.find(number); it != inodes_.end()) it->second.names = names;
  }
  in_orphans_ = true;
  for (uint32_t j = 0; j < journals_.size(); ++j) {
    if (journals_[j].orphans.empty()) continue;
    uint64_t at = journals_[j].orphans.front();
    journals_[j].orphans.clear();
    while (at != 0) {
      auto problem = [&](const std::string& what) { Error("orphans", "orphan list of journal " + std::to_string(j) + ": " + what, at, at); };
      if (!geometry_.ValidTarget(BlockNo(at))) {
        problem("points outside the groups");
        break;
      }
      if (auto it = inodes_.find(at); it != inodes_.end() && it->second.orphan) {
        problem("inode " + std::to_string(at) + " is on it twice");
        break;
      }
      Known* known = nullptr;
      HF_CO_TRY(co_await VisitInode(at, 0, 0, 0, &known));
      if (!known) break;
      known->orphan = true;
      AlignedBuffer block(kBlockSize);
      auto good = co_await ReadBlock(BlockNo(at), BlockType::kInode, block.span(), "orphan", at);
      if (!good.ok()) co_return good.error();
      const auto& inode = *reinterpret_cast<const DiskInode*>(block.data() + kInodeOffset);
      if ((inode.state & kInodeOrphan) == 0) problem("inode " + std::to_string(at) + " is not marked as an orphan");
      journals_[j].orphans.push_back(at);
      ++report_.counts.orphans;
      at = inode.orphan_next;
    }
    Finding note;
    note.level = Finding::Level::kNote;
    note.repair = RepairKind::kOrphan;
    note.code = "orphans-left";
    note.text = "journal " + std::to_string(j) + ": " + std::to_string(journals_[j].orphans.size()) + " unlinked inodes wait to be freed";
    note.block = geometry_.JournalStart(MountNo(j)).v;
    Add(std::move(note));
  }
  in_orphans_ = false;
  // Orphan directories have entered their children's list: none may be left.
  while (!directories_.empty()) {
    Directory next = directories_.front();
    directories_.pop_front();
    Known* known = nullptr;
    HF_CO_TRY(co_await VisitInode(next.number, next.generation, 4, 0, &known));
  }
  for (auto& [number, known] : inodes_) {
    if (known.type == 4 && pending_names_.contains(number)) known.names = pending_names_[number];
  }
  co_return Status();
}

}  // namespace holdfast::fs
