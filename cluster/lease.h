// Lease: until when this node's mounts may act: from the sending time of the newest heartbeat that a quorate majority of
// votes has acknowledged. An acceptor that has accepted a value in which a life is no member does not acknowledge that
// life; so after an eviction is decided no heartbeat sent later can gain a majority, and the victim's lease is over
// `lease` after the decision at the latest (its clock; lease_margin covers drift). Pure.
#pragma once

#include <cstdint>
#include <deque>

#include "base/clock.h"
#include "cluster/register.h"
#include "cluster/state.pb.h"

namespace holdfast::cluster {

class Lease {
 public:
  explicit Lease(Duration length) : length_(length) {}

  // A heartbeat leaves now.
  void Sent(uint64_t sequence, Instant now);
  // An acceptor acknowledged it. node 0: the disk (its beat is written and no slot knows a newer value).
  void Acked(uint64_t sequence, uint32_t node, uint64_t storage);
  // The newest heartbeat with a majority; call after acknowledgements and after a new value.
  void Evaluate(const ClusterState& value);
  // What a majority has not acknowledged yet is worth nothing any more (evicted, left).
  void Drop();

  Instant deadline() const { return deadline_; }
  // Newest heartbeat that some acknowledged but no majority: would these votes do with the disk's?
  bool DiskWouldHelp(const ClusterState& value, uint64_t sequence, uint64_t area_id) const;
  // Votes of nodes that acknowledged one of the last beats, for status.
  uint32_t VotesHeard(const ClusterState& value) const;

 private:
  struct Beat {
    uint64_t sequence;
    Instant sent;
    Answers acks;
  };
  Duration length_;
  std::deque<Beat> beats_;
  Instant deadline_;
};

}  // namespace holdfast::cluster
