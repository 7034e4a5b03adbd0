// Random: the only source of randomness of core code. Production: getrandom; simulation: the seed.
#pragma once

#include <cstdint>

namespace holdfast {

class Random {
 public:
  virtual ~Random() = default;
  virtual uint64_t Next() = 0;
  // Uniform enough for jitter and choices, in [0, bound). REQUIRES: bound > 0.
  uint64_t Below(uint64_t bound) { return Next() % bound; }
};

}  // namespace holdfast
