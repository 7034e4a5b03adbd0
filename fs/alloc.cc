// Allocator: reservations and the pool. alloc_refill.cc claims and returns, alloc_free.cc frees.
#include "fs/alloc.h"

#include <algorithm>
#include <cstring>

#include "base/log.h"
#include "base/mutants.h"
#include "fs/alloc_claims.h"

namespace holdfast::fs {
namespace {

// Group and journal locks: what is under them is the journal's to write and the cache's to forget.
class StorageHooks final : public LockHooks {
 public:
  StorageHooks(Journal& journal, MetaCache& cache) : journal_(journal), cache_(cache) {}
  Task<Status> Flush(Resource resource) override { return journal_.WriteInPlace(resource); }
  void Drop(Resource resource, LockMode to) override {
    if (to == LockMode::kNone) cache_.DropResource(resource);
  }

 private:
  Journal& journal_;
  MetaCache& cache_;
};

}  // namespace

// --- Reservation ---

Reservation::Reservation(Reservation&& o) noexcept { *this = std::move(o); }

Reservation& Reservation::operator=(Reservation&& o) noexcept {
  if (this == &o) return *this;
  Release();
  alloc_ = std::exchange(o.alloc_, nullptr);
  meta_ = std::exchange(o.meta_, 0);
  data_ = std::exchange(o.data_, 0);
  taken_ = std::move(o.taken_);
  o.taken_.clear();
  return *this;
}

void Reservation::Release() {
  if (!alloc_) return;
  Allocator* alloc = std::exchange(alloc_, nullptr);
  alloc->meta_promised_ -= meta_;
  alloc->data_promised_ -= data_;
  for (uint64_t block : taken_) alloc->GiveBackMeta(BlockNo(block));
  meta_ = 0;
  data_ = 0;
  taken_.clear();
}

void Reservation::Merge(Reservation other) {
  if (!other.alloc_) return;
  alloc_ = other.alloc_;
  meta_ += std::exchange(other.meta_, 0);
  data_ += std::exchange(other.data_, 0);
  taken_.insert(taken_.end(), other.taken_.begin(), other.taken_.end());
  other.taken_.clear();
  other.alloc_ = nullptr;
}

Reservation Reservation::Split(uint64_t data, uint32_t meta) {
  HF_CHECK(data <= data_ && meta <= meta_, "a reservation splits into more than it has");
  Reservation out;
  out.alloc_ = alloc_;
  out.data_ = data;
  out.meta_ = meta;
  data_ -= data;
  meta_ -= meta;
  return out;
}

BlockNo Reservation::TakeMeta(BlockNo goal) {
  HF_CHECK(meta_ > 0, "the reservation has no metadata block left");
  --meta_;
  --alloc_->meta_promised_;
  uint64_t block = alloc_->claims_->TakeMeta(goal.v);
  taken_.push_back(block);
  return BlockNo(block);
}

BlockRef Reservation::New(Transaction& tx, BlockNo taken, BlockType type, Resource resource) {
  auto it = std::find(taken_.begin(), taken_.end(), taken.v);
  HF_CHECK(it != taken_.end(), "block %llu was not taken from this reservation", static_cast<unsigned long long>(taken.v));
  taken_.erase(it);
  Allocator* alloc = alloc_;
  ClaimedMeta meta = alloc->claims_->EndMeta(taken.v);
  alloc->claims_changed_ = true;
  tx.OnAbort([alloc, taken, meta] {
    alloc->claims_->RestoreMeta(taken.v, meta);
    alloc->claims_->UntakeMeta(taken.v);
  });
  return tx.New({taken, type, resource}, meta.floor);
}

BlockRef Reservation::New(Transaction& tx, BlockType type, Resource resource, BlockNo goal) {
  BlockNo block = TakeMeta(goal);
  return New(tx, block, type, resource);
}

Extent Reservation::TakeData(uint64_t max, BlockNo goal) {
  HF_CHECK(data_ > 0 && max > 0, "the reservation has no data blocks left");
  ClaimExtent taken = alloc_->claims_->TakeData(std::min(max, data_), goal.v);
  data_ -= taken.count;
  alloc_->data_promised_ -= taken.count;
  return {BlockNo(taken.start), taken.count};
}

bool GroupLocks::Covers(BlockNo block) const {
  for (auto& [number, group] : groups_) {
    const auto& header = group.header.as<DiskGroup>();
    if (block.v >= header.first_block && block.v < header.first_block + header.block_count) return true;
  }
  return false;
}

// --- Allocator ---

Allocator::Allocator(LockTable& locks, Journal& journal, MetaCache& cache, const Geometry& geometry, AllocatorKnobs knobs)
    : locks_(locks),
      journal_(journal),
      cache_(cache),
      geometry_(geometry),
      knobs_(knobs),
      claims_(std::make_unique<Claims>()),
      hooks_(std::make_unique<StorageHooks>(journal, cache)),
      hints_(geometry.group_count) {
  journal_.SetCommitHook(kClaimsBlocks, [this](Transaction& tx) { EncodeInto(tx); });
  for (uint64_t g = 0; g < geometry_.group_count; ++g) total_ += geometry_.GroupBlocks(g) - geometry_.GroupOverhead();
  --total_;  // the superblock backup
}

Allocator::~Allocator() = default;

LockHooks* Allocator::hooks() { return hooks_.get(); }

uint64_t Allocator::FavouriteGroup() const {
  // Mounts start far from each other.
  uint64_t count = geometry_.journal_count;
  return geometry_.group_count * (journal_.number().v % count) / count;
}

Task<Status> Allocator::Open() {
  Resource resource = JournalResource(journal_.number());
  uint64_t first = geometry_.JournalStart(journal_.number()).v + kJournalClaimsIndex;
  for (uint32_t i = 0; i < kClaimsBlocks; ++i) {
    auto block = co_await cache_.Read(BlockNo(first + i), BlockType::kClaims, resource);
    if (!block.ok()) co_return block.error();
    if (block->as<DiskClaims>().count != 0)
      co_return Error(Errc::kBusy, "journal " + std::to_string(journal_.number().v) + " has claims of an earlier owner");
    claims_blocks_[i] = std::move(*block);
  }
  group_ = FavouriteGroup();
  open_ = true;
  co_return Status();
}

Task<Status> Allocator::Close() {
  HF_CHECK(meta_promised_ == 0 && data_promised_ == 0, "the allocator closes with reservations alive");
  HF_CO_TRY(co_await ReturnPool(0, 0));
  HF_CO_TRY(co_await journal_.Commit());
  for (BlockRef& block : claims_blocks_) block.Reset();
  open_ = false;
  co_return Status();
}

bool Allocator::Sufficient(const ReserveRequest& request) const {
  uint64_t kept = request.emergency ? 0 : knobs_.emergency_meta;
  return claims_->data_free() >= data_promised_ + request.data && claims_->meta_free() >= meta_promised_ + request.meta + kept;
}

std::optional<Reservation> Allocator::TryReserve(const ReserveRequest& request) {
  // A request for data alone is not held up by missing metadata.
  bool enough = request.meta == 0 ? claims_->data_free() >= data_promised_ + request.data : Sufficient(request);
  if (!enough) return std::nullopt;
  Reservation r;
  r.alloc_ = this;
  r.meta_ = request.meta;
  r.data_ = request.data;
  meta_promised_ += request.meta;
  data_promised_ += request.data;
  return r;
}

Task<Result<Reservation>> Allocator::Reserve(ReserveRequest request) {
  if (auto at_once = TryReserve(request)) co_return std::move(*at_once);
  auto guard = co_await refill_.Lock();
  if (auto meanwhile = TryReserve(request)) co_return std::move(*meanwhile);
  auto filled = co_await Refill(request);
  auto now = TryReserve(request);
  if (now) co_return std::move(*now);
  if (!filled.ok()) co_return filled.error();
  co_return Errc::kNoSpace;
}

void Allocator::Commit(Transaction& tx, Extent extent) {
  claims_->EndData(extent.start.v, extent.count);
  claims_changed_ = true;
  tx.OrderAfterData();
  tx.OnAbort([this, extent] { claims_->RestoreData(extent.start.v, extent.count); });
}

void Allocator::GiveBack(Extent extent) { claims_->UntakeData(extent.start.v, extent.count); }

void Allocator::GiveBackMeta(BlockNo taken) { claims_->UntakeMeta(taken.v); }

// The commit hook: nothing is joined, so what the claims say is what the record's bitmaps and inodes say.
void Allocator::EncodeInto(Transaction& tx) {
  if (!open_ || !claims_changed_ || HF_MUTANT(kClaimsUnwritten)) return;
  claims_changed_ = false;
  std::vector<ClaimExtent> all = claims_->All();
  std::span<const ClaimExtent> rest = all;
  auto encoded = std::make_unique<DiskClaims>();
  for (BlockRef& block : claims_blocks_) {
    std::memcpy(encoded.get(), block.bytes().data(), kBlockSize);
    rest = rest.subspan(EncodeClaims(rest, encoded.get()));
    if (std::memcmp(encoded.get(), block.bytes().data(), kBlockSize) == 0) continue;
    std::span<std::byte> bytes = tx.Change(block);
    std::memcpy(bytes.data() + kBlockHeaderBytes, reinterpret_cast<std::byte*>(encoded.get()) + kBlockHeaderBytes, kBlockPayloadBytes);
  }
  if (!rest.empty()) {
    // They work as claims all the same; after a crash fsck would have to find them.
    HF_LOG(LogLevel::kWarn, "alloc", "claims_overflow", {{"extents", all.size()}, {"unlisted", rest.size()}});
  }
}

std::vector<Extent> Allocator::claimed() const {
  std::vector<Extent> out;
  for (const ClaimExtent& e : claims_->All()) out.push_back({BlockNo(e.start), e.count});
  return out;
}

Allocator::PoolStatus Allocator::pool() const {
  return {claims_->data_free(), data_promised_, claims_->meta_free(), meta_promised_, claims_->extents()};
}

SpaceTotals Allocator::totals() const {
  SpaceTotals t;
  t.total = total_;
  int64_t free = free_sum_ + static_cast<int64_t>(claims_->data_free() - data_promised_ + claims_->meta_free() - meta_promised_);
  t.free = free < 0 ? 0 : std::min<uint64_t>(static_cast<uint64_t>(free), total_);
  for (const GroupHint& hint : hints_) t.meta_free += hint.meta_free;
  return t;
}

int64_t Allocator::TakeDelta() { return std::exchange(delta_, 0); }

void Allocator::ApplyDelta(int64_t free_blocks) {
  // Another mount's word, and a hint only: what no volume has is not believed.
  auto all = static_cast<int64_t>(geometry_.volume_blocks);
  if (free_blocks > all || free_blocks < -all) return;
  free_sum_ = std::clamp(free_sum_ + free_blocks, -all, all);
}

}  // namespace holdfast::fs
