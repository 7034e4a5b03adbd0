// Maximal cliques by Bron and Kerbosch with a pivot. See cliques.h.
#include "cluster/cliques.h"

namespace holdfast::cluster {

std::vector<NodeId> ToNodes(const NodeSet& set) {
  std::vector<NodeId> out;
  for (size_t i = 0; i < set.size(); ++i)
    if (set.test(i)) out.push_back(NodeId(static_cast<uint32_t>(i + 1)));
  return out;
}

std::string ToBytes(const NodeSet& set) {
  std::string out(32, '\0');
  for (size_t i = 0; i < set.size(); ++i)
    if (set.test(i)) out[i / 8] = static_cast<char>(static_cast<uint8_t>(out[i / 8]) | (1u << (i % 8)));
  return out;
}

NodeSet FromBytes(const std::string& bytes) {
  NodeSet set;
  if (bytes.size() != 32) return set;
  for (size_t i = 0; i < set.size(); ++i)
    if ((static_cast<uint8_t>(bytes[i / 8]) >> (i % 8)) & 1) set.set(i);
  return set;
}

namespace {

struct Search {
  const std::vector<NodeSet>& links;
  uint32_t steps;
  const std::function<void(const NodeSet&)>& found;

  void Run(const NodeSet& clique, NodeSet candidates, NodeSet excluded) {
    if (steps == 0) return;
    --steps;
    if (candidates.none()) {
      if (excluded.none()) found(clique);
      return;
    }
    // The pivot with the most links into the candidates leaves the fewest branches.
    size_t pivot = 256, best = 0;
    NodeSet both = candidates | excluded;
    for (size_t i = 0; i < 256; ++i) {
      if (!both.test(i)) continue;
      size_t count = (candidates & links[i]).count();
      if (pivot == 256 || count > best) {
        pivot = i;
        best = count;
      }
    }
    NodeSet branch = candidates & ~links[pivot];
    for (size_t i = 0; i < 256; ++i) {
      if (!branch.test(i)) continue;
      NodeSet with = clique;
      with.set(i);
      Run(with, candidates & links[i], excluded & links[i]);
      candidates.reset(i);
      excluded.set(i);
    }
  }
};

}  // namespace

void ForEachClique(const NodeSet& nodes, const std::vector<NodeSet>& links, uint32_t steps,
                   const std::function<void(const NodeSet&)>& found) {
  if (nodes.none()) return;
  Search search{links, steps, found};
  search.Run({}, nodes, {});
}

}  // namespace holdfast::cluster
