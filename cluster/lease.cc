// The lease of a node. See lease.h.
#include "cluster/lease.h"

#include <algorithm>

namespace holdfast::cluster {

static constexpr size_t kBeatsMax = 64;

void Lease::Sent(uint64_t sequence, Instant now) {
  beats_.push_back({sequence, now, {}});
  if (beats_.size() > kBeatsMax) beats_.pop_front();
}

void Lease::Acked(uint64_t sequence, uint32_t node, uint64_t storage) {
  for (auto& beat : beats_)
    if (beat.sequence == sequence) beat.acks.storage[node] = storage;
}

void Lease::Evaluate(const ClusterState& value) {
  for (auto it = beats_.rbegin(); it != beats_.rend(); ++it) {
    if (it->sent + length_ <= deadline_) return;
    if (!IsQuorum(value, it->acks, {})) continue;
    deadline_ = it->sent + length_;
    return;
  }
}

void Lease::Drop() {
  beats_.clear();
  deadline_ = {};
}

bool Lease::DiskWouldHelp(const ClusterState& value, uint64_t sequence, uint64_t area_id) const {
  for (const auto& beat : beats_) {
    if (beat.sequence != sequence) continue;
    if (IsQuorum(value, beat.acks, {})) return false;
    Answers with = beat.acks;
    with.storage[0] = area_id;
    return IsQuorum(value, with, {});
  }
  return false;
}

uint32_t Lease::VotesHeard(const ClusterState& value) const {
  uint32_t best = 0;
  size_t looked = 0;
  for (auto it = beats_.rbegin(); it != beats_.rend() && looked < 3; ++it, ++looked) {
    uint32_t votes = 0;
    for (const auto& acceptor : value.acceptors().acceptors()) {
      auto ack = it->acks.storage.find(acceptor.node());
      if (acceptor.node() != 0 && ack != it->acks.storage.end() && acceptor.storage() == ack->second) votes += acceptor.votes();
    }
    best = std::max(best, votes);
  }
  return best;
}

}  // namespace holdfast::cluster
