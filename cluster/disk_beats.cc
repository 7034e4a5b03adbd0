// Heartbeats on the disk. See disk_beats.h.
#include "cluster/disk_beats.h"

#include <utility>

#include "base/bytes.h"
#include "base/sync.h"

namespace holdfast::cluster {

DiskBeats::DiskBeats(BlockDevice* device, uint64_t offset, NodeId self, NodeId highest)
    : device_(device), offset_(offset), self_(self), highest_(highest) {}

Task<Result<std::vector<DiskBeat>>> DiskBeats::ReadAll() {
  AlignedBuffer blocks(highest_.v * kBlockSize);
  auto status = co_await device_->Read(offset_, blocks.span());
  if (!status.ok()) co_return status.error();
  std::vector<DiskBeat> beats;
  for (uint32_t n = 1; n <= highest_.v; ++n) {
    auto beat = DecodeBeat(blocks.span().subspan((n - 1) * kBlockSize, kBlockSize), NodeId(n));
    // A block that is being written does not validate: the next look will show it.
    if (beat.ok() && (area_id_ == 0 || beat->area_id == area_id_)) beats.push_back(*beat);
  }
  co_return beats;
}

Task<Status> DiskBeats::Write(DiskBeat beat) {
  beat.area_id = area_id_;
  beat.node = self_;
  beat.sequence = ++sequence_;
  AlignedBuffer block(kBlockSize);
  EncodeBeat(beat, block.span());
  auto status = co_await device_->Write(offset_ + BeatOffset(self_), block.span(), WriteFlags::kNone);
  co_return status;
}

Task<Status> DiskBeats::CheckTwin(uint64_t area_id, uint64_t nonce, Duration wait) {
  area_id_ = area_id;
  auto before = co_await ReadAll();
  if (!before.ok()) co_return before.error();
  for (const auto& beat : *before)
    if (beat.node == self_) sequence_ = beat.sequence;
  DiskBeat first;
  first.nonce = nonce;
  first.flags = kBeatJoining;
  auto writing = Write(first);
  auto written = co_await std::move(writing);
  if (!written.ok()) co_return written.error();
  co_await SleepFor(wait);
  auto after = co_await ReadAll();
  if (!after.ok()) co_return after.error();
  for (const auto& beat : *after)
    if (beat.node == self_ && beat.nonce != nonce)
      co_return Error(Errc::kBusy, "another process uses the slot of n" + std::to_string(self_.v) + " in the quorum area");
  co_return Status();
}

}  // namespace holdfast::cluster
