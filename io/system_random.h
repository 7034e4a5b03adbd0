// SystemRandom: getrandom(2), a few hundred bytes at a time. Belongs to one thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/random.h"

namespace holdfast::io {

class SystemRandom final : public Random {
 public:
  uint64_t Next() override;

 private:
  std::array<uint64_t, 32> pool_{};
  size_t left_ = 0;
};

}  // namespace holdfast::io
