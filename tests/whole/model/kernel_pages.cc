// KernelModel: the page cache. mm/filemap.c, mm/truncate.c, fs/fuse/file.c of Linux 6.18.
#include <algorithm>
#include <cstring>

#include "base/log.h"
#include "tests/whole/model/kernel_model.h"

namespace holdfast::whole {

using fs::KernelReplyPtr;
using fs::KernelRequests;

PagePtr KernelModel::PageAt(KernelNode& node, uint64_t index) {
  PagePtr& page = node.pages[index];
  if (!page) page = std::make_shared<Page>();
  return page;
}

void KernelModel::Detach(KernelNode& node, uint64_t index) {
  auto it = node.pages.find(index);
  if (it == node.pages.end()) return;
  it->second->attached = false;
  node.pages.erase(it);
}

// Read-ahead: the page and those behind it that are missing too, in one READ. They are locked until it is answered.
Task<Result<PagePtr>> KernelModel::FillPages(NodePtr node, fs::FileHandle* handle, uint64_t index, uint64_t ahead) {
  PagePtr first = PageAt(*node, index);
  Mutex::Guard locked = co_await first->lock.Lock();
  if (!first->attached || first->uptodate) co_return PagePtr();  // look again
  std::vector<PagePtr> pages{first};
  std::vector<Mutex::Guard> guards;
  guards.push_back(std::move(locked));
  uint64_t pages_in_file = (node->size + kPageBytes - 1) / kPageBytes;
  for (uint64_t next = index + 1; next <= index + ahead && next < pages_in_file; ++next) {
    if (node->pages.contains(next)) break;
    PagePtr page = PageAt(*node, next);
    Mutex::Guard more = co_await page->lock.Lock();
    guards.push_back(std::move(more));
    pages.push_back(page);
  }
  uint64_t version = version_;
  uint64_t offset = index * kPageBytes, length = pages.size() * kPageBytes;
  Send send = [handle, offset, length](KernelRequests& r, KernelReplyPtr reply) {
    r.Read(std::move(reply), handle, offset, length, 0);
  };
  auto answer = co_await Ask("READ", node->node, std::move(send));
  if (!answer->ok()) {
    for (size_t i = 0; i < pages.size(); ++i) {
      if (pages[i]->attached) Detach(*node, index + i);
    }
    co_return answer->error;
  }
  HF_LOG(LogLevel::kDebug, "kernel", "filled",
         {{"at", world_->now().ns / 1000}, {"node", node_id_.v}, {"inode", node->node & 0xffff'ffff}, {"page", index},
          {"pages", pages.size()}, {"got", answer->data.size()}, {"size", node->size}});
  for (size_t i = 0; i < pages.size(); ++i) {
    std::fill(pages[i]->data.begin(), pages[i]->data.end(), std::byte{0});
    uint64_t from = i * kPageBytes;
    if (from < answer->data.size()) {
      size_t n = std::min<size_t>(kPageBytes, answer->data.size() - from);
      std::memcpy(pages[i]->data.data(), answer->data.data() + from, n);
    }
    pages[i]->uptodate = true;
  }
  // fuse_short_read: the file is shorter than we believe.
  if (answer->data.size() < length && version >= node->attr_version && offset + answer->data.size() < node->size) {
    node->attr_version = ++version_;
    node->size = offset + answer->data.size();
  }
  co_return first;
}

// One dirty page of a mapping. The page is not dirty while its WRITE is under way: a new store makes it so again.
Task<Status> KernelModel::WritePage(NodePtr node, uint64_t index, PagePtr page) {
  while (page->writeback > 0) co_await page->written.Wait();
  if (!page->dirty) co_return Status();
  page->dirty = false;
  uint64_t offset = index * kPageBytes;
  if (offset >= node->size || node->write_files.empty()) co_return Status();
  Bytes data(page->data.begin(), page->data.begin() + static_cast<ptrdiff_t>(std::min(kPageBytes, node->size - offset)));
  ++page->writeback;
  fs::FileHandle* handle = node->write_files.front();
  auto bytes = std::make_shared<Bytes>(std::move(data));
  Send send = [handle, offset, bytes](KernelRequests& r, KernelReplyPtr reply) {
    fs::WriteOptions options;
    options.page_io = true;
    r.Write(std::move(reply), handle, offset, *bytes, options);
  };
  auto answer = co_await Ask("WRITE page", node->node, std::move(send));
  if (--page->writeback == 0) page->written.WakeAll();
  (void)bytes->size();
  co_return answer->ok() ? Status() : Status(answer->error);
}

Task<Status> KernelModel::WriteDirty(NodePtr node, uint64_t first, uint64_t last) {
  std::vector<uint64_t> present;
  for (auto& [index, page] : node->pages) {
    if (index >= first && index <= last) present.push_back(index);
  }
  Status result;
  for (uint64_t index : present) {
    auto it = node->pages.find(index);
    if (it == node->pages.end()) continue;
    PagePtr page = it->second;
    if (page->dirty) {
      Mutex::Guard locked = co_await page->lock.Lock();
      if (page->attached) {
        auto written = co_await WritePage(node, index, page);
        if (!written.ok()) result = written;
      }
    }
    while (page->writeback > 0) co_await page->written.Wait();
  }
  co_return result;
}

// invalidate_inode_pages2_range: waits for page locks, launders dirty pages.
Task<void> KernelModel::InvalidatePages(NodePtr node, uint64_t first, uint64_t last) {
  std::vector<uint64_t> present;
  for (auto& [index, page] : node->pages) {
    if (index >= first && index <= last) present.push_back(index);
  }
  for (uint64_t index : present) {
    auto it = node->pages.find(index);
    if (it == node->pages.end()) continue;
    PagePtr page = it->second;
    Mutex::Guard locked = co_await page->lock.Lock();
    if (!page->attached) continue;
    while (page->writeback > 0) co_await page->written.Wait();
    if (page->dirty) (void)(co_await WritePage(node, index, page)).ok();
    // Stored into again meanwhile: -EBUSY, the page stays, and the kernel does not tell.
    if (page->attached && !page->dirty && page->writeback == 0) Detach(*node, index);
  }
}

// truncate_pagecache.
Task<void> KernelModel::TruncatePages(NodePtr node, uint64_t size) {
  uint64_t keep = (size + kPageBytes - 1) / kPageBytes;
  std::vector<uint64_t> beyond;
  for (auto& [index, page] : node->pages) {
    if (index + 1 >= keep) beyond.push_back(index);
  }
  for (uint64_t index : beyond) {
    auto it = node->pages.find(index);
    if (it == node->pages.end()) continue;
    PagePtr page = it->second;
    Mutex::Guard locked = co_await page->lock.Lock();
    if (!page->attached) continue;
    while (page->writeback > 0) co_await page->written.Wait();
    if (index >= keep) {
      page->dirty = false;
      Detach(*node, index);
    } else if (size % kPageBytes != 0 && page->uptodate) {
      std::fill(page->data.begin() + static_cast<ptrdiff_t>(size % kPageBytes), page->data.end(), std::byte{0});
    }
  }
}

// ---- mappings ---------------------------------------------------------------------------------------------------

// filemap_fault: an up to date page, or kRange (SIGBUS).
Task<Result<PagePtr>> KernelModel::Fault(FilePtr file, uint64_t index, bool store) {
  NodePtr node = file->node;
  for (;;) {
    if (index >= (node->size + kPageBytes - 1) / kPageBytes) co_return Errc::kRange;
    auto it = node->pages.find(index);
    if (it != node->pages.end() && it->second->uptodate) co_return it->second;
    auto filled = co_await FillPages(node, file->handle, index, 0);
    if (!filled.ok()) co_return filled.error();
    if (*filled && !store) co_return *filled;
  }
}

Task<Result<Bytes>> KernelModel::Load(FilePtr file, uint64_t offset, uint64_t length) {
  auto page = co_await Fault(file, offset / kPageBytes, false);
  if (!page.ok()) co_return page.error();
  auto begin = (*page)->data.begin() + static_cast<ptrdiff_t>(offset % kPageBytes);
  co_return Bytes(begin, begin + static_cast<ptrdiff_t>(length));
}

Task<Status> KernelModel::Store(FilePtr file, uint64_t offset, Bytes data) {
  uint64_t index = offset / kPageBytes;
  for (;;) {
    auto page = co_await Fault(file, index, true);
    if (!page.ok()) co_return page.error();
    PagePtr p = *page;
    if (!p->dirty) {
      // fuse_page_mkwrite.
      Mutex::Guard locked = co_await p->lock.Lock();
      if (!p->attached) continue;
      while (p->writeback > 0) co_await p->written.Wait();
      if (!p->attached || !p->uptodate) continue;
      p->dirty = true;
    }
    std::memcpy(p->data.data() + offset % kPageBytes, data.data(), data.size());
    co_return Status();
  }
}

}  // namespace holdfast::whole
