// CrashOutcomes: what a device may hold after a power loss at one moment: of the writes since the last flush none, all, a prefix,
// all but one, one alone, the journal's area alone, everything but the journal's; or each sector as chance has it, torn ones too.
// REQUIRES: DiskKnobs::early_destage 0 (else a write of before could come back over a newer one).
#pragma once

#include <deque>

#include "fs/geometry.h"
#include "tests/sim/disk.h"

namespace holdfast::fs::test {

class CrashOutcomes {
 public:
  explicit CrashOutcomes(sim::SimDisk* disk) : disk_(disk) {}
  // From the disk's watchers.
  void Wrote(const sim::DiskWrite& write) {
    if (write.fua || !disk_->knobs().volatile_cache) return;
    Kept kept{write.offset, std::vector<std::byte>(write.length)};
    disk_->image().Read(write.offset, kept.bytes);
    kept_.push_back(std::move(kept));
  }
  void Flushed() {
    if (disk_->unflushed_sectors() == 0) kept_.clear();
  }
  size_t pending() const { return kept_.size(); }
  // Several that matter most, chosen by chance; `all`: each prefix, each write alone and each left out, too.
  std::vector<sim::DiskImage> Some(sim::SimRandom* random, const Geometry& geometry, bool all) const {
    std::vector<sim::DiskImage> out;
    if (kept_.empty()) {
      out.push_back(disk_->CrashImage(*random));  // what is in flight
      return out;
    }
    uint64_t first = geometry.first_journal_block * kBlockSize, end = geometry.first_group_block * kBlockSize;
    auto in_journal = [&](size_t i) { return kept_[i].offset >= first && kept_[i].offset < end; };
    if (!all) {
      size_t at = random->Below(kept_.size());
      switch (random->Below(10)) {
        case 0: out.push_back(With([](size_t) { return false; })); break;
        case 1: out.push_back(With([](size_t) { return true; })); break;
        case 2: out.push_back(With([at](size_t i) { return i <= at; })); break;
        case 3: out.push_back(With([at](size_t i) { return i != at; })); break;
        case 4: out.push_back(With([at](size_t i) { return i == at; })); break;
        case 5: case 6: case 7: out.push_back(With(in_journal)); break;  // data behind its record, if nothing orders it
        case 8: out.push_back(With([&](size_t i) { return !in_journal(i); })); break;
        default: out.push_back(disk_->CrashImage(*random)); break;
      }
      return out;
    }
    out.push_back(With(in_journal));
    out.push_back(With([&](size_t i) { return !in_journal(i); }));
    for (size_t at = 0; at < kept_.size(); ++at) {
      out.push_back(With([at](size_t i) { return i < at; }));
      out.push_back(With([at](size_t i) { return i == at; }));
      out.push_back(With([at](size_t i) { return i != at; }));
    }
    for (int i = 0; i < 4; ++i) out.push_back(disk_->CrashImage(*random));
    return out;
  }

 private:
  struct Kept {
    uint64_t offset = 0;
    std::vector<std::byte> bytes;
  };
  template <class Keeps>
  sim::DiskImage With(const Keeps& keeps) const {
    sim::DiskImage image = disk_->DurableImage();
    for (size_t i = 0; i < kept_.size(); ++i)
      if (keeps(i)) image.Write(kept_[i].offset, kept_[i].bytes);
    return image;
  }

  sim::SimDisk* disk_;
  std::deque<Kept> kept_;  // since the last flush
};

}  // namespace holdfast::fs::test
