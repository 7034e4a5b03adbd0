// LockMode: what a mount holds of a cached lock. CW (direct I/O by several nodes) is a later issue; it will sit
// between PR and EX in no order, so compare with Covers(), never with <.
#pragma once

#include <cstdint>

namespace holdfast::fs {

enum class LockMode : uint8_t { kNone = 0, kPr = 1, kEx = 2 };

// Does holding `held` allow what `wanted` allows?
constexpr bool Covers(LockMode held, LockMode wanted) {
  return wanted == LockMode::kNone || held == LockMode::kEx || held == wanted;
}
// May two members (or two local guards) have these at the same time?
constexpr bool Share(LockMode a, LockMode b) {
  return a == LockMode::kNone || b == LockMode::kNone || (a == LockMode::kPr && b == LockMode::kPr);
}
constexpr const char* LockModeName(LockMode mode) {
  return mode == LockMode::kEx ? "EX" : mode == LockMode::kPr ? "PR" : "NL";
}

}  // namespace holdfast::fs
