// HF_PROBE("name"): marks a rare path. In simulator builds each probe is a counter that exists from the program's start, so
// that a campaign can list those never reached; in every other build it is nothing.
#pragma once

#ifdef HF_MUTANTS
#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace holdfast {

uint64_t* RegisterProbe(const char* name);  // tests/whole/probes.cc

namespace probe_internal {
template <size_t N>
struct Name {
  char text[N];
  constexpr Name(const char (&from)[N]) { std::copy_n(from, N, text); }
};
template <Name name>
struct Site {
  static inline constinit const Name kName = name;
  static inline uint64_t* const counter = RegisterProbe(kName.text);
};
}  // namespace probe_internal

}  // namespace holdfast
#define HF_PROBE(name) ++*::holdfast::probe_internal::Site<name>::counter
#else
#define HF_PROBE(name) static_cast<void>(0)
#endif
