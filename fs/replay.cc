#include "fs/replay.h"

#include <algorithm>
#include <cstring>

#include "base/crc32c.h"
#include "base/log.h"
#include "base/mutants.h"
#include "base/probe.h"
#include "base/sync.h"
#include "fs/meta_block.h"

namespace holdfast::fs {
namespace {

constexpr uint32_t kWindowBlocks = 256;
constexpr int kTornReads = 5;                     // of a block that a survivor may be writing
constexpr Duration kTornWait = Milliseconds(20);
constexpr uint32_t kHoleBlocks = 4096;            // so far behind the last good record another is looked for (16 MiB)
constexpr uint64_t kSequenceJump = 1000;          // past whatever may lie torn in the log

// The log read through a window; positions wrap.
class LogReader {
 public:
  LogReader(BlockDevice& device, const Geometry& geometry, MountNo journal)
      : device_(device), start_(geometry.JournalStart(journal).v + kJournalLogIndex), blocks_(geometry.LogBlocks()) {}
  uint32_t blocks() const { return blocks_; }
  BlockNo NumberOf(uint64_t position) const { return BlockNo(start_ + position % blocks_); }

  Task<Status> Read(uint64_t position, std::span<std::byte> out) {
    for (size_t done = 0; done < out.size(); done += kBlockSize, ++position) {
      auto at = static_cast<uint32_t>(position % blocks_);
      if (at < first_ || at >= first_ + count_) {
        count_ = 0;
        uint32_t n = std::min(kWindowBlocks, blocks_ - at);
        if (window_.size() == 0) window_ = AlignedBuffer(size_t{kWindowBlocks} * kBlockSize);
        HF_CO_TRY(co_await device_.Read((start_ + at) * kBlockSize, window_.span().first(size_t{n} * kBlockSize)));
        first_ = at;
        count_ = n;
      }
      std::memcpy(out.data() + done, window_.data() + size_t{at - first_} * kBlockSize, kBlockSize);
    }
    co_return Status();
  }

