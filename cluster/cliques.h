// Cliques: after a split, the groups in which everybody hears everybody. The lock manager needs a full mesh, so only such
// groups can go on. Pure. Numbers are node - 1.
#pragma once

#include <bitset>
#include <cstdint>
#include <functional>
#include <vector>

#include "base/ids.h"

namespace holdfast::cluster {

using NodeSet = std::bitset<256>;

inline bool Has(const NodeSet& set, NodeId node) { return node.v >= 1 && node.v <= 256 && set.test(node.v - 1); }
inline void Put(NodeSet* set, NodeId node) {
  if (node.v >= 1 && node.v <= 256) set->set(node.v - 1);
}
std::vector<NodeId> ToNodes(const NodeSet& set);
std::string ToBytes(const NodeSet& set);       // 32 bytes, as on wire and disk
NodeSet FromBytes(const std::string& bytes);   // anything malformed: empty

// Calls `found` for each maximal clique of `nodes`, in an order that depends on the arguments alone, until `steps` are
// used up (real clusters have a handful; the bound keeps an odd mesh of 256 nodes from taking for ever).
void ForEachClique(const NodeSet& nodes, const std::vector<NodeSet>& links, uint32_t steps,
                   const std::function<void(const NodeSet&)>& found);

}  // namespace holdfast::cluster
