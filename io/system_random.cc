#include "io/system_random.h"

#include <sys/random.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/check.h"

namespace holdfast::io {

uint64_t SystemRandom::Next() {
  if (left_ == 0) {
    ssize_t n;
    do n = getrandom(pool_.data(), sizeof pool_, 0);
    while (n < 0 && errno == EINTR);
    HF_CHECK(n == static_cast<ssize_t>(sizeof pool_), "getrandom: %s", std::strerror(errno));
    left_ = pool_.size();
  }
  return std::exchange(pool_[--left_], 0);
}

}  // namespace holdfast::io
