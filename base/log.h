// Log: one line per event: time, level, scope, event, key=value pairs. Levels change at run time per scope.
// Production writes to standard error or a file through spdlog's asynchronous queue (never syslog from the reactor);
// tests and the simulator install their own sink.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>

#include "base/ids.h"

namespace holdfast {

enum class LogLevel : uint8_t { kTrace, kDebug, kInfo, kWarn, kError, kOff };

// One key=value pair; values with spaces are quoted in the output.
struct LogField {
  std::string_view key;
  std::string value;

  LogField(std::string_view k, std::string_view v) : key(k), value(v) {}
  LogField(std::string_view k, const char* v) : key(k), value(v) {}
  LogField(std::string_view k, std::string v) : key(k), value(std::move(v)) {}
  LogField(std::string_view k, bool v) : key(k), value(v ? "yes" : "no") {}
  template <class T>
    requires(std::is_integral_v<T> || std::is_floating_point_v<T>)
  LogField(std::string_view k, T v) : key(k), value(std::to_string(v)) {}
  template <class Tag, class Rep>
  LogField(std::string_view k, StrongId<Tag, Rep> v) : key(k), value(std::to_string(v.v)) {}
  LogField(std::string_view k, const MemberId& v) : key(k), value(ToString(v)) {}
};

// scope: "dlm", "register", "journal", ...; event: "granted", "replayed" (snake case, a fact).
void Log(LogLevel level, std::string_view scope, std::string_view event, std::initializer_list<LogField> fields = {});
bool LogEnabled(LogLevel level, std::string_view scope);

void SetLogLevel(LogLevel level);                          // every scope without a level of its own
void SetLogLevel(std::string_view scope, LogLevel level);
// Replaces the sink; the line has no newline. nullptr restores standard error.
void SetLogSink(std::function<void(LogLevel, const std::string& line)> sink);
// Appends to a file instead of standard error. Error: kIo.
void LogToFile(const std::string& path);

}  // namespace holdfast

// The fields are built only when the level is on.
#define HF_LOG(level, scope, event, ...)                                             \
  do {                                                                               \
    if (::holdfast::LogEnabled(level, scope)) ::holdfast::Log(level, scope, event, ##__VA_ARGS__); \
  } while (0)
