#include "fs/extents.h"

#include <algorithm>
#include <set>

namespace holdfast::fs {
namespace {

inline constexpr uint64_t kFileBlocksMax = uint64_t{1} << 51;

std::span<const std::byte> BytesOf(const DiskExtent& extent) {
  return {reinterpret_cast<const std::byte*>(&extent), sizeof(extent)};
}

}  // namespace

Result<Extents::Found> Extents::Decode(const TreeRecord& record) const {
  if (record.value.size() != sizeof(DiskExtent)) return Error(Errc::kCorrupt, "extent record of the wrong size");
  const DiskExtent& d = *reinterpret_cast<const DiskExtent*>(record.value.data());
  Found f{record.key, d.count, BlockNo(d.start), d.flags};
  if (f.count == 0 || f.first > kFileBlocksMax || d.device != 0 || !geometry_.ValidTarget(f.start, f.count))
    return Error(Errc::kCorrupt, "extent out of range");
  return f;
}

Result<std::optional<Extents::Found>> Extents::Covering(uint64_t block) {
  auto record = tree_.AtOrBefore(block);
  if (!record.ok()) return record.error();
  if (!*record) return std::optional<Found>();
  auto found = Decode(**record);
  if (!found.ok()) return found.error();
  if (block - found->first >= found->count) return std::optional<Found>();
  return std::optional<Found>(*found);
}

Result<Mapping> Extents::Map(uint64_t first, uint64_t max) {
  auto found = Covering(first);
  if (!found.ok()) return found.error();
  if (*found) {
    uint64_t skip = first - (*found)->first;
    return Mapping{BlockNo((*found)->start.v + skip), std::min(max, (*found)->count - skip),
                   ((*found)->flags & kExtentUnwritten) != 0};
  }
  auto next = tree_.AtOrAfter(first);
  if (!next.ok()) return next.error();
  uint64_t count = *next ? std::min(max, (*next)->key - first) : max;
  return Mapping{BlockNo(), count, false};
}

Result<uint64_t> Extents::End() {
  auto last = tree_.AtOrBefore(UINT64_MAX);
  if (!last.ok()) return last.error();
  if (!*last) return uint64_t{0};
  auto found = Decode(**last);
  if (!found.ok()) return found.error();
  return found->first + found->count;
}

// With the neighbours on both sides: what is looked for after a record has been taken away may be theirs.
Status Extents::Load(uint64_t first, uint64_t count) {
  HF_TRY(tree_.LoadPath(first));
  if (first > 0) {
    auto left = tree_.AtOrBefore(first - 1);
    if (!left.ok()) return left.error();
  }
  auto before = tree_.AtOrBefore(first);
  if (!before.ok()) return before.error();
  for (uint64_t at = first;;) {
    HF_TRY(tree_.LoadPath(at));
    auto next = tree_.AtOrAfter(at);
    if (!next.ok()) return next.error();
    if (!*next || (*next)->key > first + count) return Status();
    at = (*next)->key + 1;
  }
}

Status Extents::Put(const Found& found, bool replace) {
  DiskExtent d;
  d.start = found.start.v;
  d.count = static_cast<uint32_t>(found.count);
  d.flags = found.flags;
  d.device = 0;
  d.reserved = 0;
  return replace ? tree_.Replace(found.first, BytesOf(d)) : tree_.Insert(found.first, BytesOf(d));
}

Status Extents::Insert(uint64_t first, Extent extent, bool unwritten) {
  Found added{first, extent.count, extent.start, unwritten ? kExtentUnwritten : uint8_t{0}};
  if (first > 0) {
    auto before = Covering(first - 1);
    if (!before.ok()) return before.error();
    if (*before) {
      Found& b = **before;
      if (b.start.v + b.count == extent.start.v && b.flags == added.flags && b.count + extent.count <= UINT32_MAX) {
        b.count += extent.count;
        return Put(b, true);
      }
    }
  }
  return Put(added, false);
}

Status Extents::Remove(uint64_t first, uint64_t count, std::vector<Extent>* freed) {
  uint64_t end = first + count;
  for (uint64_t at = first; at < end;) {
    auto covering = Covering(at);
    if (!covering.ok()) return covering.error();
    if (!*covering) {
      auto next = tree_.AtOrAfter(at);
      if (!next.ok()) return next.error();
      if (!*next || (*next)->key >= end) return Status();
      at = (*next)->key;
      continue;
    }
    Found f = **covering;
    uint64_t f_end = f.first + f.count, cut_end = std::min(end, f_end);
    freed->push_back({BlockNo(f.start.v + (at - f.first)), cut_end - at});
    Found head{f.first, at - f.first, f.start, f.flags};
    Found tail{cut_end, f_end - cut_end, BlockNo(f.start.v + (cut_end - f.first)), f.flags};
    if (head.count > 0) {
      HF_TRY(Put(head, true));
    } else {
      HF_TRY(tree_.Remove(f.first));
    }
    if (tail.count > 0) HF_TRY(Put(tail, false));
    at = cut_end;
  }
  return Status();
}

Status Extents::MarkWritten(uint64_t first, uint64_t count) {
  uint64_t end = first + count;
  for (uint64_t at = first; at < end;) {
    auto covering = Covering(at);
    if (!covering.ok()) return covering.error();
    if (!*covering) return Error(Errc::kCorrupt, "a hole where an unwritten extent was");
    Found f = **covering;
    uint64_t f_end = f.first + f.count, cut_end = std::min(end, f_end);
    if ((f.flags & kExtentUnwritten) != 0) {
      Found head{f.first, at - f.first, f.start, f.flags};
      Found middle{at, cut_end - at, BlockNo(f.start.v + (at - f.first)), static_cast<uint8_t>(f.flags & ~kExtentUnwritten)};
      Found tail{cut_end, f_end - cut_end, BlockNo(f.start.v + (cut_end - f.first)), f.flags};
      if (head.count > 0) {
        HF_TRY(Put(head, true));
      } else {
        HF_TRY(tree_.Remove(f.first));
      }
      HF_TRY(Insert(middle.first, {middle.start, middle.count}, false));
      if (tail.count > 0) HF_TRY(Put(tail, false));
    }
    at = cut_end;
  }
  return Status();
}

Result<Extents::Batch> Extents::LastBatch(uint64_t first, uint64_t count, size_t extents_max) {
  Batch batch{first + count, 0, false, {}};
  std::set<uint64_t> groups;
  uint64_t end = first + count;
  for (uint64_t below = end; below > first;) {
    auto record = tree_.AtOrBefore(below - 1);
    if (!record.ok()) return record.error();
    if (!*record) break;
    auto found = Decode(**record);
    if (!found.ok()) return found.error();
    uint64_t from = std::max(first, found->first), to = std::min(end, found->first + found->count);
    if (to <= from) break;
    uint64_t group = geometry_.GroupOf(found->start);
    if (batch.extents.size() == extents_max || (!groups.contains(group) && groups.size() == kFreeGroupsMax)) {
      batch.more = true;
      batch.count = end - batch.first;
      return batch;
    }
    groups.insert(group);
    batch.extents.push_back({BlockNo(found->start.v + (from - found->first)), to - from});
    batch.first = from;
    below = from;
  }
  batch.first = first;
  batch.count = count;
  return batch;
}

}  // namespace holdfast::fs
