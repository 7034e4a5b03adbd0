// Fuzzer: cluster.conf, through libxml2, the schema and the reader; what is accepted can be shown, an error names a line.
#include "base/check.h"
#include "cluster/config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace holdfast::cluster;
  std::string_view text(reinterpret_cast<const char*>(data), size);
  auto loaded = ParseConfig(text, "cluster.conf");
  if (!loaded.ok()) {
    HF_CHECK(loaded.error().message.starts_with("cluster.conf:"), "an error without a place: %s", loaded.error().message.c_str());
    return 0;
  }
  const Config& c = loaded->config;
  HF_CHECK(!c.nodes.empty() && !c.cluster.empty() && c.TotalVotes() > 0 && c.Quorum() <= c.TotalVotes(), "an accepted file without nodes or votes");
  for (const NodeConfig& n : c.nodes) HF_CHECK(n.id.v >= 1 && n.id.v <= 256 && n.port != 0, "node %u", n.id.v);
  (void)ShowConfig(c);
  (void)HasSecrets(c);
  return 0;
}
