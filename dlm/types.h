// The words of the lock manager's interface: resource names, lock ids, flags, value blocks, range locks.
// Plain values without behaviour; used by the public interface (lockspace.h) and by the core alike.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/ids.h"
#include "dlm/modes.h"

namespace holdfast::dlm {

inline constexpr size_t kMaxNameBytes = 64;

// The name of a resource: 1..64 bytes of any value. The filesystem uses 1 byte type and 8 bytes number.
class ResourceName {
 public:
  ResourceName() = default;
  explicit ResourceName(std::string_view bytes) : bytes_(bytes) {}
  const std::string& bytes() const { return bytes_; }
  auto operator<=>(const ResourceName&) const = default;
  // The same on every member: directory(resource) depends on it.
  uint64_t Hash() const {
    uint64_t h = 14695981039346656037ull;
    for (unsigned char c : bytes_) h = (h ^ c) * 1099511628211ull;
    h ^= h >> 32;
    h *= 0x9e3779b97f4a7c15ull;
    return h ^ (h >> 29);
  }
  std::string ToString() const;  // printable: text as it is, other bytes as \xNN

 private:
  std::string bytes_;
};
struct ResourceNameHash {
  // Not noexcept on purpose: libstdc++ then keeps the hash with each node instead of computing it again along a chain.
  size_t operator()(const ResourceName& n) const { return n.Hash(); }
};

// Names a lock within one member's life; never reused.
using LockId = StrongId<struct LockIdTag, uint64_t>;

// What VMS and Linux dlm users expect, under those names.
enum class Flags : uint32_t {
  kNone = 0,
  kNoQueue = 1u << 0,      // fail with kWouldBlock instead of waiting
  kNoQueueBast = 1u << 1,  // with kNoQueue: still tell the holders in the way
  kTimeout = 1u << 2,      // options.timeout bounds the wait; decided by the master's answer alone
  kNoDlckWt = 1u << 3,     // not a victim of conversion deadlock detection: waits (somebody else must give way)
  kQueCvt = 1u << 4,       // a conversion that waits its turn behind other conversions even if it could be granted
  kExpedite = 1u << 5,     // NL only: granted whatever is queued
  kRecovery = 1u << 6,     // passes both gates and every waiting request; for those who replay
};
constexpr Flags operator|(Flags a, Flags b) { return Flags(uint32_t(a) | uint32_t(b)); }
constexpr Flags operator&(Flags a, Flags b) { return Flags(uint32_t(a) & uint32_t(b)); }
constexpr bool Has(Flags set, Flags flag) { return (uint32_t(set) & uint32_t(flag)) != 0; }

inline constexpr size_t kValueBytes = 64;
using ValueBytes = std::array<std::byte, kValueBytes>;

// The lock value block as it was at the last grant to this lock. `number` grows with each write.
struct ValueBlock {
  ValueBytes bytes{};
  uint64_t number = 0;
  bool valid = false;  // false: never written, or its last writer died with it
  bool operator==(const ValueBlock&) const = default;
};

// ---- range locks ------------------------------------------------------------------------------------------------
// POSIX (fcntl) and OFD locks exclude one another; flock has a space of its own.
enum class RangeSpace : uint8_t { kFcntl = 0, kFlock = 1 };
enum class RangeType : uint8_t { kUnlock = 0, kShared = 1, kExclusive = 2 };

// Who holds a range on this member. Ranges of one (key, ofd) replace each other; those of different owners conflict.
struct RangeOwner {
  uint64_t key = 0;
  bool ofd = false;
  auto operator<=>(const RangeOwner&) const = default;
};

struct RangeRequest {
  ResourceName name;
  RangeSpace space = RangeSpace::kFcntl;
  RangeOwner owner;
  uint64_t handle = 0;  // the open file through which it was set; RangeDropHandle drops by it
  uint32_t pid = 0;     // for F_GETLK
  uint64_t start = 0;
  uint64_t end = UINT64_MAX;  // inclusive; UINT64_MAX: to the end of the file. REQUIRES start <= end
  RangeType type = RangeType::kShared;
  bool wait = false;    // false: kWouldBlock when it conflicts
  uint64_t token = 0;   // chosen by the caller; 0: cannot be cancelled. Unique among the waiting
};

struct RangeConflict {
  MemberId member;
  RangeOwner owner;
  uint32_t pid = 0;
  uint64_t start = 0;
  uint64_t end = 0;  // inclusive
  RangeType type = RangeType::kUnlock;
  bool operator==(const RangeConflict&) const = default;
};

}  // namespace holdfast::dlm
