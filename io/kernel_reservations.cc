// See kernel_reservations.h. linux/pr.h numbers the types its own way: write exclusive, all registrants is 5 there and
// 7 in SCSI. An ioctl's positive result is the device's status: a reservation conflict.

// A false alarm of g++ 12 about the vectors of coroutine frames when it optimizes.
#pragma GCC diagnostic ignored "-Wfree-nonheap-object"

#include "io/kernel_reservations.h"

#include <fcntl.h>
#include <linux/pr.h>
#include <scsi/sg.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/bytes.h"
#include "io/scsi_bytes.h"

namespace holdfast::io {

namespace {

constexpr unsigned kSgTimeoutMs = 30'000;
constexpr int kNoEscalate = 0x100;  // SG_SCSI_RESET_NO_ESCALATE: never a reset of the whole target or host

Status Outcome(int rc, int error, const char* what) {
  if (rc == 0) return {};
  if (rc > 0 || error == EBADE) return Error(Errc::kConflict, std::string(what) + ": reservation conflict");
  if (error == EOPNOTSUPP || error == ENOTTY) return Error(Errc::kUnsupported, std::string(what) + ": the device has no persistent reservations");
  return Error(error == EPERM || error == EACCES ? Errc::kPermission : Errc::kIo, std::string(what) + ": " + strerror(error));
}

// PERSISTENT RESERVE IN by SG_IO.
Result<Bytes> ReserveIn(int fd, uint8_t action, size_t size) {
  uint8_t cdb[10] = {0x5e, action, 0, 0, 0, 0, 0, static_cast<uint8_t>(size >> 8), static_cast<uint8_t>(size), 0};
  uint8_t sense[32] = {};
  Bytes answer(size);
  sg_io_hdr_t io{};
  io.interface_id = 'S';
  io.cmd_len = sizeof cdb;
  io.cmdp = cdb;
  io.dxfer_direction = SG_DXFER_FROM_DEV;
  io.dxfer_len = static_cast<unsigned>(size);
  io.dxferp = answer.data();
  io.mx_sb_len = sizeof sense;
  io.sbp = sense;
  io.timeout = kSgTimeoutMs;
  int rc = ioctl(fd, SG_IO, &io);
  if (rc != 0) return Outcome(rc, errno, "READ KEYS").error();
  if (io.status != 0 || io.host_status != 0) return Error(Errc::kIo, "PERSISTENT RESERVE IN failed");
  size_t moved = size - static_cast<size_t>(std::clamp(io.resid, 0, static_cast<int>(size)));
  if (moved < 8) return Error(Errc::kIo, "PERSISTENT RESERVE IN: short answer");
  answer.resize(moved);
  return answer;
}

Result<ReservationState> ReadState(int fd) {
  auto keys = ReserveIn(fd, 0, 8192);
  if (!keys.ok()) return keys.error();
  auto held = ReserveIn(fd, 1, 24);
  if (!held.ok()) return held.error();
  ReservationState out;
  out.generation = GetBe32(*keys, 0);
  size_t length = GetBe32(*keys, 4);
  if (8 + length > keys->size()) return Error(Errc::kIo, "READ KEYS: more keys than fit");
  for (size_t at = 8; at + 8 <= 8 + length; at += 8) out.keys.push_back(GetBe64(*keys, at));
  out.reserved = GetBe32(*held, 4) >= 16;
  out.all_registrants_write_exclusive = out.reserved && held->size() >= 22 && (std::to_integer<int>((*held)[21]) & 0xf) == 7;
  return out;
}

}  // namespace

Result<std::unique_ptr<KernelReservations>> KernelReservations::Open(Pool* pool, const std::string& path) {
  int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return Error(errno == ENOENT ? Errc::kNotFound : Errc::kPermission, path + ": " + strerror(errno));
  struct stat st {};
  if (fstat(fd, &st) != 0 || !S_ISBLK(st.st_mode)) {
    close(fd);
    return Error(Errc::kInvalid, path + " is no block device");
  }
  return std::unique_ptr<KernelReservations>(new KernelReservations(pool, fd));
}

KernelReservations::~KernelReservations() { close(fd_); }

// APTPL: the kernel's document expects every implementation to keep registrations over a power loss; not believed unread.
Task<Result<ReservationCapabilities>> KernelReservations::Capabilities() {
  ReservationCapabilities out;
  out.preempt_and_abort = abort_works_;
  co_return out;
}

Task<Status> KernelReservations::Change(ReservationKey old_key, ReservationKey new_key) {
  std::function<Status()> work = [fd = fd_, old_key, new_key] {
    pr_registration r{};
    r.old_key = old_key;
    r.new_key = new_key;
    int rc = ioctl(fd, IOC_PR_REGISTER, &r);
    return Outcome(rc, errno, "register");
  };
  auto status = co_await pool_->Run<Status>(std::move(work));
  co_return status;
}

Task<Status> KernelReservations::Register(ReservationKey key) {
  if (key == 0) co_return Error(Errc::kInvalid, "a reservation key is not zero");
  auto status = co_await Change(0, key);
  if (status.code() != Errc::kConflict) co_return status;
  auto same = co_await Change(key, key);
  co_return same;
}

Task<Status> KernelReservations::Unregister(ReservationKey key) {
  auto status = co_await Change(key, 0);
  co_return status;
}

Task<Status> KernelReservations::Reserve(ReservationKey own_key) {
  std::function<Status()> work = [fd = fd_, own_key] {
    pr_reservation r{};
    r.key = own_key;
    r.type = PR_WRITE_EXCLUSIVE_ALL_REGS;
    int rc = ioctl(fd, IOC_PR_RESERVE, &r);
    return Outcome(rc, errno, "reserve");
  };
  auto status = co_await pool_->Run<Status>(std::move(work));
  co_return status;
}

Task<Status> KernelReservations::Preempt(ReservationKey own_key, ReservationKey victim) {
  std::function<Status()> work = [this, own_key, victim] {
    pr_preempt p{};
    p.old_key = victim;
    p.new_key = own_key;
    p.type = PR_WRITE_EXCLUSIVE_ALL_REGS;
    int rc = ioctl(fd_, IOC_PR_PREEMPT_ABORT, &p);
    Status status = Outcome(rc, errno, "preempt and abort");
    if (status.ok()) abort_works_ = true;
    if (status.code() == Errc::kUnsupported || status.code() == Errc::kIo) {
      rc = ioctl(fd_, IOC_PR_PREEMPT, &p);
      status = Outcome(rc, errno, "preempt");
    }
    return status;
  };
  auto status = co_await pool_->Run<Status>(std::move(work));
  if (!status.ok() && status.code() != Errc::kConflict) co_return status;
  auto state = co_await Read();
  if (!state.ok()) co_return state.error();
  bool there = std::find(state->keys.begin(), state->keys.end(), victim) != state->keys.end();
  if (!there) co_return Status{};
  if (!status.ok()) co_return status;
  co_return Error(Errc::kIo, "the device reported a preempt and still lists the key");
}

Task<Status> KernelReservations::Drain() {
  std::function<Status()> work = [fd = fd_] {
    int what = SG_SCSI_RESET_DEVICE | kNoEscalate;  // LOGICAL UNIT RESET; returns when it was answered
    int rc = ioctl(fd, SG_SCSI_RESET, &what);
    return Outcome(rc, errno, "device reset");
  };
  auto status = co_await pool_->Run<Status>(std::move(work));
  co_return status;
}

Task<Result<ReservationState>> KernelReservations::Read() {
  std::function<Result<ReservationState>()> work = [fd = fd_] { return ReadState(fd); };
  auto state = co_await pool_->Run<Result<ReservationState>>(std::move(work));
  co_return state;
}

}  // namespace holdfast::io
