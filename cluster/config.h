// Config: cluster.conf as plain structs. Loaded with libxml2 (no network, no external entities, bounded size),
// checked against schema/cluster.rng (RELAX NG): unknown items warn with their line and are skipped, malformed known
// items are errors with their line, known items that we do not act on yet are notices. docs/operations/cluster.conf.md.
// Daemons and tools load it once, at start; blocking file reads.
// Secrets (passwords in device attributes and URLs) stay in the attributes; everything that is shown goes through
// Redacted() or ShowConfig().
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "base/result.h"
#include "base/status_tree.h"

namespace holdfast::cluster {

using Attributes = std::vector<std::pair<std::string, std::string>>;  // in the order of the file

struct DeviceUse {  // <device name="ref" …>: a fence device as one node's method uses it
  std::string name;
  Attributes attributes;
  int line = 0;
};

struct FenceMethodConfig {
  std::string name;
  std::vector<DeviceUse> devices;  // all must succeed, in order
};

struct FenceDeviceConfig {
  std::string name;
  std::string agent;
  Attributes attributes;
  int line = 0;
};

struct NodeConfig {
  std::string name;
  NodeId id;
  uint32_t votes = 1;
  std::string address;     // host or IP address; the node's name where none is given
  uint16_t port = 5405;
  std::string public_key;  // Z85; empty: not given yet (refused by holdfastd)
  std::vector<FenceMethodConfig> methods;
  std::vector<DeviceUse> unfence;
  int line = 0;

  std::string Address() const;  // "tcp://host:port"
};

struct Timing {
  Duration heartbeat = Milliseconds(200);
  Duration token = Milliseconds(1000);
  Duration lease = Milliseconds(2000);
  Duration lease_margin = Milliseconds(500);
  Duration post_fail_delay;
  Duration post_join_delay = Seconds(6);
  bool post_join_forever = false;  // post_join_delay="-1"
  Duration shutdown_timeout = Seconds(5);

  // Heard on the network, silent on the disk while most are not, for so long: evicted.
  Duration DiskToken() const { return std::max(Seconds(10), token * 2); }
  // A command of holdfastd's own that the array has lost must not cost the node its membership: issued again well before.
  Duration DiskCommandTimeout() const { return DiskToken() / 3; }
};

struct LoggingConfig {
  bool debug = false;
  std::string logfile;  // empty: standard error
};

struct Config {
  std::string path;
  std::string hash;  // SHA-256 of the file, hexadecimal
  std::string cluster;
  uint64_t version = 0;
  std::vector<NodeConfig> nodes;  // ordered by id
  std::vector<FenceDeviceConfig> devices;
  Timing timing;
  LoggingConfig logging;
  bool two_node = false;
  std::optional<uint32_t> expected_votes;
  std::string quorum_device;  // path or URL; empty: the disk is no acceptor
  uint32_t quorum_votes = 0;  // of the disk
  bool dlm_debug = false;

  const NodeConfig* FindNode(std::string_view name) const;
  const NodeConfig* FindNode(NodeId id) const;
  const FenceDeviceConfig* FindDevice(std::string_view name) const;
  uint32_t TotalVotes() const;  // nodes and disk
  uint32_t Quorum() const { return TotalVotes() / 2 + 1; }
};

struct Remark {
  enum class Kind { kUnknown, kUnused, kAdvice };
  Kind kind = Kind::kAdvice;
  int line = 0;
  std::string text;
};

struct LoadedConfig {
  Config config;
  std::vector<Remark> remarks;  // in the order of lines
};

inline constexpr size_t kConfigBytesMax = 4u << 20;

// Errors: kNotFound, kPermission (a file with secrets that others may read), kInvalid; messages "cluster.conf:12: …",
// all errors of the file joined by newlines.
Result<LoadedConfig> LoadConfig(const std::string& path);
// The same from memory; `path` is only for messages.
Result<LoadedConfig> ParseConfig(std::string_view text, const std::string& path);

bool IsSecret(std::string_view attribute);  // passwd, snmp_priv_passwd, …; not passwd_script
bool HasSecrets(const Config& config);
std::string RedactUrl(const std::string& url);  // iscsi://user%password@… without the password
StatusTree ShowConfig(const Config& config);

}  // namespace holdfast::cluster
