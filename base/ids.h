// Strong identifiers: every number that names something is its own type, so that a block number cannot be
// passed where an inode number is wanted. Ids are ordered and hashable; they have no arithmetic.
// docs/glossary.md says what each word means.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <string>

namespace holdfast {

template <class Tag, class Rep>
struct StrongId {
  using RepType = Rep;
  Rep v{};

  constexpr StrongId() = default;
  constexpr explicit StrongId(Rep value) : v(value) {}
  constexpr auto operator<=>(const StrongId&) const = default;
};

// A node of cluster.conf, 1..256. 0 means nobody. Its slot in the quorum area is node - 1.
using NodeId = StrongId<struct NodeIdTag, uint32_t>;
// One life of a node (a counter kept in the register); never reused.
using Incarnation = StrongId<struct IncarnationTag, uint64_t>;
// Counts the changes of one lockspace's members.
using Generation = StrongId<struct GenerationTag, uint64_t>;
// Counts the changes of the cluster register.
using RegisterVersion = StrongId<struct RegisterVersionTag, uint64_t>;
// Volume block number in 4 KiB units; 0 is never a valid target of a pointer.
using BlockNo = StrongId<struct BlockNoTag, uint64_t>;
// Inode number = number of its block.
using InodeNo = StrongId<struct InodeNoTag, uint64_t>;
// A mount's number in its lockspace = number of its journal.
using MountNo = StrongId<struct MountNoTag, uint32_t>;

// One member of a lockspace. Compared as a whole, never by node id alone: the same node may come back.
struct MemberId {
  NodeId node;
  Incarnation incarnation;
  uint64_t nonce = 0;  // random, one per mount (or per process that joined)

  constexpr auto operator<=>(const MemberId&) const = default;
};

std::string ToString(const MemberId& member);  // "n2.5/1a2b3c4d"

}  // namespace holdfast

template <class Tag, class Rep>
struct std::hash<holdfast::StrongId<Tag, Rep>> {
  size_t operator()(const holdfast::StrongId<Tag, Rep>& id) const noexcept { return std::hash<Rep>{}(id.v); }
};

template <>
struct std::hash<holdfast::MemberId> {
  size_t operator()(const holdfast::MemberId& m) const noexcept {
    return std::hash<uint64_t>{}(m.nonce ^ (m.incarnation.v << 16) ^ (uint64_t{m.node.v} << 48));
  }
};
