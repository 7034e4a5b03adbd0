// ClusterClient: a mount's line to its node's holdfastd: dlm::ClusterLink over the control socket. The connection is
// part of the membership: when it ends without Leave the mount is a victim, and the mount withdraws.
// Owner: mount.holdfast's assembly. Threading: one executor. docs/protocols/control.md.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/control_line.h"
#include "base/result.h"
#include "dlm/cluster_link.h"

namespace holdfast::io {
class Reactor;
}

namespace holdfast::cluster {

// What a process of this node needs besides the line itself, read from cluster.conf and the state directory.
struct NodeIdentity {
  std::string cluster;
  NodeId node;
  std::string node_name;
  std::string address;      // of cluster.conf, without port: where to bind
  std::string public_key;   // Z85
  std::string secret_key;   // Z85; never logged
  // The keys of all nodes, for the transport's ZAP: (node, Z85 public key).
  std::vector<std::pair<NodeId, std::string>> peers;
};

// Blocking file reads: for the start of a program. node_name may be empty when one configured node has this key.
Result<NodeIdentity> LoadIdentity(const std::string& config_path, const std::string& state_dir,
                                  const std::string& node_name);

struct ClusterClientOptions {
  std::string run_dir;  // where holdfastd.sock is
};

// The same over any line: production's is the socket, the simulator has its own. The handler outlives the client.
struct ClusterClientSeams {
  std::function<Result<std::shared_ptr<ControlLine>>()> connect;
  std::function<Result<const LeasePage*>(const std::string& path)> map_lease;
};
std::unique_ptr<dlm::ClusterLink> MakeClusterClient(ClusterClientSeams seams, dlm::ClusterLinkHandler& handler);

// The handler outlives the client. Nothing is connected before Join; a client joins once.
std::unique_ptr<dlm::ClusterLink> MakeClusterClient(io::Reactor& reactor, ClusterClientOptions options,
                                                    dlm::ClusterLinkHandler& handler);

}  // namespace holdfast::cluster
