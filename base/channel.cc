#include "base/channel.h"

#include <algorithm>

#include "base/check.h"
#include "base/log.h"
#include "envelope.pb.h"

namespace holdfast {
namespace {

uint64_t HashName(const std::string& name) {  // FNV-1a
  uint64_t h = 0xcbf29ce484222325;
  for (unsigned char c : name) h = (h ^ c) * 0x100000001b3;
  return h;
}

MemberId FromWire(const wire::Process& p) {
  return {NodeId(p.node()), Incarnation(p.incarnation()), p.nonce()};
}

void ToWire(const MemberId& id, wire::Process* p) {
  p->set_node(id.node.v);
  p->set_incarnation(id.incarnation.v);
  p->set_nonce(id.nonce);
}

std::vector<std::byte> Encode(const wire::Envelope& envelope) {
  std::vector<std::byte> frame(envelope.ByteSizeLong());
  HF_CHECK(envelope.SerializeToArray(frame.data(), static_cast<int>(frame.size())), "an envelope of %zu bytes",
           frame.size());
  return frame;
}

Bytes CopyOf(const std::string& text) {
  auto bytes = AsBytes(text);
  return Bytes(bytes.begin(), bytes.end());
}

constexpr size_t kMessageOverhead = 64;  // counted per message, so that empty ones are bounded too

}  // namespace

Channel::Channel(Transport* transport, Executor* executor, ChannelOptions options)
    : transport_(transport), executor_(executor), options_(std::move(options)), cluster_hash_(HashName(options_.cluster)) {
  transport_->SetReceiver([this, alive = alive_](NodeId sender, std::span<const std::byte> frame) {
    if (*alive) OnFrame(sender, frame);
  });
}

Channel::~Channel() {
  *alive_ = false;
  executor_->Cancel(timer_);
}

// ---- peers ----

Status Channel::AddPeer(const MemberId& id, const Endpoint& endpoint) {
  if (forgotten_.contains(id)) return Error(Errc::kStale, ToString(id) + " has been forgotten");
  auto [it, fresh] = peers_.try_emplace(id);
  Peer& peer = it->second;
  if (fresh) {
    peer.patience = options_.knobs.retransmit_min;
    peer.waiting_since = executor_->clock().Now();
  }
  peer.endpoint = endpoint;
  return {};
}

void Channel::Forget(const MemberId& id) {
  forgotten_.insert(id);
  auto it = peers_.find(id);
  if (it == peers_.end()) return;
  Endpoint endpoint = it->second.endpoint;
  peers_.erase(it);
  for (const auto& [other, peer] : peers_)
    if (peer.endpoint == endpoint) return;  // a new life at the same address
  transport_->Forget(endpoint);
}

void Channel::SetPeers(const std::vector<std::pair<MemberId, Endpoint>>& peers) {
  std::set<MemberId> wanted;
  for (const auto& [id, endpoint] : peers) {
    wanted.insert(id);
    if (Status added = AddPeer(id, endpoint); !added.ok())
      HF_LOG(LogLevel::kWarn, "channel", "peer_is_stale", {{"peer", id}});
  }
  std::vector<MemberId> missing;
  for (const auto& [id, peer] : peers_)
    if (!wanted.contains(id)) missing.push_back(id);
  for (const MemberId& id : missing) Forget(id);
}

std::vector<MemberId> Channel::Peers() const {
  std::vector<MemberId> ids;
  for (const auto& [id, peer] : peers_) ids.push_back(id);
  return ids;
}

size_t Channel::Unacknowledged(const MemberId& id) const {
  auto it = peers_.find(id);
  return it == peers_.end() ? 0 : it->second.out.size();
}

std::string Channel::Dump() const {
  std::string text = "channel " + ToString(options_.self) + "\n";
  for (const auto& [id, p] : peers_)
    text += "  " + ToString(id) + " at " + p.endpoint.address + " next=" + std::to_string(p.next_sequence) +
            " unacked=" + std::to_string(p.out.size()) + " flying=" + std::to_string(p.flying) +
            " delivered=" + std::to_string(p.delivered) + " early=" + std::to_string(p.early.size()) +
            (p.gone ? " GONE" : "") + "\n";
  return text;
}

// ---- sending ----

Status Channel::Send(const MemberId& to, Generation generation, uint32_t kind, std::span<const std::byte> body) {
  auto it = peers_.find(to);
  if (it == peers_.end()) return Error(Errc::kNotFound, ToString(to) + " is not a peer");
  if (body.size() > options_.knobs.message_bytes_max) return Error(Errc::kInvalid, "the message is too large");
  Peer& peer = it->second;
  size_t cost = body.size() + kMessageOverhead;
  if (peer.out_bytes + cost > options_.knobs.buffer_bytes_max)
    return Error(Errc::kExhausted, "too much waits for " + ToString(to));
  if (peer.out.empty()) peer.waiting_since = executor_->clock().Now();
  peer.out.push_back({peer.next_sequence++, generation, kind, Bytes(body.begin(), body.end())});
  peer.out_bytes += cost;
  ++stats_.messages_sent;
  MarkDirty(peer);
  return {};
}

void Channel::SendDatagram(const Endpoint& to, uint32_t kind, std::span<const std::byte> body) {
  wire::Envelope envelope;
  envelope.set_major(kWireMajor);
  envelope.set_minor(kWireMinor);
  envelope.set_cluster(cluster_hash_);
  envelope.set_lockspace(options_.lockspace);
  ToWire(options_.self, envelope.mutable_from());
  envelope.mutable_to()->set_node(to.node.v);
  wire::Payload* payload = envelope.add_payloads();
  payload->set_kind(kind);
  payload->set_body(body.data(), body.size());
  ++stats_.frames_sent;
  transport_->Send(to, Encode(envelope));
}

void Channel::MarkDirty(Peer& peer) {
  peer.dirty = true;
  if (flush_posted_) return;
  flush_posted_ = true;
  executor_->Post([this, alive = alive_] {
    if (*alive) Flush();
  });
}

void Channel::Flush() {
  flush_posted_ = false;
  for (auto& [id, peer] : peers_) {
    if (!peer.dirty) continue;
    peer.dirty = false;
    SendNew(id, peer);
    if (peer.ack_owed && peer.unacked_messages >= options_.knobs.ack_every_messages) SendFrame(id, peer, 0, 0);
  }
}

// Sends what has not been sent, as far as the window allows.
void Channel::SendNew(const MemberId& id, Peer& peer) {
  while (peer.flying < peer.out.size()) {
    size_t first = peer.flying, count = 0, bytes = 0;
    while (first + count < peer.out.size()) {
      size_t cost = peer.out[first + count].body.size() + kMessageOverhead;
      bool window_full = peer.flying > 0 && peer.flying_bytes + bytes + cost > options_.knobs.window_bytes;
      bool frame_full = count > 0 && bytes + cost > options_.knobs.frame_bytes_max;
      if (window_full || frame_full) break;
      bytes += cost;
      ++count;
    }
    if (count == 0) return;
    if (peer.flying == 0) {
      peer.patience = options_.knobs.retransmit_min;
      peer.resend_at = executor_->clock().Now() + peer.patience;
      Arm(peer.resend_at);
    }
    peer.flying += count;
    peer.flying_bytes += bytes;
    SendFrame(id, peer, first, count);
  }
}

// Sends the oldest unacknowledged frame's worth again.
void Channel::Resend(const MemberId& id, Peer& peer) {
  size_t count = 0, bytes = 0;
  while (count < peer.flying) {
    size_t cost = peer.out[count].body.size() + kMessageOverhead;
    if (count > 0 && bytes + cost > options_.knobs.frame_bytes_max) break;
    bytes += cost;
    ++count;
  }
  stats_.messages_resent += count;
  if (count > 0) SendFrame(id, peer, 0, count);
}

void Channel::SendFrame(const MemberId& id, Peer& peer, size_t first, size_t count) {
  wire::Envelope envelope;
  envelope.set_major(kWireMajor);
  envelope.set_minor(kWireMinor);
  envelope.set_cluster(cluster_hash_);
  envelope.set_lockspace(options_.lockspace);
  ToWire(options_.self, envelope.mutable_from());
  ToWire(id, envelope.mutable_to());
  envelope.set_ack(peer.delivered);
  envelope.set_gap(!peer.early.empty());
  for (size_t i = first; i < first + count; ++i) {
    const Outgoing& message = peer.out[i];
    wire::Payload* payload = envelope.add_payloads();
    payload->set_sequence(message.sequence);
    payload->set_generation(message.generation.v);
    payload->set_kind(message.kind);
    payload->set_body(message.body.data(), message.body.size());
  }
  peer.ack_owed = false;
  peer.unacked_messages = 0;
  ++stats_.frames_sent;
  transport_->Send(peer.endpoint, Encode(envelope));
}

// ---- receiving ----

void Channel::OnFrame(NodeId sender, std::span<const std::byte> frame) {
  ++stats_.frames_received;
  wire::Envelope envelope;
  if (frame.size() > (64u << 20) || !envelope.ParseFromArray(frame.data(), static_cast<int>(frame.size())) ||
      envelope.major() != kWireMajor || envelope.cluster() != cluster_hash_ ||
      envelope.lockspace() != options_.lockspace || envelope.from().node() != sender.v ||
      envelope.to().node() != options_.self.node.v) {
    ++stats_.refused;
    return;
  }
  MemberId from = FromWire(envelope.from());
  if (envelope.payloads_size() == 1 && envelope.payloads(0).sequence() == 0) {
    const wire::Payload& payload = envelope.payloads(0);
    if (datagram_receiver_)
      datagram_receiver_({from, Generation(payload.generation()), payload.kind(), AsBytes(payload.body())});
    return;
  }
  auto it = peers_.find(from);
  if (it == peers_.end() || FromWire(envelope.to()) != options_.self) {
    ++stats_.strangers;
    return;
  }
  Heard(from, it->second);
  it = peers_.find(from);  // the watcher may have changed the peers
  if (it == peers_.end()) return;
  Peer& peer = it->second;
  TakeAck(peer, envelope.ack(), envelope.gap());
  for (const wire::Payload& payload : envelope.payloads()) {
    Incoming message{Generation(payload.generation()), payload.kind(), CopyOf(payload.body())};
    if (!Take(from, payload.sequence(), std::move(message))) break;
  }
  if (envelope.payloads_size() > 0) {
    if (!peer.ack_owed) {
      peer.ack_owed = true;
      // A gap or something that came twice is answered at once: the sender waits for it.
      bool urgent = !peer.early.empty() || envelope.payloads(0).sequence() <= peer.delivered;
      peer.ack_at = executor_->clock().Now() + (urgent ? Duration{0} : options_.knobs.ack_delay_max);
      Arm(peer.ack_at);
    }
    peer.unacked_messages += static_cast<uint32_t>(envelope.payloads_size());
    if (peer.unacked_messages >= options_.knobs.ack_every_messages) MarkDirty(peer);
  }
  Deliver(from);
}

void Channel::Heard(const MemberId& id, Peer& peer) {
  peer.waiting_since = executor_->clock().Now();
  if (!peer.gone) return;
  peer.gone = false;
  HF_LOG(LogLevel::kInfo, "channel", "peer_heard_again", {{"peer", id}});
  if (watcher_) watcher_(id, false);
}

void Channel::TakeAck(Peer& peer, uint64_t ack, bool gap) {
  if (ack >= peer.next_sequence) {  // acknowledges what was never sent
    ++stats_.refused;
    return;
  }
  bool progress = false;
  while (!peer.out.empty() && peer.flying > 0 && peer.out.front().sequence <= ack) {
    size_t cost = peer.out.front().body.size() + kMessageOverhead;
    peer.out_bytes -= cost;
    peer.flying_bytes -= cost;
    --peer.flying;
    peer.out.pop_front();
    progress = true;
  }
  if (!progress) return;
  peer.patience = options_.knobs.retransmit_min;
  peer.resend_at = executor_->clock().Now() + peer.patience;
  // While a hole is being filled every acknowledgement asks for the next piece.
  if (gap || (!peer.out.empty() && peer.out.front().sequence <= peer.resend_to)) {
    peer.resend_at = executor_->clock().Now();
    Arm(peer.resend_at);
  }
  if (peer.flying < peer.out.size()) MarkDirty(peer);
}

// False: the rest of the frame is of no use.
bool Channel::Take(const MemberId& from, uint64_t sequence, Incoming message) {
  Peer& peer = peers_.at(from);
  if (sequence == 0) {
    ++stats_.refused;
    return false;
  }
  if (sequence <= peer.delivered || peer.early.contains(sequence)) {
    ++stats_.duplicates;
    return true;
  }
  size_t cost = message.body.size() + kMessageOverhead;
  bool next = sequence == peer.delivered + 1;
  if (!next && peer.early_bytes + cost > options_.knobs.early_bytes_max) {
    ++stats_.overflow;
    return false;
  }
  peer.early_bytes += cost;
  peer.early.emplace(sequence, std::move(message));
  return true;
}

// Hands over what is in order. The receiver may forget the peer, and may be called for others meanwhile.
void Channel::Deliver(const MemberId& from) {
  for (;;) {
    auto it = peers_.find(from);
    if (it == peers_.end()) return;
    Peer& peer = it->second;
    auto first = peer.early.begin();
    if (first == peer.early.end() || first->first != peer.delivered + 1) return;
    Incoming message = std::move(first->second);
    peer.early.erase(first);
    peer.early_bytes -= message.body.size() + kMessageOverhead;
    ++peer.delivered;
    ++stats_.messages_delivered;
    if (receiver_) receiver_({from, message.generation, message.kind, message.body});
  }
}

// ---- time ----

void Channel::Arm(Instant when) {
  if (timer_ != 0 && timer_at_ <= when) return;
  executor_->Cancel(timer_);
  timer_at_ = when;
  timer_ = executor_->PostAt(when, [this, alive = alive_] {
    if (*alive) OnTimer();
  });
}

void Channel::OnTimer() {
  timer_ = 0;
  Instant now = executor_->clock().Now();
  std::optional<Instant> next;
  auto want = [&next](Instant when) { next = next ? std::min(*next, when) : when; };
  std::vector<MemberId> gone;
  for (auto& [id, peer] : peers_) {
    if (peer.flying > 0 && now >= peer.resend_at) {
      peer.resend_to = peer.out[peer.flying - 1].sequence;
      Resend(id, peer);
      peer.patience = std::min(peer.patience * 2, options_.knobs.retransmit_max);
      peer.resend_at = now + peer.patience;
    }
    if (peer.ack_owed && now >= peer.ack_at) SendFrame(id, peer, 0, 0);
    if (!peer.out.empty() && !peer.gone && now - peer.waiting_since >= options_.knobs.suspect_after) {
      peer.gone = true;
      gone.push_back(id);
    }
    if (peer.flying > 0) want(peer.resend_at);
    if (peer.ack_owed) want(peer.ack_at);
  }
  if (next) Arm(*next);
  for (const MemberId& id : gone) {
    HF_LOG(LogLevel::kWarn, "channel", "peer_suspected", {{"peer", id}});
    if (watcher_) watcher_(id, true);
  }
}

}  // namespace holdfast
