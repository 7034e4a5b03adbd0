// MetaCache: metadata blocks in memory, each under the cluster lock (resource) that protects it. A BlockRef pins one.
// Blocks are valid as long as the lock is held: DropResource() forgets them when it goes, and a BlockRef that somebody
// kept becomes stale (attached() false): users revalidate by LockGuard::acquisition().
// Changing a block goes through a Transaction only. Clean blocks without references are evicted, oldest use first.
// INVARIANT: a block is read from disk once at a time; what a block claims to be (magic, CRC, volume, own number,
// type, resource) is checked before anybody sees it. Threading: one executor.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>

#include "base/block_device.h"
#include "base/bytes.h"
#include "base/result.h"
#include "base/sync.h"
#include "fs/format.h"
#include "fs/geometry.h"
#include "fs/meta_block.h"
#include "fs/resource.h"

namespace holdfast::fs {

class MetaCache;
class Journal;
class Transaction;

// One block in memory; meta_cache.cc, transaction.cc and journal*.cc only. Others use BlockRef.
struct MetaBlock {
  BlockName name;
  AlignedBuffer bytes;
  MetaCache* cache = nullptr;
  uint32_t refs = 0;
  bool attached = false;  // in the cache's map
  bool dirty = false;     // changed by the running transaction
  uint64_t undo_by = 0;   // the open operation that changed it (Transaction::id), 0: none
  MetaBlock* next_of_resource = nullptr;
  MetaBlock* prev_of_resource = nullptr;
  MetaBlock* older = nullptr;  // unreferenced blocks, by last use
  MetaBlock* newer = nullptr;
};

class BlockRef {
 public:
  BlockRef() = default;
  explicit BlockRef(MetaBlock* block);
  BlockRef(const BlockRef& o);
  BlockRef(BlockRef&& o) noexcept : block_(std::exchange(o.block_, nullptr)) {}
  BlockRef& operator=(const BlockRef& o);
  BlockRef& operator=(BlockRef&& o) noexcept;
  ~BlockRef() { Reset(); }
  void Reset();

  explicit operator bool() const { return block_ != nullptr; }
  bool operator==(const BlockRef& o) const { return block_ == o.block_; }
  BlockNo number() const { return block_->name.block; }
  BlockType type() const { return block_->name.type; }
  Resource resource() const { return block_->name.resource; }
  uint64_t version() const { return HeaderOf(bytes()).version; }
  // All 4096 bytes, header first.
  std::span<const std::byte> bytes() const { return std::as_const(block_->bytes).span(); }
  std::span<const std::byte> payload() const { return bytes().subspan(kBlockHeaderBytes); }
  template <class T>
  const T& as() const {
    return As<T>(bytes());
  }
  // Still the cache's block of that number? False after its lock was let go or the block was freed.
  bool attached() const { return block_->attached; }

 private:
  friend class MetaCache;
  friend class Journal;
  friend class Transaction;
  MetaBlock* block_ = nullptr;
};

struct MetaCacheKnobs {
  size_t idle_blocks_max = 32768;  // clean unreferenced blocks kept (128 MiB)
};

class MetaCache {
 public:
  MetaCache(BlockDevice& device, const Geometry& geometry, MetaCacheKnobs knobs = {});
  ~MetaCache();
  MetaCache(const MetaCache&) = delete;

  // The hot path: the block if it is in memory, without suspending.
  BlockRef Find(BlockNo block);
  // Is it in memory and changed since it was written in place? Then it is somebody's, whatever a bitmap says.
  bool Dirty(BlockNo block) const {
    auto it = blocks_.find(block.v);
    return it != blocks_.end() && it->second->dirty;
  }
  // Reads it if need be. REQUIRES: its resource's lock held (PR at least).
  // Errors: kCorrupt (does not validate, or belongs to another resource), kIo and other device errors.
  Task<Result<BlockRef>> Read(BlockNo block, BlockType type, Resource resource);
  // Forgets what was cached under the lock. REQUIRES: nothing of it is changed in the running transaction.
  void DropResource(Resource resource);
  // Forgets one block (fsck-like tools, a block found corrupt).
  void DropBlock(BlockNo block);
  void DropAll();

  const Geometry& geometry() const { return geometry_; }
  BlockDevice& device() { return device_; }
  size_t blocks() const { return blocks_.size(); }

 private:
  friend class BlockRef;
  friend class Journal;
  friend class Transaction;
  struct Reading;
  // A zeroed block with a header whose version is `version`; replaces a freed one of that number.
  BlockRef New(const BlockName& name, uint64_t version);
  MetaBlock* Attach(const BlockName& name);
  void Detach(MetaBlock* block);
  void Reattach(MetaBlock* block);
  void Ref(MetaBlock* block);
  void Unref(MetaBlock* block);
  void UnlinkIdle(MetaBlock* block);
  void Trim();

  BlockDevice& device_;
  Geometry geometry_;
  MetaCacheKnobs knobs_;
  std::unordered_map<uint64_t, MetaBlock*> blocks_;
  std::unordered_map<Resource, MetaBlock*> by_resource_;
  std::unordered_map<uint64_t, std::shared_ptr<Reading>> reading_;
  MetaBlock* oldest_ = nullptr;
  MetaBlock* newest_ = nullptr;
  size_t idle_ = 0;
};

}  // namespace holdfast::fs
