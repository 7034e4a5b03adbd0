// IscsiDevice: the volume behind an iscsi:// URL. One session carries its I/O and its reservations; other commands than
// READ(16), WRITE(16), SYNCHRONIZE CACHE(16) and UNMAP are never sent for I/O, because some write commands slip past
// reservations on some targets (measured on tgt). UNMAP does too: callers discard only under a checked lease.
// A lost session stalls I/O and then goes on or fails (iscsi_session.h); kConflict means fenced. What was acknowledged and
// not flushed is kept, and written again in the next session: the array may have lost its power and its cache.
// Threading: the reactor's.
#pragma once

#include <memory>
#include <string>

#include "base/block_device.h"
#include "base/reservations.h"
#include "base/unflushed_writes.h"
#include "io/iscsi_reservations.h"
#include "io/iscsi_session.h"
#include "io/open_device.h"

namespace holdfast::io {

struct IscsiDeviceOptions {
  IscsiOptions session;
  bool read_only = false;
  uint32_t transfer_bytes_max = 1 << 20;  // one command; less where the target says so
  size_t unflushed_bytes_max = 64 << 20;  // kept; a write that finds more flushes first
};

class IscsiDevice final : public BlockDevice, public Reservations {
 public:
  // kInvalid: no such URL. kUnsupported: no disk, or a sector size that is not 512 or 4096.
  static Task<Result<std::unique_ptr<IscsiDevice>>> Open(Reactor* reactor, std::string url, IscsiDeviceOptions options = {});

  const DeviceInfo& info() const override { return info_; }
  Task<Status> Read(uint64_t offset, std::span<std::byte> out) override;
  Task<Status> Write(uint64_t offset, std::span<const std::byte> in, WriteFlags flags) override;
  Task<Status> Flush() override;
  Task<Status> Discard(uint64_t offset, uint64_t length) override;
  Task<void> Close() override { return session_->Close(); }

  Task<Result<ReservationCapabilities>> Capabilities() override { return reservations_.Capabilities(); }
  Task<Status> Register(ReservationKey key) override;
  Task<Status> Unregister(ReservationKey key) override { return reservations_.Unregister(key); }
  Task<Status> Reserve(ReservationKey own_key) override { return reservations_.Reserve(own_key); }
  Task<Status> Preempt(ReservationKey own_key, ReservationKey victim) override { return reservations_.Preempt(own_key, victim); }
  Task<Status> Drain() override { return reservations_.Drain(); }
  Task<Result<ReservationState>> Read() override { return reservations_.Read(); }
  // iscsi_reservations.h; for the reconnect guard.
  Task<Status> Reregister(ReservationKey key) { return reservations_.Reregister(key); }
  Task<Status> Restore(ReservationKey key) { return reservations_.Restore(key); }

  IscsiSession& session() { return *session_; }
  uint64_t rewritten_bytes() const { return rewritten_bytes_; }  // after lost sessions

 private:
  explicit IscsiDevice(std::unique_ptr<IscsiSession> session, IscsiDeviceOptions options)
      : options_(std::move(options)), session_(std::move(session)), reservations_(session_.get()) {
    session_->SetRewrite([this] { return WriteAgain(); });
  }
  Task<Status> Probe();
  Task<Status> ReadCapacity();
  Task<void> ReadLimits();
  Task<void> ReadCaching();
  Status CheckRange(uint64_t offset, uint64_t length) const;
  Task<Status> Transfer(uint64_t offset, std::span<std::byte> in, std::span<const std::byte> out, bool fua);
  Task<Status> Part(uint64_t offset, std::span<std::byte> in, std::span<const std::byte> out, bool fua, bool control);
  Task<Status> WriteAgain();
  Task<Status> SynchronizeCache();

  IscsiDeviceOptions options_;
  std::unique_ptr<IscsiSession> session_;
  IscsiReservations reservations_;
  DeviceInfo info_;
  uint32_t sector_size_ = 512;
  UnflushedWrites unflushed_;
  uint64_t rewritten_bytes_ = 0;
  uint64_t unmap_sectors_max_ = 0;
  bool fua_ = false;  // the target honours the FUA bit
  bool caching_known_ = false;
};

// What OpenDevice calls for iscsi:// URLs.
Task<Result<std::unique_ptr<BlockDevice>>> OpenIscsiDevice(Reactor* reactor, Pool* pool, std::string url, OpenDeviceOptions options);

}  // namespace holdfast::io
