// Clock: the only way core code learns the time. Instant is CLOCK_BOOTTIME in nanoseconds (it goes on while a
// machine sleeps, so a lease ends then too); WallTime is for timestamps that people and inodes see, never for
// protocol decisions.
#pragma once

#include <compare>
#include <cstdint>

namespace holdfast {

struct Duration {
  int64_t ns = 0;
  constexpr auto operator<=>(const Duration&) const = default;
  constexpr Duration operator+(Duration o) const { return {ns + o.ns}; }
  constexpr Duration operator-(Duration o) const { return {ns - o.ns}; }
  constexpr Duration operator*(int64_t k) const { return {ns * k}; }
  constexpr Duration operator/(int64_t k) const { return {ns / k}; }
  constexpr int64_t ms() const { return ns / 1'000'000; }
};
constexpr Duration Nanoseconds(int64_t n) { return {n}; }
constexpr Duration Microseconds(int64_t n) { return {n * 1'000}; }
constexpr Duration Milliseconds(int64_t n) { return {n * 1'000'000}; }
constexpr Duration Seconds(int64_t n) { return {n * 1'000'000'000}; }

struct Instant {
  uint64_t ns = 0;
  constexpr auto operator<=>(const Instant&) const = default;
  constexpr Instant operator+(Duration d) const { return {ns + static_cast<uint64_t>(d.ns)}; }
  constexpr Instant operator-(Duration d) const { return {ns - static_cast<uint64_t>(d.ns)}; }
  constexpr Duration operator-(Instant o) const { return {static_cast<int64_t>(ns - o.ns)}; }
};

struct WallTime {
  int64_t seconds = 0;       // since 1970, UTC
  uint32_t nanoseconds = 0;  // 0..999,999,999
  constexpr auto operator<=>(const WallTime&) const = default;
};

class Clock {
 public:
  virtual ~Clock() = default;
  virtual Instant Now() const = 0;
  virtual WallTime Wall() const = 0;
};

}  // namespace holdfast
