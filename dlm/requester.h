// Requester: this member's own locks, ranges and operations: what it asked for, of whom, and what came of it.
// An operation keeps its number from the call to the answer. After a recovery all that have no answer and are not known to
// wait at a living master are sent again; what members know of each other at that point makes this exactly once
// (docs/protocols/dlm.md, "Sent again").
// INVARIANT: what this member believes to hold is never more than what its master's table says.
#pragma once

#include <functional>
#include <map>
#include <set>
#include <unordered_map>

#include "dlm/context.h"
#include "dlm/master.h"
#include "dlm/range_table.h"

namespace holdfast::dlm {

class Requester {
 public:
  Requester(Context& context, const Master& master) : c_(context), master_(master) {}

  // ---- the user's calls; they give the number of an operation whose end comes as an upcall, or an error at once ----
  LockId Create(ResourceName name);
  Status Destroy(LockId lock);
  Result<uint64_t> Request(LockId lock, Mode mode, Flags flags, const RequestOptions& options);
  Result<uint64_t> Unlock(LockId lock, const std::optional<ValueBytes>& value);
  void Cancel(LockId lock);
  Mode GrantedMode(LockId lock) const;
  ValueBlock Value(LockId lock) const;
  Result<uint64_t> RangeSet(const ResourceName& name, const RangeArgs& range, uint64_t token);
  Result<uint64_t> RangeTest(const ResourceName& name, const RangeArgs& range);
  Result<uint64_t> RangeDrop(const ResourceName& name, const RangeArgs& what);
  void RangeCancel(uint64_t token);
  bool HoldsRanges(const ResourceName& name) const;
  Result<uint64_t> Query(const ResourceName& name);
  std::vector<std::pair<LockId, Mode>> GrantedLocks() const;  // ordered by id
  const RangeTable* Ranges(const ResourceName& name) const;
  std::vector<ResourceName> RangeNames() const;
  const ResourceName* NameOf(LockId lock) const;

  // ---- from masters and directories ----
  void HandleAnswer(const MemberId& from, const Message& message);
  void HandleQueued(const MemberId& from, const Message& message);
  void HandleBlocking(const Message& message);
  void HandleNotMaster(const MemberId& from, const Message& message);
  // We were made master for this operation of ours: the request to hand to our own master side.
  std::optional<Message> Redirect(uint64_t op);

  // ---- recovery ----
  void NewGeneration();
  // Emits what we hold on resources whose master is gone, each to the new master. `rebuilt(m)` is the last generation
  // whose rebuild member m completed.
  void Report(const std::function<uint64_t(const MemberId&)>& rebuilt,
              const std::function<void(const MemberId&, ReportEntry)>& emit);
  void Running();     // past the barrier: sends again what has no answer
  void GatesOpened();  // both gates: what RECOVERY granted counts like any lock
  void FailAll(Errc status);

  void Tick();
  std::optional<Instant> NextDeadline() const;
  size_t operations() const { return ops_.size(); }
  size_t locks() const { return locks_.size(); }
  void DumpTo(LockSpaceDump& dump) const;

 private:
  struct Lock {
    ResourceName name;
    Mode granted = Mode::kIV;     // what we may rely on now; the lesser one while a conversion is under way
    bool under_recovery = false;
    MemberId master;              // meaningful while granted
    Generation reported;          // reported to `master` in this generation and not yet confirmed; 0: confirmed
    uint64_t op = 0;              // the operation under way
    std::unique_ptr<ValueBlock> value;
  };
  enum class OpState : uint8_t { kUnsent, kSent, kQueued };
  struct Op {
    uint64_t id = 0;
    Kind kind = Kind::kRequest;
    OpState state = OpState::kUnsent;
    bool ever_sent = false;
    bool cancel_wanted = false;
    bool gives_up = false;     // a range operation that only gives up rights: never cancelled
    Errc cancel_reason = Errc::kCancelled;
    Mode mode = Mode::kIV;
    Mode before = Mode::kIV;   // granted when it started
    Flags flags = Flags::kNone;
    ResourceName name;
    LockId lock;
    MemberId master;           // kQueued: where it waits
    uint64_t token = 0;
    Instant started;
    Instant deadline;          // 0: none
    std::unique_ptr<ValueBlock> value;  // written with it
    std::unique_ptr<RangeArgs> range;
  };
  struct RangeHome {
    RangeTable table;
    MemberId master;
    Generation reported;
  };

  Op& NewOp(Kind kind, const ResourceName& name);
  Message MakeMessage(const Op& op) const;
  void SendOp(Op& op, bool to_directory = false);
  void TryCancel(uint64_t id);
  void EndUnlock(LockId id);
  void WriteValue(Op& op, Lock& lock, const std::optional<ValueBytes>& value);
  void FinishLockOp(Op& op, const MemberId& from, const Message& message);
  Errc FinishRangeOp(Op& op, const MemberId& from, const Message& message);
  void UndoLateRange(const Op& op, const RangeTable& before);
  void Finish(uint64_t id, Errc status, const Message* answer = nullptr);
  void LearnMaster(const ResourceName& name, const MemberId& master);
  bool MasterStands(const MemberId& master, Generation reported,
                    const std::function<uint64_t(const MemberId&)>& rebuilt) const;
  void ReportRanges(const ResourceName& name, RangeHome& home, const MemberId& to,
                    const std::function<void(const MemberId&, ReportEntry)>& emit);
  void DropEmptyHome(const ResourceName& name);

  Context& c_;
  const Master& master_;
  uint64_t last_lock_ = 0;
  uint64_t last_op_ = 0;
  bool flushed_ = true;  // no answer of an older generation can come any more
  std::unordered_map<LockId, Lock> locks_;
  std::map<uint64_t, Op> ops_;
  std::set<std::pair<Instant, uint64_t>> deadlines_;
  std::map<ResourceName, RangeHome> ranges_;
  std::unordered_map<ResourceName, MemberId, ResourceNameHash> guesses_;
  std::vector<LockId> reported_;
  std::set<LockId> recovery_locks_;
};

}  // namespace holdfast::dlm
