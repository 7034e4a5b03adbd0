// Result<T>: a value or an Error. No exceptions cross a room; errno exists only in the FUSE glue and in io/.
// Bad bytes from disk or wire are Errors; a broken invariant of our own is an HF_CHECK (check.h).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "base/check.h"

namespace holdfast {

// Only errors that somebody can react to.
enum class Errc : uint16_t {
  kOk = 0,
  kIo,             // the device failed the request
  kTimeout,        // nobody answered in time; the outcome is unknown
  kCancelled,      // the awaited thing was cancelled
  kCorrupt,        // bytes that do not validate (checksum, magic, range)
  kInvalid,        // the caller's or the user's argument is wrong
  kUnsupported,    // a feature, option or command that this build or device does not have
  kNotFound,
  kExists,
  kPermission,
  kNoSpace,
  kBusy,           // somebody else holds it, or it is in use
  kWouldBlock,     // NOQUEUE: the lock is not free
  kDeadlock,       // waiting would close a cycle
  kStale,          // the object named is not the one that is there now (ESTALE)
  kNotDirectory,
  kIsDirectory,
  kNotEmpty,
  kNameTooLong,
  kTooManyLinks,
  kCrossDevice,
  kLoop,
  kRange,          // a buffer of the caller is too small, or a number out of range
  kNoData,         // the attribute does not exist
  kReadOnly,
  kFileTooBig,
  kNoQuorum,       // the cluster is not quorate
  kFenced,         // this node or mount has been evicted
  kConflict,       // reservation conflict, or a conditional change that did not match
  kDisconnected,   // the session or peer is gone
  kExhausted,      // memory, descriptors or a bounded queue
  kInterrupted,
};

std::string_view ErrcName(Errc code);

struct Error {
  Errc code = Errc::kOk;
  std::string message;  // one line for a person; says what to do where that is known

  Error(Errc c) : code(c) {}  // NOLINT: an Errc is an Error without words
  Error(Errc c, std::string m) : code(c), message(std::move(m)) {}
  std::string ToString() const;
};

template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : v_(std::in_place_index<0>, std::move(value)) {}  // NOLINT
  Result(Error error) : v_(std::in_place_index<1>, std::move(error)) {}  // NOLINT
  Result(Errc code) : v_(std::in_place_index<1>, Error(code)) {}  // NOLINT

  bool ok() const { return v_.index() == 0; }
  explicit operator bool() const { return ok(); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(value()); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  T& value() & {
    HF_CHECK(ok(), "value() of an error: %s", error().ToString().c_str());
    return *std::get_if<0>(&v_);
  }
  const T& value() const& {
    HF_CHECK(ok(), "value() of an error: %s", error().ToString().c_str());
    return *std::get_if<0>(&v_);
  }
  T&& value() && { return std::move(static_cast<Result&>(*this).value()); }
  // REQUIRES: !ok()
  const Error& error() const { return *std::get_if<1>(&v_); }
  Errc code() const { return ok() ? Errc::kOk : error().code; }

 private:
  std::variant<T, Error> v_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)) {}  // NOLINT
  Result(Errc code) {                                 // NOLINT
    if (code != Errc::kOk) error_.emplace(code);
  }

  bool ok() const { return !error_.has_value(); }
  explicit operator bool() const { return ok(); }
  const Error& error() const { return *error_; }
  Errc code() const { return ok() ? Errc::kOk : error_->code; }

 private:
  std::optional<Error> error_;
};

using Status = Result<void>;

}  // namespace holdfast

// Return the error of `expr` from a plain function / a coroutine. The result is evaluated once.
#define HF_TRY(expr)                                   \
  do {                                                 \
    if (auto hf_r_ = (expr); !hf_r_.ok()) return hf_r_.error(); \
  } while (0)
#define HF_CO_TRY(expr)                                   \
  do {                                                    \
    auto hf_r_ = (expr);                                  \
    if (!hf_r_.ok()) co_return hf_r_.error();             \
  } while (0)
