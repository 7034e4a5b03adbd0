// Names and redaction of fence/types.h.

#include "fence/types.h"

#include <algorithm>
#include <cctype>

namespace holdfast::fence {

std::string_view ProofName(ProofKind kind) {
  switch (kind) {
    case ProofKind::kPower: return "power";
    case ProofKind::kPort: return "port";
    case ProofKind::kStorage: return "storage";
    case ProofKind::kLocal: return "local";
    case ProofKind::kManual: return "manual";
    case ProofKind::kRebooted: return "rebooted";
  }
  return "?";
}

std::string_view OutcomeName(StepOutcome outcome) {
  switch (outcome) {
    case StepOutcome::kStarted: return "started";
    case StepOutcome::kSucceeded: return "succeeded";
    case StepOutcome::kFailed: return "failed";
    case StepOutcome::kTimedOut: return "timed out";
    case StepOutcome::kSkipped: return "skipped";
    case StepOutcome::kCancelled: return "cancelled";
  }
  return "?";
}

bool IsSecret(const std::string& name) {
  static constexpr std::string_view kParts[] = {"passw", "secret", "community", "token", "key", "credential"};
  if (name == "passwd_script" || name == "password_script" || name == "identity_file") return false;  // names of files
  std::string lower;
  for (char c : name) lower += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return std::any_of(std::begin(kParts), std::end(kParts), [&](std::string_view part) { return lower.find(part) != std::string::npos; });
}

std::map<std::string, std::string> Redacted(const std::map<std::string, std::string>& attributes) {
  std::map<std::string, std::string> out;
  for (const auto& [name, value] : attributes) out[name] = IsSecret(name) ? "***" : RedactedUrl(value);
  return out;
}

std::string RedactedUrl(const std::string& url) {
  size_t host = url.find("://");
  if (host == std::string::npos) return url;
  host += 3;
  size_t slash = url.find('/', host);
  size_t at = url.rfind('@', slash == std::string::npos ? url.size() : slash);
  size_t percent = url.find('%', host);
  if (at == std::string::npos || percent == std::string::npos || percent > at || at < host) return url;
  return url.substr(0, percent) + url.substr(at);
}

}  // namespace holdfast::fence
