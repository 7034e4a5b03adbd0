#include "cluster/lease_page.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <new>

namespace holdfast::cluster {
namespace {

constexpr size_t kPageBytes = 4096;

Error SystemError(const std::string& path) { return {Errc::kIo, path + ": " + std::strerror(errno)}; }

}  // namespace

Result<std::unique_ptr<LeaseWriter>> LeaseWriter::Create(const std::string& path) {
  std::string fresh = path + ".new";
  ::unlink(fresh.c_str());
  int fd = ::open(fresh.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd < 0) return SystemError(fresh);
  void* memory = MAP_FAILED;
  if (::ftruncate(fd, kPageBytes) == 0) memory = ::mmap(nullptr, kPageBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  int saved = errno;
  ::close(fd);
  errno = saved;
  if (memory == MAP_FAILED) return SystemError(fresh);
  auto* page = new (memory) LeasePage;
  if (::rename(fresh.c_str(), path.c_str()) != 0) return SystemError(path);
  return std::unique_ptr<LeaseWriter>(new LeaseWriter(path, page, true));
}

std::unique_ptr<LeaseWriter> LeaseWriter::InMemory(std::string path, LeasePage* page) {
  return std::unique_ptr<LeaseWriter>(new LeaseWriter(std::move(path), page, false));
}

LeaseWriter::~LeaseWriter() {
  if (mapped_) ::munmap(page_, kPageBytes);
}

void LeaseWriter::Begin(Incarnation incarnation) {
  // The order matters to readers between the stores: no deadline first, the new life last.
  page_->deadline_ns.store(0, std::memory_order_release);
  page_->evicted.store(0, std::memory_order_release);
  page_->incarnation.store(incarnation.v, std::memory_order_release);
  Touch();
}

void LeaseWriter::Extend(Instant deadline) {
  if (page_->evicted.load(std::memory_order_relaxed) != 0) return;
  if (deadline.ns > page_->deadline_ns.load(std::memory_order_relaxed))
    page_->deadline_ns.store(deadline.ns, std::memory_order_release);
  Touch();
}

void LeaseWriter::Evict() {
  page_->deadline_ns.store(0, std::memory_order_release);
  page_->evicted.store(1, std::memory_order_release);
  Touch();
}

Result<const LeasePage*> MapLeasePage(const std::string& path) {
  int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return SystemError(path);
  struct stat st {};
  if (::fstat(fd, &st) != 0 || st.st_size < static_cast<off_t>(sizeof(LeasePage))) {
    ::close(fd);
    return Error(Errc::kCorrupt, path + ": is no lease page");
  }
  void* memory = ::mmap(nullptr, kPageBytes, PROT_READ, MAP_SHARED, fd, 0);
  int saved = errno;
  ::close(fd);
  errno = saved;
  if (memory == MAP_FAILED) return SystemError(path);
  const auto* page = static_cast<const LeasePage*>(memory);
  if (page->magic.load() != LeasePage::kMagic) {
    ::munmap(memory, kPageBytes);
    return Error(Errc::kCorrupt, path + ": is no lease page");
  }
  return page;
}

}  // namespace holdfast::cluster
