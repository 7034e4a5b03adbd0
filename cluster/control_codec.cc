#include "cluster/control_codec.h"

#include "base/control.pb.h"

namespace holdfast::cluster {
namespace {

constexpr int kTreeDepthMax = 32;
constexpr uint32_t kNodeIdMax = 256;

StatusTree TreeFromProto(const control::StatusNode& in, int depth) {
  StatusTree tree(in.name(), in.value());
  if (depth < kTreeDepthMax)
    for (const auto& child : in.children()) tree.children.push_back(TreeFromProto(child, depth + 1));
  return tree;
}

bool Plausible(const MemberId& id) { return id.node.v >= 1 && id.node.v <= kNodeIdMax; }

}  // namespace

std::vector<std::byte> EncodeFrame(control::ControlFrame& frame) {
  frame.set_protocol(kControlProtocol);
  std::vector<std::byte> packet(frame.ByteSizeLong());
  frame.SerializeToArray(packet.data(), static_cast<int>(packet.size()));
  return packet;
}

Status DecodeFrame(std::span<const std::byte> packet, control::ControlFrame* frame) {
  if (!frame->ParseFromArray(packet.data(), static_cast<int>(packet.size())))
    return Error(Errc::kCorrupt, "a control packet does not parse");
  if (frame->protocol() != kControlProtocol)
    return Error(Errc::kUnsupported, "control protocol " + std::to_string(frame->protocol()) + ", ours is " + std::to_string(kControlProtocol));
  return {};
}

void ToProto(const MemberId& id, control::MemberId* out) {
  out->set_node(id.node.v);
  out->set_incarnation(id.incarnation.v);
  out->set_nonce(id.nonce);
}

MemberId FromProto(const control::MemberId& in) {
  return {NodeId(in.node()), Incarnation(in.incarnation()), in.nonce()};
}

void ToProto(const dlm::View& view, control::View* out) {
  out->set_version(view.version.v);
  out->set_generation(view.generation.v);
  for (const auto& m : view.members) {
    auto* member = out->add_members();
    ToProto(m.id, member->mutable_id());
    member->set_mount(m.mount.v);
    member->mutable_endpoint()->set_node(m.endpoint.node.v);
    member->mutable_endpoint()->set_address(m.endpoint.address);
    member->mutable_endpoint()->set_public_key(m.endpoint.public_key);
  }
  for (const auto& v : view.victims) {
    auto* victim = out->add_victims();
    ToProto(v.id, victim->mutable_id());
    victim->set_mount(v.mount.v);
    victim->set_fenced(v.fenced);
    victim->set_replayed(v.replayed);
    victim->set_readers_ended(v.readers_ended);
    ToProto(v.replayer, victim->mutable_replayer());
  }
}

Result<dlm::View> FromProto(const control::View& in) {
  dlm::View view;
  view.version = RegisterVersion(in.version());
  view.generation = Generation(in.generation());
  for (const auto& m : in.members()) {
    dlm::Member member{FromProto(m.id()), MountNo(m.mount()),
                       {NodeId(m.endpoint().node()), m.endpoint().address(), m.endpoint().public_key()}};
    if (!Plausible(member.id) || (!view.members.empty() && !(view.members.back().id < member.id)))
      return Error(Errc::kCorrupt, "a view's members are not ordered nodes");
    view.members.push_back(std::move(member));
  }
  for (const auto& v : in.victims()) {
    dlm::Victim victim{FromProto(v.id()), MountNo(v.mount()), v.fenced(), v.replayed(), v.readers_ended(), FromProto(v.replayer())};
    if (!Plausible(victim.id) || (!view.victims.empty() && !(view.victims.back().id < victim.id)))
      return Error(Errc::kCorrupt, "a view's victims are not ordered nodes");
    view.victims.push_back(std::move(victim));
  }
  return view;
}

void ToProto(const StatusTree& tree, control::StatusNode* out) {
  out->set_name(tree.name);
  out->set_value(tree.value);
  for (const auto& child : tree.children) ToProto(child, out->add_children());
}

StatusTree FromProto(const control::StatusNode& in) { return TreeFromProto(in, 0); }

void ToProto(const dlm::LinkStatus& status, control::MountStatus* out) {
  for (const auto& w : status.waits) {
    auto* wait = out->add_waits();
    wait->set_what(w.what);
    wait->set_on(w.on);
    wait->set_since_ms(w.since.ns > 0 ? static_cast<uint64_t>(w.since.ms()) : 0);
  }
  ToProto(status.tree, out->mutable_tree());
}

dlm::LinkStatus FromProto(const control::MountStatus& in) {
  dlm::LinkStatus status;
  for (const auto& w : in.waits()) {
    uint64_t ms = std::min<uint64_t>(w.since_ms(), uint64_t{1} << 40);
    status.waits.push_back({w.what(), w.on(), Milliseconds(static_cast<int64_t>(ms))});
  }
  status.tree = FromProto(in.tree());
  return status;
}

void ToProto(const Error& error, control::Failure* out) {
  out->set_code(static_cast<uint32_t>(error.code));
  out->set_message(error.message);
}

Error FromProto(const control::Failure& in) {
  // A failure without a known code is still a failure.
  bool known = in.code() > 0 && in.code() <= static_cast<uint32_t>(Errc::kInterrupted);
  return {known ? static_cast<Errc>(in.code()) : Errc::kIo, in.message()};
}

}  // namespace holdfast::cluster
