// Ballot: the order of attempts to change the register. (counter, node, start nonce): the nonce keeps a node that lost its
// memory from using one ballot twice. A ballot names at most one value.
#pragma once

#include <compare>
#include <cstdint>

#include "base/ids.h"

namespace holdfast::cluster {

struct Ballot {
  uint64_t counter = 0;  // 0: no ballot
  NodeId node;
  uint64_t nonce = 0;
  constexpr auto operator<=>(const Ballot&) const = default;
};

}  // namespace holdfast::cluster
