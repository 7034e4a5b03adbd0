// FileData: what was written to one file and is not on disk yet, in pages of kBlockSize, under the inode's EX lock.
// A page is always whole (bytes past the end of the file are zero). Pages of one large write lie in one buffer, so
// that they go to the disk without another copy.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <span>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/result.h"
#include "fs/alloc.h"

namespace holdfast::fs {

struct DirtyPage {
  std::byte* bytes = nullptr;
  std::shared_ptr<void> owner;
  bool promised = false;  // a block of the file's reservation is for it: there was a hole
};

class FileData {
 public:
  bool dirty() const { return !pages_.empty(); }
  size_t bytes() const { return pages_.size() * kBlockSize; }
  std::map<uint64_t, DirtyPage>& pages() { return pages_; }
  const std::map<uint64_t, DirtyPage>& pages() const { return pages_; }
  DirtyPage* Find(uint64_t page) {
    auto it = pages_.find(page);
    return it == pages_.end() ? nullptr : &it->second;
  }
  // Zeroed pages for [first, first + count) where there are none; one buffer for all of them.
  void Add(uint64_t first, uint64_t count, bool promised);
  // The same over whole pages of somebody's memory.
  void Adopt(uint64_t first, uint64_t count, bool promised, std::byte* bytes, std::shared_ptr<void> owner);
  // Forgets the pages from `first` on (of `count`); returns how many had a promise.
  uint64_t Drop(uint64_t first, uint64_t count = UINT64_MAX);
  // Pieces of the file that are dirty, at most: what the extents' tree must have room for.
  uint64_t runs() const { return runs_; }
  uint64_t promised() const { return promised_; }
  void AddPromise(uint64_t pages) { promised_ += pages; }
  void Clear();
  // Page was written: it goes.
  void Erase(std::map<uint64_t, DirtyPage>::iterator it);

  Reservation reserved;      // for promised pages and the tree nodes that their extents need
  Instant since;             // when the oldest page became dirty
  std::optional<Error> error;  // of a failed write-back, to be reported once

 private:
  std::map<uint64_t, DirtyPage> pages_;
  uint64_t promised_ = 0;
  uint64_t runs_ = 0;
};

}  // namespace holdfast::fs
