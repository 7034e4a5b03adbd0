#include "fs/meta_cache.h"

namespace holdfast::fs {

// --- BlockRef ---

BlockRef::BlockRef(MetaBlock* block) : block_(block) {
  if (block_) block_->cache->Ref(block_);
}
BlockRef::BlockRef(const BlockRef& o) : BlockRef(o.block_) {}
BlockRef& BlockRef::operator=(const BlockRef& o) {
  if (o.block_) o.block_->cache->Ref(o.block_);
  Reset();
  block_ = o.block_;
  return *this;
}
BlockRef& BlockRef::operator=(BlockRef&& o) noexcept {
  if (this != &o) {
    Reset();
    block_ = std::exchange(o.block_, nullptr);
  }
  return *this;
}
void BlockRef::Reset() {
  if (block_) {
    MetaBlock* block = std::exchange(block_, nullptr);
    block->cache->Unref(block);
  }
}

// --- MetaCache ---

// One read from disk that several operations may wait for.
struct MetaCache::Reading {
  bool done = false;
  Error error = Errc::kOk;
  WaitList waiters;
};

MetaCache::MetaCache(BlockDevice& device, const Geometry& geometry, MetaCacheKnobs knobs)
    : device_(device), geometry_(geometry), knobs_(knobs) {}

MetaCache::~MetaCache() {
  for (auto& [number, block] : blocks_) {
    HF_CHECK(block->refs == 0, "block %llu is still referenced when its cache goes", static_cast<unsigned long long>(number));
    delete block;
  }
}

BlockRef MetaCache::Find(BlockNo block) {
  auto it = blocks_.find(block.v);
  return it == blocks_.end() ? BlockRef() : BlockRef(it->second);
}

Task<Result<BlockRef>> MetaCache::Read(BlockNo block, BlockType type, Resource resource) {
  auto corrupt = [&](const std::string& what) {
    return Error(Errc::kCorrupt, std::string(BlockTypeName(type)) + " " + std::to_string(block.v) + ": " + what);
  };
  for (;;) {
    if (BlockRef found = Find(block)) {
      if (found.type() != type) co_return corrupt(std::string("is a ") + BlockTypeName(found.type()));
      if (found.resource() != resource) co_return corrupt("belongs to " + ToString(found.resource()) + ", not to " + ToString(resource));
      co_return found;
    }
    auto under_way = reading_.find(block.v);
    if (under_way == reading_.end()) break;
    std::shared_ptr<Reading> reading = under_way->second;
    while (!reading->done) co_await reading->waiters.Wait();
    if (reading->error.code != Errc::kOk) co_return reading->error;
  }
  if (block.v >= geometry_.volume_blocks) co_return corrupt("number outside the volume");
  auto reading = std::make_shared<Reading>();
  reading_[block.v] = reading;
  AlignedBuffer bytes(kBlockSize);
  auto status = co_await device_.Read(block.v * kBlockSize, bytes.span());
  if (status.ok()) status = CheckBlock(std::as_const(bytes).span(), block, type, geometry_.uuid);
  if (status.ok() && BlockResource(std::as_const(bytes).span()) != resource)
    status = corrupt("belongs to " + ToString(BlockResource(std::as_const(bytes).span())) + ", not to " + ToString(resource));
  BlockRef result;
  if (status.ok()) {
    MetaBlock* attached = Attach({block, type, resource});
    attached->bytes = std::move(bytes);
    result = BlockRef(attached);
  } else {
    reading->error = status.error();
  }
  reading->done = true;
  reading->waiters.WakeAll();
  reading_.erase(block.v);
  if (!status.ok()) co_return status.error();
  co_return result;
}

BlockRef MetaCache::New(const BlockName& name, uint64_t version) {
  auto it = blocks_.find(name.block.v);
  if (it != blocks_.end()) {
    HF_CHECK(!it->second->dirty, "block %llu is made new while it is in use", static_cast<unsigned long long>(name.block.v));
    Detach(it->second);
  }
  MetaBlock* block = Attach(name);
  block->bytes = AlignedBuffer(kBlockSize);
  InitBlock(block->bytes.span(), name, geometry_.uuid);
  HeaderOf(block->bytes.span()).version = version;
  return BlockRef(block);
}

// In the map and in its resource's list, idle (the caller takes a reference at once).
MetaBlock* MetaCache::Attach(const BlockName& name) {
  auto* block = new MetaBlock;
  block->name = name;
  block->cache = this;
  Reattach(block);
  return block;
}

void MetaCache::Reattach(MetaBlock* block) {
  auto [it, inserted] = blocks_.emplace(block->name.block.v, block);
  HF_CHECK(inserted, "block %llu is in the cache twice", static_cast<unsigned long long>(block->name.block.v));
  block->attached = true;
  MetaBlock*& first = by_resource_[block->name.resource];
  block->prev_of_resource = nullptr;
  block->next_of_resource = first;
  if (first) first->prev_of_resource = block;
  first = block;
}

void MetaCache::Detach(MetaBlock* block) {
  blocks_.erase(block->name.block.v);
  block->attached = false;
  if (block->next_of_resource) block->next_of_resource->prev_of_resource = block->prev_of_resource;
  if (block->prev_of_resource) {
    block->prev_of_resource->next_of_resource = block->next_of_resource;
  } else if (block->next_of_resource) {
    by_resource_[block->name.resource] = block->next_of_resource;
  } else {
    by_resource_.erase(block->name.resource);
  }
  block->next_of_resource = block->prev_of_resource = nullptr;
  if (block->refs == 0) {
    UnlinkIdle(block);
    delete block;
  }
}

void MetaCache::Ref(MetaBlock* block) {
  if (block->refs++ == 0) UnlinkIdle(block);
}

void MetaCache::Unref(MetaBlock* block) {
  if (--block->refs != 0) return;
  if (!block->attached) {
    delete block;
    return;
  }
  block->older = newest_;
  block->newer = nullptr;
  (newest_ ? newest_->newer : oldest_) = block;
  newest_ = block;
  ++idle_;
  Trim();
}

void MetaCache::UnlinkIdle(MetaBlock* block) {
  bool linked = block->older || block->newer || oldest_ == block;
  if (!linked) return;
  (block->older ? block->older->newer : oldest_) = block->newer;
  (block->newer ? block->newer->older : newest_) = block->older;
  block->older = block->newer = nullptr;
  --idle_;
}

void MetaCache::Trim() {
  while (idle_ > knobs_.idle_blocks_max && oldest_) Detach(oldest_);
}

void MetaCache::DropResource(Resource resource) {
  for (auto it = by_resource_.find(resource); it != by_resource_.end(); it = by_resource_.find(resource)) {
    MetaBlock* block = it->second;
    HF_CHECK(!block->dirty, "%s is dropped with changes in block %llu", ToString(resource).c_str(),
             static_cast<unsigned long long>(block->name.block.v));
    Detach(block);
  }
}

void MetaCache::DropBlock(BlockNo number) {
  auto it = blocks_.find(number.v);
  if (it != blocks_.end() && !it->second->dirty) Detach(it->second);
}

void MetaCache::DropAll() {
  while (!by_resource_.empty()) DropResource(by_resource_.begin()->first);
}

}  // namespace holdfast::fs
