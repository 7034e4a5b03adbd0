#include "base/result.h"

namespace holdfast {

std::string_view ErrcName(Errc code) {
  switch (code) {
    case Errc::kOk: return "ok";
    case Errc::kIo: return "input/output error";
    case Errc::kTimeout: return "timed out";
    case Errc::kCancelled: return "cancelled";
    case Errc::kCorrupt: return "corrupt";
    case Errc::kInvalid: return "invalid";
    case Errc::kUnsupported: return "not supported";
    case Errc::kNotFound: return "not found";
    case Errc::kExists: return "exists";
    case Errc::kPermission: return "not permitted";
    case Errc::kNoSpace: return "no space";
    case Errc::kBusy: return "busy";
    case Errc::kWouldBlock: return "would block";
    case Errc::kDeadlock: return "deadlock";
    case Errc::kStale: return "stale";
    case Errc::kNotDirectory: return "not a directory";
    case Errc::kIsDirectory: return "is a directory";
    case Errc::kNotEmpty: return "not empty";
    case Errc::kNameTooLong: return "name too long";
    case Errc::kTooManyLinks: return "too many links";
    case Errc::kCrossDevice: return "cross-device";
    case Errc::kLoop: return "loop";
    case Errc::kRange: return "out of range";
    case Errc::kNoData: return "no such attribute";
    case Errc::kReadOnly: return "read-only";
    case Errc::kFileTooBig: return "file too big";
    case Errc::kNoQuorum: return "no quorum";
    case Errc::kFenced: return "fenced";
    case Errc::kConflict: return "conflict";
    case Errc::kDisconnected: return "disconnected";
    case Errc::kExhausted: return "exhausted";
    case Errc::kInterrupted: return "interrupted";
  }
  return "unknown error";
}

std::string Error::ToString() const {
  std::string text(ErrcName(code));
  if (!message.empty()) text += ": " + message;
  return text;
}

}  // namespace holdfast
