#include "cluster/daemon/views.h"

#include <algorithm>

namespace holdfast::cluster {

dlm::View MakeView(const ClusterState& state, const std::string& lockspace, const Config& config) {
  LockspaceView in = ViewOf(state, lockspace);
  dlm::View view;
  view.version = RegisterVersion(state.version());
  view.generation = in.generation;
  for (const auto& m : in.members) {
    Endpoint endpoint = m.endpoint;
    endpoint.node = m.id.node;
    if (const NodeConfig* node = config.FindNode(m.id.node)) endpoint.public_key = node->public_key;
    view.members.push_back({m.id, m.mount, endpoint});
  }
  for (const auto& v : in.victims) view.victims.push_back({v.id, v.mount, v.fenced, v.replayed, v.readers_ended, v.replayer});
  auto by_id = [](const auto& a, const auto& b) { return a.id < b.id; };
  std::sort(view.members.begin(), view.members.end(), by_id);
  std::sort(view.victims.begin(), view.victims.end(), by_id);
  return view;
}

bool SameView(const dlm::View& a, const dlm::View& b) {
  return a.generation == b.generation && a.members == b.members && a.victims == b.victims;
}

}  // namespace holdfast::cluster
