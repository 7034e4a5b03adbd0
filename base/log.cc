#include "base/log.h"

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <map>
#include <memory>
#include <mutex>

namespace holdfast {
namespace {

struct State {
  std::mutex mutex;  // levels change from the control socket; the pool's threads log too
  LogLevel level = LogLevel::kInfo;
  std::map<std::string, LogLevel, std::less<>> scopes;
  std::function<void(LogLevel, const std::string&)> sink;
  std::shared_ptr<spdlog::logger> logger;
};

State& TheState() {
  static State* state = new State;  // never destroyed: threads may log at exit
  return *state;
}

spdlog::logger& Logger(State& s) {
  if (!s.logger) {
    s.logger = std::make_shared<spdlog::logger>("holdfast", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    s.logger->set_level(spdlog::level::trace);
    s.logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e %L %v");
    s.logger->flush_on(spdlog::level::trace);
  }
  return *s.logger;
}

spdlog::level::level_enum ToSpdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kTrace: return spdlog::level::trace;
    case LogLevel::kDebug: return spdlog::level::debug;
    case LogLevel::kInfo: return spdlog::level::info;
    case LogLevel::kWarn: return spdlog::level::warn;
    case LogLevel::kError: return spdlog::level::err;
    case LogLevel::kOff: return spdlog::level::off;
  }
  return spdlog::level::off;
}

void AppendValue(std::string& line, std::string_view value) {
  bool plain = !value.empty() && value.find_first_of(" \"=\n\t\\") == std::string_view::npos;
  if (plain) {
    line += value;
    return;
  }
  line += '"';
  for (char c : value) {
    if (c == '"' || c == '\\') line += '\\';
    line += c == '\n' ? ' ' : c;
  }
  line += '"';
}

}  // namespace

bool LogEnabled(LogLevel level, std::string_view scope) {
  State& s = TheState();
  std::lock_guard lock(s.mutex);
  auto it = s.scopes.find(scope);
  return level >= (it == s.scopes.end() ? s.level : it->second);
}

void Log(LogLevel level, std::string_view scope, std::string_view event, std::initializer_list<LogField> fields) {
  if (!LogEnabled(level, scope)) return;
  std::string line(scope);
  line += ' ';
  line += event;
  for (const LogField& f : fields) {
    line += ' ';
    line += f.key;
    line += '=';
    AppendValue(line, f.value);
  }
  State& s = TheState();
  std::lock_guard lock(s.mutex);
  if (s.sink) {
    s.sink(level, line);
  } else {
    Logger(s).log(ToSpdlog(level), "{}", line);
  }
}

void SetLogLevel(LogLevel level) {
  State& s = TheState();
  std::lock_guard lock(s.mutex);
  s.level = level;
}

void SetLogLevel(std::string_view scope, LogLevel level) {
  State& s = TheState();
  std::lock_guard lock(s.mutex);
  s.scopes[std::string(scope)] = level;
}

void SetLogSink(std::function<void(LogLevel, const std::string& line)> sink) {
  State& s = TheState();
  std::lock_guard lock(s.mutex);
  s.sink = std::move(sink);
}

void LogToFile(const std::string& path) {
  State& s = TheState();
  std::lock_guard lock(s.mutex);
  s.logger = std::make_shared<spdlog::logger>("holdfast", std::make_shared<spdlog::sinks::basic_file_sink_mt>(path));
  s.logger->set_level(spdlog::level::trace);
  s.logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e %L %v");
  s.logger->flush_on(spdlog::level::trace);
}

}  // namespace holdfast
