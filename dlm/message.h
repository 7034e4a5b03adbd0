// Message: what the lock managers of a lockspace say to each other. In the core a message is this struct; on the wire it
// is dlm.proto (wire.h). Requests are re-sent after a recovery until they are answered; answers between survivors are
// never dropped; recovery messages count only in their own generation. docs/protocols/dlm.md has the flows.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "base/bytes.h"
#include "base/ids.h"
#include "base/result.h"
#include "dlm/types.h"

namespace holdfast::dlm {

enum class Kind : uint8_t {
  // Requests that find their master by name: guessed master, or directory, which forwards.
  kRequest = 1,
  kRangeSet,
  kRangeTest,
  kRangeDrop,
  kQuery,  // does the freeze rule hold this name?
  // Requests to the master of a lock that the asker knows.
  kConvert,
  kUnlock,
  kCancel,
  // Directory.
  kMakeMaster,  // directory -> asker: nobody masters it; you do now
  kNotMaster,   // wrongly guessed master -> asker: ask the directory
  kRemove,      // master -> directory: unused; I have seen `count` forwards
  kRemoveOk,
  // Master -> asker.
  kAnswer,
  kQueued,    // it waits here; I am the master
  kBlocking,  // your granted mode is in the way of `mode`
  kApp,
  // Recovery, in this order.
  kSync,       // I am in this generation; all that I sent before belongs to older ones
  kReport,
  kReportEnd,
  kReady,
};
constexpr bool IsByName(Kind k) { return k >= Kind::kRequest && k <= Kind::kQuery; }
constexpr bool IsRequest(Kind k) { return k >= Kind::kRequest && k <= Kind::kCancel; }
constexpr bool IsDirectory(Kind k) { return k >= Kind::kMakeMaster && k <= Kind::kRemoveOk; }
constexpr bool IsAnswer(Kind k) { return k >= Kind::kAnswer && k <= Kind::kApp; }
constexpr bool IsRecovery(Kind k) { return k >= Kind::kSync && k <= Kind::kReady; }

// Which of this member's ranges kRangeDrop means.
enum class DropWhat : uint8_t { kOwner, kHandle };

struct RangeArgs {
  RangeSpace space = RangeSpace::kFcntl;
  RangeOwner owner;
  uint64_t handle = 0;
  uint32_t pid = 0;
  uint64_t start = 0;
  uint64_t end = UINT64_MAX;
  RangeType type = RangeType::kShared;
  bool wait = false;
  DropWhat drop = DropWhat::kOwner;
};

struct ReportEntry {
  enum class What : uint8_t { kLock = 1, kRange } what = What::kLock;
  ResourceName name;
  LockId lock;
  Mode granted = Mode::kIV;     // the lesser of granted and requested
  bool under_recovery = false;  // granted by RECOVERY through a closed gate: proves nothing
  std::optional<ValueBlock> value;
  RangeArgs range;              // kRange
};

// A name that the sender masters.
struct MasteredEntry {
  ResourceName name;
  uint64_t term = 0;
};

struct Message {
  Kind kind = Kind::kApp;
  Generation generation;
  ResourceName name;
  MemberId asker;    // whose operation it is
  uint64_t op = 0;   // the asker's number of the operation
  LockId lock;       // the asker's lock (for kBlocking: the holder's)
  Mode mode = Mode::kIV;     // wanted; in kAnswer: granted
  Flags flags = Flags::kNone;
  Errc status = Errc::kOk;   // kAnswer
  bool guessed = false;      // sent to a guessed master, not to the directory
  bool forwarded = false;    // by the directory
  bool under_recovery = false;  // kAnswer; kAnswer to kQuery: frozen
  uint64_t term = 0;
  uint64_t count = 0;        // kRemove: forwards seen; kSync: the last generation whose rebuild was completed here
  std::unique_ptr<ValueBlock> value;
  std::unique_ptr<RangeArgs> range;
  std::unique_ptr<RangeConflict> conflict;  // kAnswer to kRangeTest
  std::vector<ReportEntry> report;      // kReport
  std::vector<MasteredEntry> mastered;  // kReport
  Bytes payload;             // kApp

  Message() = default;
  Message(Kind k, ResourceName n) : kind(k), name(std::move(n)) {}
};

}  // namespace holdfast::dlm
