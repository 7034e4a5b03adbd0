#include "cluster/config.h"

#include <algorithm>

namespace holdfast::cluster {

std::string NodeConfig::Address() const {
  bool v6 = address.find(':') != std::string::npos && address.front() != '[';
  return "tcp://" + (v6 ? "[" + address + "]" : address) + ":" + std::to_string(port);
}

const NodeConfig* Config::FindNode(std::string_view name) const {
  for (const auto& n : nodes)
    if (n.name == name) return &n;
  return nullptr;
}

const NodeConfig* Config::FindNode(NodeId id) const {
  for (const auto& n : nodes)
    if (n.id == id) return &n;
  return nullptr;
}

const FenceDeviceConfig* Config::FindDevice(std::string_view name) const {
  for (const auto& d : devices)
    if (d.name == name) return &d;
  return nullptr;
}

uint32_t Config::TotalVotes() const {
  uint32_t votes = quorum_votes;
  for (const auto& n : nodes) votes += n.votes;
  return votes;
}

bool IsSecret(std::string_view attribute) {
  if (attribute.ends_with("_script")) return false;
  for (std::string_view word : {"passwd", "password", "secret", "community", "snmp_priv", "snmp_auth", "passphrase"})
    if (attribute.find(word) != std::string_view::npos) return true;
  return false;
}

std::string RedactUrl(const std::string& url) {
  size_t scheme = url.find("://");
  if (scheme == std::string::npos) return url;
  size_t slash = url.find('/', scheme + 3);
  size_t at = url.rfind('@', slash);
  if (at == std::string::npos || at < scheme + 3) return url;
  size_t percent = url.find('%', scheme + 3);
  if (percent == std::string::npos || percent > at) return url;
  return url.substr(0, percent) + "%***" + url.substr(at);
}

bool HasSecrets(const Config& config) {
  auto any = [](const Attributes& attributes) {
    return std::any_of(attributes.begin(), attributes.end(),
                       [](const auto& a) { return IsSecret(a.first) || RedactUrl(a.second) != a.second; });
  };
  if (RedactUrl(config.quorum_device) != config.quorum_device) return true;
  for (const auto& d : config.devices)
    if (any(d.attributes)) return true;
  for (const auto& n : config.nodes) {
    for (const auto& m : n.methods)
      for (const auto& d : m.devices)
        if (any(d.attributes)) return true;
    for (const auto& d : n.unfence)
      if (any(d.attributes)) return true;
  }
  return false;
}

namespace {

void AddAttributes(StatusTree& tree, const Attributes& attributes) {
  for (const auto& [name, value] : attributes) tree.Add(name, IsSecret(name) ? "***" : RedactUrl(value));
}

std::string Ms(Duration d) { return std::to_string(d.ms()) + " ms"; }

void ShowNode(StatusTree& nodes, const NodeConfig& n) {
  StatusTree& node = nodes.Add("node", n.name);
  node.Add("nodeid", std::to_string(n.id.v));
  node.Add("votes", std::to_string(n.votes));
  node.Add("address", n.Address());
  node.Add("public_key", n.public_key);
  for (const auto& m : n.methods) {
    StatusTree& method = node.Add("method", m.name);
    for (const auto& d : m.devices) AddAttributes(method.Add("device", d.name), d.attributes);
  }
  for (const auto& d : n.unfence) AddAttributes(node.Add("unfence", d.name), d.attributes);
}

}  // namespace

StatusTree ShowConfig(const Config& config) {
  StatusTree tree("config");
  tree.Add("cluster", config.cluster);
  tree.Add("config_version", std::to_string(config.version));
  tree.Add("sha256", config.hash);
  tree.Add("file", config.path);
  StatusTree& quorum = tree.Add("quorum");
  quorum.Add("votes", std::to_string(config.TotalVotes()));
  quorum.Add("needed", std::to_string(config.Quorum()));
  if (!config.quorum_device.empty()) {
    quorum.Add("device", RedactUrl(config.quorum_device));
    quorum.Add("device_votes", std::to_string(config.quorum_votes));
  }
  const Timing& t = config.timing;
  StatusTree& timing = tree.Add("timing");
  timing.Add("heartbeat", Ms(t.heartbeat));
  timing.Add("token", Ms(t.token));
  timing.Add("lease", Ms(t.lease));
  timing.Add("lease_margin", Ms(t.lease_margin));
  timing.Add("post_fail_delay", Ms(t.post_fail_delay));
  timing.Add("post_join_delay", t.post_join_forever ? "for ever" : Ms(t.post_join_delay));
  StatusTree& nodes = tree.Add("nodes");
  for (const auto& n : config.nodes) ShowNode(nodes, n);
  StatusTree& devices = tree.Add("fencedevices");
  for (const auto& d : config.devices) {
    StatusTree& device = devices.Add("fencedevice", d.name);
    device.Add("agent", d.agent);
    AddAttributes(device, d.attributes);
  }
  return tree;
}

}  // namespace holdfast::cluster
