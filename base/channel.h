// Channel: messages to each peer in order and exactly once, over a Transport that promises nothing. A peer is one life
// of one process (MemberId); both ends' restarts start both directions anew because a frame names both lives and any
// other pair is dropped. Threading: belongs to one executor. Pure over Transport, Executor, Clock.
//
//   Send: numbered, kept until acknowledged; everything for one peer in one turn leaves in one frame; sent again when
//         no acknowledgement comes (100 ms doubling to 1 s). Receive: early ones wait, doubles are dropped.
//   No acknowledgement and nothing heard for suspect_after: the watcher is told 'gone'. That is a suspicion for the
//         register, never acted on here; it is taken back when the peer is heard again.
//   Forget/SetPeers: the one place where what dead incarnations sent is dropped. INVARIANT: a forgotten life never
//         comes back. Between lives that are not forgotten nothing is dropped.
//
// Hostile bytes are dropped and counted in stats(). The node in the envelope must be the authenticated sender's.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/executor.h"
#include "base/ids.h"
#include "base/result.h"
#include "base/transport.h"

namespace holdfast {

inline constexpr uint32_t kWireMajor = 1;
inline constexpr uint32_t kWireMinor = 0;

struct ChannelKnobs {
  Duration retransmit_min = Milliseconds(100);
  Duration retransmit_max = Seconds(1);
  Duration ack_delay_max = Milliseconds(20);    // an acknowledgement rides on a message when one comes in time
  uint32_t ack_every_messages = 64;
  Duration suspect_after = Seconds(3);
  size_t message_bytes_max = 4 << 20;           // larger: kInvalid
  size_t frame_bytes_max = 256 << 10;           // a single larger message gets a frame of its own
  size_t window_bytes = 4 << 20;                // sent and not acknowledged; the rest waits here
  size_t buffer_bytes_max = 256 << 20;          // kept per peer in all; beyond: kExhausted
  size_t early_bytes_max = 8 << 20;             // kept per peer out of order; beyond: dropped, comes again
};

struct ChannelOptions {
  MemberId self;             // a node daemon: incarnation 0, its start nonce
  std::string cluster;       // UUID or name; both ends must have the same
  uint64_t lockspace = 0;    // id of the lockspace; 0: node daemons
  ChannelKnobs knobs;
};

struct ChannelMessage {
  MemberId from;
  Generation generation;
  uint32_t kind = 0;
  std::span<const std::byte> body;  // valid during the call
};

struct ChannelStats {
  uint64_t frames_sent = 0, frames_received = 0;
  uint64_t messages_sent = 0, messages_delivered = 0, messages_resent = 0;
  uint64_t duplicates = 0;    // arrived again
  uint64_t strangers = 0;     // from a life that is not a peer (yet, or any more), or to another life of ours
  uint64_t refused = 0;       // malformed, another cluster, another major, a sender that is not who it says
  uint64_t overflow = 0;      // early or out of the window
};

class Channel {
 public:
  using Receiver = std::function<void(const ChannelMessage& message)>;
  using Watcher = std::function<void(const MemberId& peer, bool gone)>;

  // Takes the transport's receiver. REQUIRES: executor's turn for every call, as everywhere.
  Channel(Transport* transport, Executor* executor, ChannelOptions options);
  ~Channel();
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  // The receiver may call anything of the channel, Forget of the sender too.
  void SetReceiver(Receiver receiver) { receiver_ = std::move(receiver); }
  // Unordered, unreliable, also from processes that are not peers: heartbeats, "who are you". `from` is what the
  // sender says of itself; only its node is proven.
  void SetDatagramReceiver(Receiver receiver) { datagram_receiver_ = std::move(receiver); }
  void SetWatcher(Watcher watcher) { watcher_ = std::move(watcher); }

  // A known peer gets a new endpoint. kStale: this life was forgotten.
  Status AddPeer(const MemberId& peer, const Endpoint& endpoint);
  void Forget(const MemberId& peer);
  // Adds those that are new, forgets those that are missing.
  void SetPeers(const std::vector<std::pair<MemberId, Endpoint>>& peers);
  bool HasPeer(const MemberId& peer) const { return peers_.contains(peer); }
  std::vector<MemberId> Peers() const;

  // kNotFound: not a peer. kExhausted: the peer has not taken anything for too long. kInvalid: too large.
  Status Send(const MemberId& to, Generation generation, uint32_t kind, std::span<const std::byte> body);
  void SendDatagram(const Endpoint& to, uint32_t kind, std::span<const std::byte> body);

  const MemberId& self() const { return options_.self; }
  const ChannelStats& stats() const { return stats_; }
  // Messages to that peer that are not acknowledged; 0 if it is not a peer.
  size_t Unacknowledged(const MemberId& peer) const;
  std::string Dump() const;

 private:
  struct Outgoing {
    uint64_t sequence;
    Generation generation;
    uint32_t kind;
    Bytes body;
  };
  struct Incoming {
    Generation generation;
    uint32_t kind;
    Bytes body;
  };
  struct Peer {
    Endpoint endpoint;
    // to it
    uint64_t next_sequence = 1;
    std::deque<Outgoing> out;     // oldest first; acknowledged ones are gone
    size_t out_bytes = 0;
    size_t flying = 0;            // how many of `out` have been sent
    size_t flying_bytes = 0;
    uint64_t resend_to = 0;       // a retransmission is on; it goes on with each acknowledgement up to here
    Duration patience;            // until the next retransmission
    Instant resend_at;            // REQUIRES flying > 0
    Instant waiting_since;        // the later of: something to acknowledge began to wait, anything heard
    bool gone = false;
    // from it
    uint64_t delivered = 0;
    std::map<uint64_t, Incoming> early;
    size_t early_bytes = 0;
    bool ack_owed = false;
    Instant ack_at;
    uint32_t unacked_messages = 0;
    bool dirty = false;           // has something for the next Flush
  };

  struct Decoder;  // envelope.pb.h stays out of this header
  void OnFrame(NodeId sender, std::span<const std::byte> frame);
  bool Take(const MemberId& from, uint64_t sequence, Incoming message);
  void TakeAck(Peer& peer, uint64_t ack, bool gap);
  void Deliver(const MemberId& from);
  void Heard(const MemberId& id, Peer& peer);
  void MarkDirty(Peer& peer);
  void Flush();
  void SendNew(const MemberId& id, Peer& peer);
  void Resend(const MemberId& id, Peer& peer);
  void SendFrame(const MemberId& id, Peer& peer, size_t first, size_t count);
  void Arm(Instant when);
  void OnTimer();

  Transport* transport_;
  Executor* executor_;
  ChannelOptions options_;
  uint64_t cluster_hash_;
  Receiver receiver_, datagram_receiver_;
  Watcher watcher_;
  std::map<MemberId, Peer> peers_;
  std::set<MemberId> forgotten_;
  ChannelStats stats_;
  bool flush_posted_ = false;
  TimerId timer_ = 0;
  Instant timer_at_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace holdfast
