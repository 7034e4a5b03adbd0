// HF_CHECK: an invariant of our own. On in release builds too: a dead node is fenced and replayed, which is safe;
// one that goes on with wrong state is not. Prints the condition, the place and a message, then aborts.
#pragma once

namespace holdfast {
[[noreturn]] void CheckFailed(const char* condition, const char* file, int line, const char* format, ...)
    __attribute__((format(printf, 4, 5)));
}  // namespace holdfast

// HF_CHECK(condition, "printf format", ...): the message is not optional; say what the object was.
#define HF_CHECK(condition, ...)                                                    \
  do {                                                                           \
    if (!(condition)) [[unlikely]]                                               \
      ::holdfast::CheckFailed(#condition, __FILE__, __LINE__, __VA_ARGS__);      \
  } while (0)
