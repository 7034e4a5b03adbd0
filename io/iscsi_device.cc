// See iscsi_device.h. Command layouts: SBC-3.

#include "io/iscsi_device.h"

#include <algorithm>

#include "base/log.h"
#include "io/scsi_bytes.h"

namespace holdfast::io {

namespace {

ScsiCommand Inquire(uint8_t page, std::span<std::byte> answer) {
  ScsiCommand command;
  command.cdb[0] = 0x12;
  command.cdb[1] = 1;  // vital product data
  command.cdb[2] = page;
  command.cdb[3] = static_cast<uint8_t>(answer.size() >> 8);
  command.cdb[4] = static_cast<uint8_t>(answer.size());
  command.cdb_size = 6;
  command.in = answer;
  return command;
}

void PutCdb(ScsiCommand* command, size_t at, uint64_t value, size_t bytes) {
  for (size_t i = 0; i < bytes; i++) command->cdb[at + i] = static_cast<uint8_t>(value >> (8 * (bytes - 1 - i)));
}

}  // namespace

Task<Result<std::unique_ptr<IscsiDevice>>> IscsiDevice::Open(Reactor* reactor, std::string url, IscsiDeviceOptions options) {
  auto session = co_await IscsiSession::Open(reactor, std::move(url), options.session);
  if (!session.ok()) co_return session.error();
  std::unique_ptr<IscsiDevice> device(new IscsiDevice(std::move(*session), std::move(options)));
  auto status = co_await device->Probe();
  if (!status.ok()) {
    co_await device->Close();
    co_return status.error();
  }
  co_return std::move(device);
}

Task<Status> IscsiDevice::Probe() {
  info_.name = session_->name();
  info_.read_only = options_.read_only;
  auto capacity = co_await ReadCapacity();
  if (!capacity.ok()) co_return capacity;
  co_await ReadLimits();
  co_await ReadCaching();
  HF_LOG(LogLevel::kDebug, "iscsi", "device",
         {{"volume", info_.name}, {"bytes", info_.size_bytes}, {"sector", sector_size_}, {"volatile_cache", info_.volatile_cache},
          {"fua", fua_}, {"discard", info_.discard}, {"transfer_max", options_.transfer_bytes_max}});
  co_return Status{};
}

Task<Status> IscsiDevice::ReadCapacity() {
  Bytes answer(32);
  ScsiCommand command;
  command.cdb[0] = 0x9e;
  command.cdb[1] = 0x10;
  PutCdb(&command, 10, answer.size(), 4);
  command.cdb_size = 16;
  command.in = answer;
  auto done = co_await session_->Execute(command);
  if (!done.ok()) co_return done.error();
  if (*done < 15) co_return Error(Errc::kUnsupported, info_.name + ": short answer to READ CAPACITY(16)");
  uint64_t last = GetBe64(answer, 0);
  sector_size_ = GetBe32(answer, 8);
  if (sector_size_ != 512 && sector_size_ != kBlockSize) {
    co_return Error(Errc::kUnsupported, info_.name + ": sectors of " + std::to_string(sector_size_) + " bytes; 512 or 4096 are supported");
  }
  if (last >= UINT64_MAX / sector_size_) co_return Error(Errc::kUnsupported, info_.name + ": impossible size");
  info_.size_bytes = (last + 1) * sector_size_ / kBlockSize * kBlockSize;
  co_return Status{};
}

// Block limits (VPD B0) and logical block provisioning (VPD B2); a target without them has none.
Task<void> IscsiDevice::ReadLimits() {
  Bytes limits(64);
  auto done = co_await session_->Execute(Inquire(0xb0, limits));
  if (done.ok() && *done >= 12) {
    uint64_t sectors = GetBe32(limits, 8);
    if (sectors > 0) {
      uint64_t bytes = std::max<uint64_t>(sectors * sector_size_ / kBlockSize * kBlockSize, kBlockSize);
      options_.transfer_bytes_max = static_cast<uint32_t>(std::min<uint64_t>(options_.transfer_bytes_max, bytes));
    }
    if (*done >= 24) unmap_sectors_max_ = GetBe32(limits, 20);
  }
  Bytes provisioning(8);
  done = co_await session_->Execute(Inquire(0xb2, provisioning));
  info_.discard = done.ok() && *done >= 6 && (std::to_integer<int>(provisioning[5]) & 0x80) != 0;
  if (info_.discard && unmap_sectors_max_ == 0) unmap_sectors_max_ = 0xffffffff;
}

// MODE SENSE(6), page 8: write cache; the header: write protection, FUA. Unknown counts as a volatile cache without FUA.
Task<void> IscsiDevice::ReadCaching() {
  Bytes answer(64);
  ScsiCommand command;
  command.cdb[0] = 0x1a;
  command.cdb[1] = 0x08;  // no block descriptors
  command.cdb[2] = 0x08;
  command.cdb[4] = static_cast<uint8_t>(answer.size());
  command.cdb_size = 6;
  command.in = answer;
  // Some targets (tgt) answer it with RESERVATION CONFLICT until we are registered: that says nothing about our key.
  command.control = true;
  auto done = co_await session_->Execute(command);
  if (!done.ok() || *done < 4) co_return;
  caching_known_ = true;
  int specific = std::to_integer<int>(answer[2]);
  if ((specific & 0x80) != 0) info_.read_only = true;
  fua_ = (specific & 0x10) != 0;
  size_t page = 4 + std::to_integer<size_t>(answer[3]);
  if (page + 3 > *done || (std::to_integer<int>(answer[page]) & 0x3f) != 0x08) co_return;
  info_.volatile_cache = (std::to_integer<int>(answer[page + 2]) & 0x04) != 0;
}

Task<Status> IscsiDevice::Register(ReservationKey key) {
  auto status = co_await reservations_.Register(key);
  if (status.ok() && !caching_known_) co_await ReadCaching();  // now it answers
  co_return status;
}

Status IscsiDevice::CheckRange(uint64_t offset, uint64_t length) const {
  if (offset % kBlockSize != 0 || length % kBlockSize != 0 || length == 0) return Error(Errc::kInvalid, "misaligned request");
  if (offset > info_.size_bytes || length > info_.size_bytes - offset) return Error(Errc::kInvalid, "request beyond the end of " + info_.name);
  return {};
}

Task<Status> IscsiDevice::Read(uint64_t offset, std::span<std::byte> out) {
  auto status = co_await Transfer(offset, out, {}, false);
  co_return status;
}

Task<Status> IscsiDevice::Write(uint64_t offset, std::span<const std::byte> in, WriteFlags flags) {
  if (info_.read_only) co_return Error(Errc::kReadOnly, info_.name + " is read-only");
  if (unflushed_.bytes() > options_.unflushed_bytes_max) {
    auto flushed = co_await Flush();
    if (!flushed.ok()) co_return flushed;
  }
  bool durable = flags == WriteFlags::kFua && info_.volatile_cache;
  auto status = co_await Transfer(offset, {}, in, durable && fua_);
  if (!status.ok()) co_return status;
  if (durable && !fua_) {
    unflushed_.Wrote(offset, in, false);  // until the flush says so
    status = co_await Flush();
  } else if (info_.volatile_cache) {
    unflushed_.Wrote(offset, in, durable);
  }
  co_return status;
}

Task<Status> IscsiDevice::WriteAgain() {
  if (unflushed_.empty()) co_return Status{};
  HF_LOG(LogLevel::kInfo, "iscsi", "writing_again", {{"volume", info_.name}, {"bytes", unflushed_.bytes()}});
  auto pieces = unflushed_.Pieces(options_.transfer_bytes_max);
  for (const UnflushedWrites::Piece& piece : pieces) {
    auto status = co_await Part(piece.offset, {}, piece.bytes.span(), false, true);
    if (!status.ok()) co_return status;
    rewritten_bytes_ += piece.bytes.size();
  }
  co_return Status{};
}

Task<Status> IscsiDevice::Transfer(uint64_t offset, std::span<std::byte> in, std::span<const std::byte> out, bool fua) {
  size_t length = std::max(in.size(), out.size());
  HF_CO_TRY(CheckRange(offset, length));
  size_t step = options_.transfer_bytes_max;
  for (size_t at = 0; at < length; at += step) {
    size_t n = std::min(step, length - at);
    auto status = co_await Part(offset + at, in.empty() ? in : in.subspan(at, n), out.empty() ? out : out.subspan(at, n), fua, false);
    if (!status.ok()) co_return status;
  }
  co_return Status{};
}

Task<Status> IscsiDevice::Part(uint64_t offset, std::span<std::byte> in, std::span<const std::byte> out, bool fua, bool control) {
  size_t length = std::max(in.size(), out.size());
  ScsiCommand command;
  command.cdb[0] = out.empty() ? 0x88 : 0x8a;
  command.cdb[1] = fua ? 0x08 : 0;
  PutCdb(&command, 2, offset / sector_size_, 8);
  PutCdb(&command, 10, length / sector_size_, 4);
  command.cdb_size = 16;
  command.in = in;
  command.out = out;
  command.control = control;
  auto done = co_await session_->Execute(command);
  if (!done.ok()) co_return done.error();
  if (*done != length) co_return Error(Errc::kIo, info_.name + ": short transfer at byte " + std::to_string(offset));
  co_return Status{};
}

Task<Status> IscsiDevice::SynchronizeCache() {
  ScsiCommand command;
  command.cdb[0] = 0x91;
  command.cdb_size = 16;
  auto done = co_await session_->Execute(command);
  if (!done.ok()) co_return done.error();
  co_return Status{};
}

Task<Status> IscsiDevice::Flush() {
  if (!info_.volatile_cache) co_return Status{};
  uint64_t mark = unflushed_.Mark();
  auto status = co_await SynchronizeCache();
  if (status.ok()) unflushed_.Flushed(mark);
  co_return status;
}

Task<Status> IscsiDevice::Discard(uint64_t offset, uint64_t length) {
  if (!info_.discard) co_return Error(Errc::kUnsupported, info_.name + " has no UNMAP");
  if (info_.read_only) co_return Error(Errc::kReadOnly, info_.name + " is read-only");
  HF_CO_TRY(CheckRange(offset, length));
  unflushed_.Discarded(offset, length);
  uint64_t sector = offset / sector_size_, left = length / sector_size_;
  while (left > 0) {
    uint64_t n = std::min(left, unmap_sectors_max_);
    Bytes parameters(24);
    PutBe(parameters, 0, 22, 2);
    PutBe(parameters, 2, 16, 2);
    PutBe(parameters, 8, sector, 8);
    PutBe(parameters, 16, n, 4);
    ScsiCommand command;
    command.cdb[0] = 0x42;
    PutCdb(&command, 7, parameters.size(), 2);
    command.cdb_size = 10;
    command.out = parameters;
    auto done = co_await session_->Execute(command);
    if (!done.ok()) co_return done.error();
    sector += n;
    left -= n;
  }
  co_return Status{};
}

Task<Result<std::unique_ptr<BlockDevice>>> OpenIscsiDevice(Reactor* reactor, Pool*, std::string url, OpenDeviceOptions options) {
  IscsiDeviceOptions ours;
  ours.session.initiator_name = options.initiator_name;
  ours.session.drain_at_open = !options.read_only;
  if (options.command_timeout.ns > 0) ours.session.command_timeout = options.command_timeout;
  ours.read_only = options.read_only;
  auto device = co_await IscsiDevice::Open(reactor, std::move(url), std::move(ours));
  if (!device.ok()) co_return device.error();
  co_return std::unique_ptr<BlockDevice>(std::move(*device));
}

}  // namespace holdfast::io
