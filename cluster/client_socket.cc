// A mount's line to holdfastd in production: the control socket, the mapped lease page, and what is read at start.
#include "cluster/client.h"
#include "cluster/config.h"
#include "cluster/keys.h"
#include "cluster/lease_page.h"
#include "io/control_socket.h"
#include "io/reactor.h"

namespace holdfast::cluster {
namespace {

Result<std::shared_ptr<ControlLine>> Connect(io::Reactor& reactor, const std::string& run_dir) {
  std::string path = run_dir + "/holdfastd.sock";
  auto connection = io::ConnectControl(reactor, path);
  if (connection.ok()) return std::shared_ptr<ControlLine>(std::move(*connection));
  return Error(connection.code() == Errc::kPermission ? Errc::kPermission : Errc::kDisconnected,
               "holdfastd does not answer at " + path + " (" + connection.error().message + ")");
}

}  // namespace

std::unique_ptr<dlm::ClusterLink> MakeClusterClient(io::Reactor& reactor, ClusterClientOptions options,
                                                    dlm::ClusterLinkHandler& handler) {
  ClusterClientSeams seams;
  seams.connect = [&reactor, run_dir = options.run_dir] { return Connect(reactor, run_dir); };
  seams.map_lease = [](const std::string& path) { return MapLeasePage(path); };
  return MakeClusterClient(std::move(seams), handler);
}

Result<NodeIdentity> LoadIdentity(const std::string& config_path, const std::string& state_dir, const std::string& node_name) {
  auto loaded = LoadConfig(config_path);
  if (!loaded.ok()) return loaded.error();
  auto keys = LoadKeys(state_dir);
  if (!keys.ok()) return keys.error();
  const Config& config = loaded->config;
  const NodeConfig* self = nullptr;
  for (const auto& n : config.nodes)
    if (node_name.empty() ? n.public_key == keys->public_key : n.name == node_name) self = &n;
  if (!self)
    return Error(Errc::kNotFound, node_name.empty() ? "no node of " + config_path + " has this machine's key; give --node NAME"
                                                    : "node '" + node_name + "' is not in " + config_path);
  if (self->public_key != keys->public_key)
    return Error(Errc::kInvalid, "the key in " + state_dir + " is not the public_key of node '" + self->name + "' in " + config_path);
  NodeIdentity identity{config.cluster, self->id, self->name, self->address, keys->public_key, keys->secret_key, {}};
  for (const auto& n : config.nodes)
    if (!n.public_key.empty()) identity.peers.emplace_back(n.id, n.public_key);
  return identity;
}

}  // namespace holdfast::cluster