 private:
  BlockDevice& device_;
  uint64_t start_;
  uint32_t blocks_;
  AlignedBuffer window_;
  uint32_t first_ = 0, count_ = 0;
};

bool SameName(const DiskLogName& name, const JournalHeader& header, uint64_t sequence) {
  return name.journal == header.journal.v && name.life == header.life && name.owner_incarnation == header.owner.incarnation.v &&
         name.owner_nonce == header.owner.nonce && name.sequence == sequence;
}

// Checks a record as a whole and adds what it says. False: not a record of this log.
bool TakeRecord(const Geometry& geometry, const LogReader& reader, uint64_t position, std::shared_ptr<AlignedBuffer> bytes,
                LogContents* log) {
  auto all = std::as_const(*bytes).span();
  uint64_t sequence = log->next_sequence;
  auto total = static_cast<uint32_t>(all.size() / kBlockSize);
  auto block = [&](uint32_t i) { return all.subspan(size_t{i} * kBlockSize, kBlockSize); };
  const auto& first = As<DiskLogDescriptor>(block(0));
  uint32_t descriptors = first.descriptors, images = first.images, entries = first.entries;
  const auto& commit = As<DiskLogCommit>(block(total - 1));
  if (!CheckBlock(block(total - 1), reader.NumberOf(position + total - 1), BlockType::kLogCommit, geometry.uuid).ok()) return false;
  if (!SameName(commit.name, log->header, sequence) || commit.descriptors != descriptors || commit.images != images) return false;
  if (commit.record_crc32c != Crc32c(all.first(all.size() - kBlockSize))) return false;
  for (uint32_t d = 0; d < descriptors; ++d) {
    if (!CheckBlock(block(d), reader.NumberOf(position + d), BlockType::kLogDescriptor, geometry.uuid).ok()) return false;
  }
  auto entry = [&](uint32_t i) -> const DiskLogEntry& {
    return As<DiskLogDescriptor>(block(i / kLogEntriesPerBlock)).entry[i % kLogEntriesPerBlock];
  };
  for (uint32_t i = 0; i < entries; ++i) {
    if ((entry(i).flags & kLogForget) == 0) continue;
    log->newest.erase(entry(i).block);
    ++log->forgotten;
  }
  uint32_t image = 0;
  for (uint32_t i = 0; i < entries; ++i) {
    if ((entry(i).flags & kLogImage) == 0) continue;
    if (image >= images) return false;
    size_t offset = size_t{descriptors + image++} * kBlockSize;
    BlockNo number(entry(i).block);
    if (!CheckBlock(all.subspan(offset, kBlockSize), number, BlockType::kNone, geometry.uuid).ok()) return false;
    Resource resource{static_cast<LockType>(entry(i).resource_type), entry(i).resource_number};
    log->newest[number.v] = {bytes, offset, resource, entry(i).version, sequence};
    ++log->images;
  }
  return true;
}

// A later record than the one expected, by the same owner or by a later life of the journal.
bool IsLater(const DiskLogName& name, const JournalHeader& header, uint64_t sequence) {
  if (name.journal != header.journal.v) return false;
  if (name.life != header.life) return name.life > header.life;
  return SameName(name, header, name.sequence) && name.sequence > sequence;
}

// Looks behind the last good record for what a crash cannot have left there. "" or what it found.
Task<Result<std::string>> FindHole(LogReader* reader, const Geometry* geometry, const LogContents* log, uint64_t used) {
  AlignedBuffer buffer(kBlockSize);
  auto block = std::as_const(buffer).span();
  uint64_t limit = std::min<uint64_t>(reader->blocks() - used, kHoleBlocks);
  for (uint64_t i = 0; i < limit; ++i) {
    uint64_t position = log->end_position + i;
    HF_CO_TRY(co_await reader->Read(position, buffer.span()));
    if (!CheckBlock(block, reader->NumberOf(position), BlockType::kNone, geometry->uuid).ok()) continue;
    auto type = static_cast<BlockType>(uint16_t{HeaderOf(block).type});
    bool descriptor = type == BlockType::kLogDescriptor;
    if (!descriptor && type != BlockType::kLogCommit) continue;
    const DiskLogName& name = descriptor ? As<DiskLogDescriptor>(block).name : As<DiskLogCommit>(block).name;
    if (!IsLater(name, log->header, log->next_sequence)) continue;
    HF_PROBE("replay: a hole in the log");
    co_return "journal " + std::to_string(log->header.journal.v) + ": record " + std::to_string(log->next_sequence) + " (block " +
        std::to_string(reader->NumberOf(log->end_position).v) + ") is damaged, but record " + std::to_string(uint64_t{name.sequence}) +
        (name.life != log->header.life ? " of a later life" : "") + " stands behind it (block " + std::to_string(reader->NumberOf(position).v) + ")";
  }
  co_return std::string();
}

}  // namespace

Task<Result<LogContents>> ReadLog(BlockDevice& device, Geometry geometry, MountNo journal) {
  auto header = co_await ReadJournalHeader(device, geometry, journal);
  if (!header.ok()) co_return header.error();
  LogContents log;
  log.header = *header;
  log.next_sequence = header->tail_sequence;
  log.end_position = header->tail_position;
  if (header->state == JournalState::kClean) co_return std::move(log);
  LogReader reader(device, geometry, journal);
  uint64_t position = header->tail_position, used = 0;
  AlignedBuffer head(kBlockSize);
  while (used < reader.blocks()) {
    HF_CO_TRY(co_await reader.Read(position, head.span()));
    const auto& first = As<DiskLogDescriptor>(std::as_const(head).span());
    if (!CheckBlock(std::as_const(head).span(), reader.NumberOf(position), BlockType::kLogDescriptor, geometry.uuid).ok()) break;
    if (!SameName(first.name, log.header, log.next_sequence) || first.index != 0) break;
    uint64_t total = uint64_t{first.descriptors} + first.images + 1;
    bool sane = first.descriptors > 0 && first.entries >= first.images && used + total <= reader.blocks() &&
                first.entries <= uint64_t{first.descriptors} * kLogEntriesPerBlock;
    if (!sane) break;
    auto bytes = std::make_shared<AlignedBuffer>(total * kBlockSize);
    HF_CO_TRY(co_await reader.Read(position, bytes->span()));
    if (!TakeRecord(geometry, reader, position, bytes, &log)) break;
    position = (position + total) % reader.blocks();
    used += total;
    ++log.records;
    ++log.next_sequence;
  }
  log.end_position = static_cast<uint32_t>(position);
  auto hole = co_await FindHole(&reader, &geometry, &log, used);
  if (!hole.ok()) co_return hole.error();
  log.hole = std::move(*hole);
  co_return std::move(log);
}

namespace {

// Is what lies in place older than the image (or damaged)? Reads again while it looks torn: a survivor may be at it.
Task<Result<bool>> NeedsImage(BlockDevice& device, const Geometry& geometry, BlockNo at, uint64_t version, bool survivors) {
  AlignedBuffer now(kBlockSize);
  for (int i = 0;; ++i) {
    auto read = co_await device.Read(at.v * kBlockSize, now.span());
    if (!read.ok()) co_return read.error();
    auto block = std::as_const(now).span();
    if (CheckBlock(block, at, BlockType::kNone, geometry.uuid).ok()) co_return HeaderOf(block).version < version;
    HF_PROBE("replay: block in place is torn or damaged");
    if (!survivors || HeaderOf(block).magic != kBlockMagic || i >= kTornReads) co_return true;
    co_await SleepFor(kTornWait);
  }
}

bool ValidImageTarget(const Geometry& geometry, uint64_t block) {
  return block >= geometry.first_journal_block && block < geometry.volume_blocks;
}

}  // namespace

Task<Result<ReplayReport>> ReplayJournal(BlockDevice& device, Geometry geometry, MountNo journal, FrozenPredicate frozen, Hole hole) {
  auto log = co_await ReadLog(device, geometry, journal);
  if (!log.ok()) co_return log.error();
  if (!log->hole.empty() && hole == Hole::kRefuse)
    co_return Error(Errc::kCorrupt, log->hole + "; 'fsck.holdfast -y' on the unmounted volume gives up what is behind the damage");
  ReplayReport report;
  report.hole = log->hole;
  report.owner = log->header.owner;
  report.records = log->records;
  report.images = log->images;
  report.forgotten = log->forgotten;
  if (log->header.state == JournalState::kClean) {
    HF_PROBE("replay: journal was clean");
    report.was_clean = true;
    co_return report;
  }
  std::map<Resource, bool> known;
  std::vector<uint64_t> apply;
  for (auto& [block, image] : log->newest) {
    if (!ValidImageTarget(geometry, block)) co_return Error(Errc::kCorrupt, "the log holds an image of block " + std::to_string(block));
    if (frozen) {
      auto it = known.find(image.resource);
      if (it == known.end()) {
        Resource resource = image.resource;
        auto answer = co_await frozen(resource);
        if (!answer.ok()) co_return answer.error();
        it = known.emplace(resource, *answer).first;
      }
      if (!it->second) {
        HF_PROBE("replay: resource was handed over");
        ++report.not_frozen;
        continue;
      }
    }
    auto needs = co_await NeedsImage(device, geometry, BlockNo(block), image.version, frozen != nullptr);
    if (!needs.ok()) co_return needs.error();
    if (*needs || HF_MUTANT(kReplayOlder)) {
      apply.push_back(block);
    } else {
      HF_PROBE("replay: newer in place");
      ++report.newer;
    }
  }
  for (size_t i = 0; i < apply.size();) {
    size_t n = 1;
    while (i + n < apply.size() && apply[i + n] == apply[i] + n && n < 64) ++n;
    AlignedBuffer run(n * kBlockSize);
    for (size_t k = 0; k < n; ++k) std::memcpy(run.data() + k * kBlockSize, log->newest.at(apply[i + k]).bytes().data(), kBlockSize);
    HF_CO_TRY(co_await device.Write(apply[i] * kBlockSize, std::as_const(run).span(), WriteFlags::kNone));
    report.applied += n;
    i += n;
  }
  if (!HF_MUTANT(kReplayCleanEarly)) HF_CO_TRY(co_await device.Flush());
  JournalHeader header = log->header;
  header.state = JournalState::kClean;
  ++header.life;
  header.tail_position = log->end_position;
  header.tail_sequence = log->next_sequence + kSequenceJump;
  header.stamped = Executor::Current().clock().Wall();
  HF_CO_TRY(co_await WriteJournalHeader(device, geometry, &header));
  HF_LOG(LogLevel::kInfo, "journal", "replayed",
         {{"journal", journal}, {"records", report.records}, {"images", report.images}, {"applied", report.applied},
          {"newer", report.newer}, {"not_frozen", report.not_frozen}, {"forgotten", report.forgotten}});
  co_return report;
}

}  // namespace holdfast::fs
