// The disk as an acceptor. See disk_acceptor.h.
#include "cluster/disk_acceptor.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/bytes.h"

namespace holdfast::cluster {

DiskAcceptor::DiskAcceptor(DiskAcceptorOptions options, BlockDevice* device)
    : options_(std::move(options)), device_(device) {}

Task<void> DiskAcceptor::ReadCopy(NodeId node, uint32_t copy, Copy* out) {
  out->block = AlignedBuffer(kHeaderBytes);
  auto status = co_await device_->Read(options_.offset + HeaderOffset(node, copy), out->block.span());
  out->read = status;
}

// The newer valid copy. A copy that does not validate was being written when its owner died: the other one counts.
DiskAcceptor::Slot DiskAcceptor::Judge(NodeId node, const Copy& a, const Copy& b) const {
  Slot slot;
  slot.node = node;
  if (!a.read.ok() || !b.read.ok()) {
    slot.status = a.read.ok() ? b.read : a.read;
    return slot;
  }
  auto first = DecodeHeader(a.block.span(), node), second = DecodeHeader(b.block.span(), node);
  if (!first.ok() && !second.ok()) {
    slot.status = first.error();
    return slot;
  }
  slot.copy = !first.ok() || (second.ok() && second->sequence > first->sequence) ? 1 : 0;
  slot.header = slot.copy == 0 ? *first : *second;
  if (area_id_ != 0 && slot.header.area_id != area_id_) slot.status = Error(Errc::kStale, "the quorum area has another id");
  return slot;
}

Task<std::vector<DiskAcceptor::Slot>> DiskAcceptor::ReadSlots(std::vector<NodeId> nodes) {
  std::vector<Copy> copies(nodes.size() * 2);
  Scope reads;
  for (size_t i = 0; i < copies.size(); ++i)
    reads.Spawn(ReadCopy(nodes[i / 2], static_cast<uint32_t>(i % 2), &copies[i]));
  co_await reads.Join();
  std::vector<Slot> slots;
  for (size_t i = 0; i < nodes.size(); ++i) slots.push_back(Judge(nodes[i], copies[2 * i], copies[2 * i + 1]));
  co_return slots;
}

Task<Result<std::string>> DiskAcceptor::ReadValueOf(SlotHeader header) {
  if (header.accepted == cached_ballot_) co_return cached_value_;
  AlignedBuffer buffer((header.value_bytes + kBlockSize - 1) / kBlockSize * kBlockSize);
  auto status = co_await device_->Read(options_.offset + ValueOffset(header.node, header.value_area), buffer.span());
  if (!status.ok()) co_return status.error();
  std::string value(AsText(buffer.span().first(header.value_bytes)));
  if (ValueHash(AsBytes(value)) != header.value_hash) co_return Error(Errc::kCorrupt, "the value moved while it was read");
  cached_ballot_ = header.accepted;
  cached_value_ = value;
  co_return value;
}

// Knows the own slot as it is on the disk, with nothing of ours still under way.
Task<Status> DiskAcceptor::Recover() {
  if (options_.drain && !options_.mutants.no_drain) {
    auto drained = co_await options_.drain();
    if (!drained.ok()) co_return drained.error();
  }
  // What has landed is made durable before it is believed: a header that is only in the array's cache may be lost again,
  // and the value area that the header before it names is the one we would write next.
  if (device_->info().volatile_cache) {
    auto flushed = co_await device_->Flush();
    if (!flushed.ok()) co_return flushed.error();
  }
  std::vector<NodeId> self{options_.self};
  auto task = ReadSlots(self);
  auto slots = co_await std::move(task);
  if (!slots[0].status.ok()) co_return slots[0].status.error();
  own_ = slots[0].header;
  own_copy_ = slots[0].copy;
  unknown_ = false;
  co_return Status();
}

Task<Status> DiskAcceptor::Attach() {
  auto guard = co_await order_.Lock();
  attached_ = false;
  lost_ = false;
  auto id = co_await ReadAreaId(device_, options_.offset);
  if (!id.ok()) {
    trouble_ = id.error().ToString();
    co_return id.error();
  }
  area_id_ = *id;
  auto status = co_await Recover();
  if (!status.ok()) {
    trouble_ = "own slot: " + status.error().ToString();
    co_return status.error();
  }
  attached_ = true;
  trouble_.clear();
  co_return Status();
}

Task<Status> DiskAcceptor::WriteValue(std::string value, uint32_t area) {
  AlignedBuffer buffer((value.size() + kBlockSize - 1) / kBlockSize * kBlockSize);
  std::memcpy(buffer.data(), value.data(), value.size());
  auto status = co_await device_->Write(options_.offset + ValueOffset(options_.self, area), buffer.span(), WriteFlags::kNone);
  if (!status.ok()) co_return status.error();
  if (!device_->info().volatile_cache) co_return Status();
  auto flushed = co_await device_->Flush();
  co_return flushed;
}

Task<Status> DiskAcceptor::WriteHeader(SlotHeader header) {
  header.area_id = area_id_;
  header.node = options_.self;
  header.nonce = options_.nonce;
  header.sequence = own_.sequence + 1;
  uint32_t copy = options_.mutants.one_copy ? own_copy_ : 1 - own_copy_;
  AlignedBuffer block(kHeaderBytes);
  EncodeHeader(header, block.span());
  unknown_ = true;
  auto status = co_await device_->Write(options_.offset + HeaderOffset(options_.self, copy), block.span(), WriteFlags::kFua);
  if (!status.ok()) co_return status.error();
  unknown_ = false;
  own_ = header;
  own_copy_ = copy;
  co_return Status();
}

// Reads all slots. The answer is a refusal when any of them knows a higher ballot.
Task<Result<DiskAnswer>> DiskAcceptor::Look(Ballot ballot, bool want_value) {
  for (int round = 0;; ++round) {
    auto task = ReadSlots(options_.nodes);
    auto slots = co_await std::move(task);
    DiskAnswer answer;
    const Slot* newest = nullptr;
    for (const auto& slot : slots) {
      if (!slot.status.ok()) {
        if (options_.mutants.torn_is_empty) continue;
        co_return Error(slot.status.error().code, "slot of n" + std::to_string(slot.node.v) + ": " + slot.status.error().message);
      }
      if (slot.node == options_.self && (slot.header.sequence != own_.sequence || slot.header.nonce != own_.nonce)) {
        lost_ = true;
        co_return Error(Errc::kStale, "our slot is not what we wrote: the area was restored, or a twin runs");
      }
      answer.highest = std::max({answer.highest, slot.header.promised, slot.header.accepted});
      if (newest == nullptr || slot.header.accepted > newest->header.accepted) newest = &slot;
    }
    answer.ok = answer.highest <= ballot;
    if (newest != nullptr) answer.accepted = newest->header.accepted;
    if (!want_value || !answer.ok || answer.accepted.counter == 0) co_return answer;
    auto value = co_await ReadValueOf(newest->header);
    if (value.ok()) {
      answer.value = *value;
      co_return answer;
    }
    // The owner has moved on since we read its header: look again.
    if (value.code() != Errc::kCorrupt || round == 3) co_return value.error();
  }
}

Task<Result<DiskAnswer>> DiskAcceptor::DoPrepare(Ballot ballot, OwnAcceptor own) {
  if (!attached_ || lost_) co_return Error(Errc::kDisconnected, trouble_);
  if (unknown_) {
    auto status = co_await Recover();
    if (!status.ok()) co_return status.error();
  }
  if (ballot < own_.promised) co_return DiskAnswer{false, own_.promised, {}, {}};
  SlotHeader header = own_;
  header.promised = ballot;
  header.storage = own.storage;
  header.own_accepted = own.accepted;
  auto written = co_await WriteHeader(header);
  if (!written.ok()) co_return written.error();
  auto answer = co_await Look(ballot, true);
  co_return answer;
}

Task<Result<DiskAnswer>> DiskAcceptor::DoAccept(Ballot ballot, std::string value, OwnAcceptor own) {
  if (!attached_ || lost_) co_return Error(Errc::kDisconnected, trouble_);
  if (unknown_) {
    auto status = co_await Recover();
    if (!status.ok()) co_return status.error();
  }
  if (value.empty() || value.size() > kValueBytesMax) co_return Error(Errc::kInvalid, "value size");
  if (ballot < own_.promised) co_return DiskAnswer{false, own_.promised, {}, {}};
  SlotHeader header = own_;
  header.value_area = 1 - own_.value_area;
  header.value_bytes = static_cast<uint32_t>(value.size());
  header.value_hash = ValueHash(AsBytes(value));
  header.promised = ballot;
  header.accepted = ballot;
  header.storage = own.storage;
  header.own_accepted = own.accepted;
  unknown_ = true;  // until the header stands
  auto writing = WriteValue(value, header.value_area);
  auto valued = co_await std::move(writing);
  if (!valued.ok()) co_return valued.error();
  auto written = co_await WriteHeader(header);
  if (!written.ok()) co_return written.error();
  cached_ballot_ = ballot;
  cached_value_ = std::move(value);
  if (options_.mutants.no_second_read) co_return DiskAnswer{true, ballot, ballot, {}};
  auto answer = co_await Look(ballot, false);
  co_return answer;
}

void DiskAcceptor::Note(const Result<DiskAnswer>& answer) {
  trouble_ = answer.ok() ? std::string() : answer.error().ToString();
}

Task<Result<DiskAnswer>> DiskAcceptor::Prepare(Ballot ballot, OwnAcceptor own) {
  auto guard = co_await order_.Lock();
  auto answer = co_await DoPrepare(ballot, own);
  Note(answer);
  co_return answer;
}

Task<Result<DiskAnswer>> DiskAcceptor::Accept(Ballot ballot, std::string value, OwnAcceptor own) {
  auto guard = co_await order_.Lock();
  auto task = DoAccept(ballot, std::move(value), own);
  auto answer = co_await std::move(task);
  Note(answer);
  co_return answer;
}

Task<Result<Ballot>> DiskAcceptor::HighestAccepted() {
  if (!attached_ || lost_) co_return Error(Errc::kDisconnected, trouble_);
  auto task = ReadSlots(options_.nodes);
  auto slots = co_await std::move(task);
  Ballot highest;
  for (const auto& slot : slots) {
    if (!slot.status.ok()) co_return slot.status.error();
    highest = std::max(highest, slot.header.accepted);
  }
  co_return highest;
}

Task<Result<std::string>> DiskAcceptor::ReadValue(Ballot ballot) {
  if (!attached_ || lost_) co_return Error(Errc::kDisconnected, trouble_);
  auto task = ReadSlots(options_.nodes);
  auto slots = co_await std::move(task);
  for (const auto& slot : slots) {
    if (!slot.status.ok() || slot.header.accepted != ballot || slot.header.value_bytes == 0) continue;
    auto value = co_await ReadValueOf(slot.header);
    co_return value;
  }
  co_return Errc::kNotFound;
}

}  // namespace holdfast::cluster
