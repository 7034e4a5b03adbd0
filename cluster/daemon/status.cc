#include "cluster/daemon/status.h"

#include <algorithm>
#include <cctype>

#include "cluster/daemon/fencer.h"
#include "cluster/daemon/mounts.h"
#include "cluster/lockspace_view.h"

namespace holdfast::cluster {
namespace {

const char* YesNo(bool b) { return b ? "true" : "false"; }

// "member", "evicted", …
std::string Lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

void AddWait(StatusTree& list, const dlm::Waiting& wait) {
  StatusTree& line = list.Add("wait");
  line.Add("what", wait.what);
  line.Add("on", wait.on);
  line.Add("since_ms", std::to_string(wait.since.ms()));
}

const PeerPicture* PeerOf(const Picture& picture, NodeId node) {
  for (const auto& p : picture.peers)
    if (p.node == node) return &p;
  return nullptr;
}

std::string Heard(const Parts& parts, const Picture& picture, NodeId node) {
  if (node == parts.self->id) return "self";
  const PeerPicture* peer = PeerOf(picture, node);
  if (!peer) return "no";
  std::string how = peer->heard ? "network" : "";
  if (peer->on_disk) how += how.empty() ? "disk" : "+disk";
  return how.empty() ? "no" : how;
}

void AddNodes(StatusTree& tree, const Parts& parts, const StatePtr& state, const Picture& picture) {
  StatusTree& nodes = tree.Add("nodes", "[]");
  for (const auto& config : parts.config->nodes) {
    const Node* node = state ? FindNode(*state, config.id) : nullptr;
    StatusTree& line = nodes.Add("node");
    line.Add("id", std::to_string(config.id.v));
    line.Add("name", config.name);
    line.Add("state", node ? Lower(StateName(node->state())) : "unknown");
    line.Add("incarnation", node ? std::to_string(node->incarnation()) : "");
    line.Add("votes", std::to_string(config.votes));
    line.Add("heard", Heard(parts, picture, config.id));
    line.Add("address", config.Address());
  }
}

void AddLockspaces(StatusTree& tree, const Parts& parts, const StatePtr& state) {
  StatusTree& lockspaces = tree.Add("lockspaces", "[]");
  if (!state) return;
  for (const auto& ls : state->lockspaces()) {
    LockspaceView view = ViewOf(*state, ls.name());
    StatusTree& line = lockspaces.Add("lockspace");
    line.Add("name", ls.name());
    line.Add("generation", std::to_string(view.generation.v));
    line.Add("volume", RedactUrl(ls.volume_url()));
    line.Add("uuid", ls.volume_uuid());
    StatusTree& members = line.Add("members", "[]");
    for (const auto& m : view.members) {
      StatusTree& member = members.Add("member");
      member.Add("member", ToString(m.id));
      member.Add("node", parts.NodeName(m.id.node));
      member.Add("mount", std::to_string(m.mount.v));
      member.Add("address", m.endpoint.address);
    }
    StatusTree& victims = line.Add("victims", "[]");
    for (const auto& v : view.victims) {
      StatusTree& victim = victims.Add("victim");
      victim.Add("member", ToString(v.id));
      victim.Add("node", parts.NodeName(v.id.node));
      victim.Add("mount", std::to_string(v.mount.v));
      victim.Add("fenced", YesNo(v.fenced));
      victim.Add("replayed", YesNo(v.replayed));
      victim.Add("readers_ended", YesNo(v.readers_ended));
      victim.Add("replayer", v.replayer == MemberId{} ? "" : ToString(v.replayer));
    }
  }
}

void AddMounts(StatusTree& tree, const Parts& parts, const Mounts& mounts) {
  StatusTree& list = tree.Add("mounts", "[]");
  for (const MountPtr& m : mounts.list()) {
    StatusTree& line = list.Add("mount");
    line.Add("lockspace", m->lockspace);
    line.Add("mount", m->state == MountEntry::State::kJoining ? "" : std::to_string(m->mount.v));
    line.Add("member", ToString(m->member));
    line.Add("pid", std::to_string(m->pid));
    line.Add("state", m->state == MountEntry::State::kJoined && !m->status_fresh ? "mounted, does not answer" : StateName(m->state));
    line.Add("volume", RedactUrl(m->volume_url));
    line.Add("age_ms", std::to_string((parts.Now() - m->since).ms()));
    if (!m->status.tree.children.empty()) {
      StatusTree& details = line.Add("details");
      details.children = m->status.tree.children;
    }
  }
}

void AddWaits(StatusTree& tree, const Parts& parts, const Mounts& mounts) {
  StatusTree& list = tree.Add("waiting", "[]");
  for (const auto& wait : parts.waits->Show()) AddWait(list, wait);
  for (const MountPtr& m : mounts.list())
    for (dlm::Waiting wait : m->status.waits) {
      wait.what = m->lockspace + ": " + wait.what;
      AddWait(list, wait);
    }
}

}  // namespace

StatusTree BuildStatus(const StatusSources& sources) {
  const Parts& parts = *sources.parts;
  StatePtr state = parts.engine ? parts.engine->state() : nullptr;
  Picture picture = parts.engine ? parts.engine->picture() : Picture{};
  const Node* self = state ? FindNode(*state, parts.self->id) : nullptr;
  Life life = parts.engine ? parts.engine->self() : Life{};
  StatusTree tree("status");
  tree.Add("cluster", parts.config->cluster);
  tree.Add("node", parts.self->name);
  tree.Add("nodeid", std::to_string(parts.self->id.v));
  bool member = parts.engine && parts.engine->member();
  bool same_life = self && self->incarnation() == life.incarnation.v;
  tree.Add("state", member ? "member" : parts.over ? "evicted" : !self ? "starting" : same_life ? Lower(StateName(self->state())) : "joining");
  tree.Add("incarnation", std::to_string(life.incarnation.v));
  tree.Add("quorate", YesNo(picture.quorate));
  tree.Add("register_version", std::to_string(state ? state->version() : 0));
  tree.Add("config_version", std::to_string(parts.config->version));
  StatusTree& quorum = tree.Add("quorum");
  quorum.Add("votes", std::to_string(picture.votes_heard));
  quorum.Add("expected", std::to_string(picture.votes_total != 0 ? picture.votes_total : parts.config->TotalVotes()));
  quorum.Add("needed", std::to_string((picture.votes_total != 0 ? picture.votes_total : parts.config->TotalVotes()) / 2 + 1));
  quorum.Add("disk", parts.config->quorum_device.empty() ? "" : picture.disk_ok ? "ok" : "does not answer");
  quorum.Add("disk_votes", std::to_string(parts.config->quorum_votes));
  StatusTree& lease = tree.Add("lease");
  Instant deadline = parts.engine ? parts.engine->lease_deadline() : Instant{};
  bool valid = deadline > parts.Now();
  lease.Add("state", valid ? "valid" : "none: this node's mounts are suspended");
  lease.Add("remaining_ms", valid ? std::to_string((deadline - parts.Now()).ms()) : "");
  AddNodes(tree, parts, state, picture);
  AddLockspaces(tree, parts, state);
  StatusTree& fencing = tree.Add("fencing", "[]");
  sources.fencer->Show(fencing);
  AddMounts(tree, parts, *sources.mounts);
  AddWaits(tree, parts, *sources.mounts);
  StatusTree& notes = tree.Add("notes", "[]");
  for (const auto& note : sources.notes) notes.Add("note", note);
  return tree;
}

}  // namespace holdfast::cluster
