// Lock modes and their tables: NL CR CW PR PW EX of VMS and Linux fs/dlm, under the same names.
// Everything that a mode decides is a constexpr table or function here, tested over all pairs (tests/dlm/modes_test.cc).
// kIV ("invalid") is the mode of a lock that is not granted and the absence of a requested mode. docs/protocols/dlm.md
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace holdfast::dlm {

enum class Mode : int8_t { kIV = -1, kNL = 0, kCR = 1, kCW = 2, kPR = 3, kPW = 4, kEX = 5 };

inline constexpr int kModes = 6;
inline constexpr std::array<Mode, kModes> kAllModes = {Mode::kNL, Mode::kCR, Mode::kCW,
                                                       Mode::kPR, Mode::kPW, Mode::kEX};

namespace modes_internal {
//                                                            NL     CR     CW     PR     PW     EX
inline constexpr bool kCompatible[kModes][kModes] = {/* NL */ {true, true, true, true, true, true},
                                                     /* CR */ {true, true, true, true, true, false},
                                                     /* CW */ {true, true, true, false, false, false},
                                                     /* PR */ {true, true, false, true, false, false},
                                                     /* PW */ {true, true, false, false, false, false},
                                                     /* EX */ {true, false, false, false, false, false}};
}  // namespace modes_internal

constexpr bool IsMode(int value) { return value >= 0 && value < kModes; }

// May two different owners hold a and b at the same time? kIV goes with everything.
constexpr bool Compatible(Mode a, Mode b) {
  if (a == Mode::kIV || b == Mode::kIV) return true;
  return modes_internal::kCompatible[static_cast<int>(a)][static_cast<int>(b)];
}

// Does holding `have` give every right that `want` gives? PR and CW do not cover each other.
// Defined by the table: have covers want when have excludes everything that want excludes.
constexpr bool Covers(Mode have, Mode want) {
  if (want == Mode::kIV) return true;
  if (have == Mode::kIV) return false;
  for (Mode other : kAllModes)
    if (!Compatible(want, other) && Compatible(have, other)) return false;
  return static_cast<int>(have) >= static_cast<int>(want);
}

// What a member certainly still has while a change from a to b is under way: the greatest mode covered by both.
// NL for the pair PR, CW (a conversion between them is neither up nor down).
constexpr Mode Lesser(Mode a, Mode b) {
  if (a == Mode::kIV || b == Mode::kIV) return Mode::kIV;
  Mode best = Mode::kNL;
  for (Mode m : kAllModes)
    if (Covers(a, m) && Covers(b, m)) best = m;
  return best;
}

constexpr bool IsDownConvert(Mode granted, Mode requested) { return Covers(granted, requested); }

// The freeze rule: a dead holder of these may have changed what the resource protects.
constexpr bool MayWrite(Mode m) { return m == Mode::kCW || m == Mode::kPW || m == Mode::kEX; }
// A survivor holding one of these proves that no dead member was writing.
constexpr bool ProvesNoWriter(Mode m) { return m == Mode::kPR || m == Mode::kPW || m == Mode::kEX; }
// The second gate: a dead holder of these may have caches that still serve reads.
constexpr bool MayCacheReads(Mode m) { return m == Mode::kPR || m == Mode::kPW || m == Mode::kEX; }
// Value blocks are written on a downgrade from these.
constexpr bool WritesValue(Mode m) { return m == Mode::kPW || m == Mode::kEX; }
// A copy of the value block read under one of these is as new as any (nobody else could write meanwhile).
constexpr bool KeepsValue(Mode m) { return m == Mode::kCW || m == Mode::kPR || m == Mode::kPW || m == Mode::kEX; }

constexpr std::string_view ModeName(Mode m) {
  constexpr std::string_view names[] = {"IV", "NL", "CR", "CW", "PR", "PW", "EX"};
  return names[static_cast<int>(m) + 1];
}

}  // namespace holdfast::dlm
