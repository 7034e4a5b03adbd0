#include "tests/whole/line.h"

#include <algorithm>

namespace holdfast::whole {

std::pair<std::shared_ptr<SimLine>, std::shared_ptr<SimLine>> SimLine::Make(sim::SimExecutor* client, int32_t client_pid,
                                                                            sim::SimExecutor* server, int32_t server_pid) {
  auto a = std::make_shared<SimLine>(), b = std::make_shared<SimLine>();
  a->executor_ = client;
  b->executor_ = server;
  a->peer_pid_ = server_pid;
  b->peer_pid_ = client_pid;
  a->peer_ = b;
  b->peer_ = a;
  return {a, b};
}

void SimLine::Start(OnPacket packet, OnClosed closed) {
  packet_ = std::move(packet);
  closed_ = std::move(closed);
  started_ = true;
  executor_->Post([self = shared_from_this()] {
    while (self->open_ && !self->early_.empty()) {
      auto bytes = std::move(self->early_.front());
      self->early_.pop_front();
      self->packet_(bytes);
    }
    if (self->open_ && self->ended_) self->PeerGone();
  });
}

Status SimLine::Send(std::span<const std::byte> packet) {
  if (!open_ || !peer_) return Error(Errc::kDisconnected, "the line has ended");
  sim::World& world = executor_->world();
  Instant when = std::max(world.now() + world.random().Between(Microseconds(5), Microseconds(200)), last_ + Duration{1});
  last_ = when;
  std::vector<std::byte> bytes(packet.begin(), packet.end());
  world.At(when, [peer = peer_, bytes = std::move(bytes)] {
    if (!peer->executor_->alive()) return;
    peer->executor_->Post([peer, bytes] { peer->Arrive(bytes); });
  });
  return {};
}

void SimLine::Arrive(std::vector<std::byte> packet) {
  if (!open_) return;
  if (!started_ || !early_.empty()) early_.push_back(std::move(packet));
  else packet_(packet);
}

void SimLine::PeerGone() {
  if (!open_) return;
  ended_ = true;
  if (!started_ || !early_.empty()) return;  // Start tells it
  open_ = false;
  if (closed_) closed_();
}

void SimLine::TellPeerTheEnd() {
  sim::World& world = executor_->world();
  Instant when = std::max(world.now() + Microseconds(20), last_ + Duration{1});
  world.At(when, [peer = peer_] {
    if (peer->executor_->alive()) peer->executor_->Post([peer] { peer->PeerGone(); });
  });
}

void SimLine::Close() {
  if (!open_) return;
  open_ = false;
  TellPeerTheEnd();
}

void SimLine::ProcessDied() {
  if (!open_) return;
  open_ = false;
  TellPeerTheEnd();
}

}  // namespace holdfast::whole
