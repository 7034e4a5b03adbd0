// The lease page as a file: holdfastd creates and moves it, mounts and supervisors map it read-only. Each life of
// holdfastd makes a new file under the same name, so that mounts of an older life keep a page that nobody moves any
// more: it expires by itself. Layout and check: base/lease_page.h.
#pragma once

#include <memory>
#include <string>

#include "base/lease_page.h"
#include "base/result.h"

namespace holdfast::cluster {

class LeaseWriter {
 public:
  // Replaces the file atomically; the new page has no lease. Errors: kIo.
  static Result<std::unique_ptr<LeaseWriter>> Create(const std::string& path);
  // For the simulator: the page is ordinary memory that somebody else owns. REQUIRES: it outlives this.
  static std::unique_ptr<LeaseWriter> InMemory(std::string path, LeasePage* page);
  ~LeaseWriter();

  // A (new) incarnation begins, without a lease yet.
  void Begin(Incarnation incarnation);
  // Never moves back. No effect after Evict.
  void Extend(Instant deadline);
  // This incarnation is over: readers withdraw.
  void Evict();
  const LeasePage& page() const { return *page_; }
  const std::string& path() const { return path_; }

 private:
  LeaseWriter(std::string path, LeasePage* page, bool mapped) : path_(std::move(path)), page_(page), mapped_(mapped) {}
  void Touch() { page_->sequence.fetch_add(1, std::memory_order_release); }
  std::string path_;
  LeasePage* page_;
  bool mapped_;
};

// Maps the page for the life of the process (never unmapped: readers look at it until the very end).
Result<const LeasePage*> MapLeasePage(const std::string& path);

}  // namespace holdfast::cluster
