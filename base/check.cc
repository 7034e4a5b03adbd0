#include "base/check.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>

namespace holdfast {

void CheckFailed(const char* condition, const char* file, int line, const char* format, ...) {
  char message[2048];
  va_list args;
  va_start(args, format);
  std::vsnprintf(message, sizeof message, format, args);
  va_end(args);
  std::fprintf(stderr, "holdfast: internal error at %s:%d: %s: %s\n", file, line, condition, message);
  std::fflush(stderr);
  std::abort();
}

}  // namespace holdfast
