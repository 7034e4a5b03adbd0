#include "mkfs/signatures.h"

#include <blkid/blkid.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

namespace holdfast::mkfs {
namespace {

constexpr size_t kChunk = 1 << 20;
constexpr uint64_t kHeadBytes = 4 * kChunk;
constexpr uint64_t kTailBytes = kChunk;

std::string Value(blkid_probe probe, const char* name) {
  const char* data = nullptr;
  return blkid_probe_lookup_value(probe, name, &data, nullptr) == 0 && data ? data : "";
}

Result<std::string> Probe(int fd) {
  blkid_probe probe = blkid_new_probe();
  if (!probe || blkid_probe_set_device(probe, fd, 0, 0) != 0) {
    if (probe) blkid_free_probe(probe);
    return Error(Errc::kIo, "libblkid cannot look at the device");
  }
  blkid_probe_enable_superblocks(probe, 1);
  blkid_probe_set_superblocks_flags(probe, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_USAGE | BLKID_SUBLKS_LABEL);
  blkid_probe_enable_partitions(probe, 1);
  std::string found;
  int rc = blkid_do_safeprobe(probe);
  if (rc == -2) {
    found = "signatures of several kinds";
  } else if (rc == 0) {
    std::string type = Value(probe, "TYPE"), table = Value(probe, "PTTYPE"), label = Value(probe, "LABEL");
    if (!type.empty()) found = type + " (" + Value(probe, "USAGE") + ")" + (label.empty() ? "" : " labelled '" + label + "'");
    if (!table.empty()) found += std::string(found.empty() ? "" : " and ") + "a partition table (" + table + ")";
  }
  blkid_free_probe(probe);
  return found;
}

Task<Status> CopyRange(BlockDevice* device, int fd, uint64_t from, uint64_t bytes) {
  AlignedBuffer buffer(kChunk);
  while (bytes > 0) {
    auto n = static_cast<size_t>(std::min<uint64_t>(bytes, kChunk));
    HF_CO_TRY(co_await device->Read(from, buffer.span().first(n)));
    if (pwrite(fd, buffer.data(), n, static_cast<off_t>(from)) != static_cast<ssize_t>(n))
      co_return Error(Errc::kIo, "copying the device's head for libblkid failed");
    from += n;
    bytes -= n;
  }
  co_return Status();
}

}  // namespace

Task<Result<std::string>> FindSignature(BlockDevice& device, std::string path) {
  uint64_t size = device.info().size_bytes;
  int fd = path.find("://") == std::string::npos ? open(path.c_str(), O_RDONLY | O_CLOEXEC) : -1;
  if (fd < 0) {
    fd = memfd_create("holdfast-probe", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, static_cast<off_t>(size)) != 0) {
      if (fd >= 0) close(fd);
      co_return Error(Errc::kIo, "no memory for looking at the device");
    }
    uint64_t head = std::min(size, kHeadBytes), tail = std::min(size, kTailBytes);
    auto copied = co_await CopyRange(&device, fd, 0, head);
    if (copied.ok()) copied = co_await CopyRange(&device, fd, size - tail, tail);
    if (!copied.ok()) {
      close(fd);
      co_return copied.error();
    }
  }
  auto found = Probe(fd);
  close(fd);
  co_return found;
}

Task<Status> WipeSignatures(BlockDevice& device) {
  uint64_t size = device.info().size_bytes;
  auto n = static_cast<size_t>(std::min<uint64_t>(size, kChunk));
  AlignedBuffer zero(n);
  HF_CO_TRY(co_await device.Write(0, std::as_const(zero).span(), WriteFlags::kNone));
  HF_CO_TRY(co_await device.Write(size - n, std::as_const(zero).span(), WriteFlags::kNone));
  auto done = co_await device.Flush();
  co_return done;
}

}  // namespace holdfast::mkfs
