// Recovery: the numbered states through which a member goes in every new generation, and what it collects on the way.
// One driver (Advance), restarted by every further generation; no step needs a lock, none is undone.
//
//   state    does                                                        leaves when
//   kIdle    no view yet                                                 the first view
//   kFence   nothing is granted; SYNC sent                               every victim is fenced
//   kFlush                                                               SYNC of every member: all old messages are here
//   kReport  reports what it holds where the master is gone, names it    REPORT_END of every member: tables rebuilt,
//            masters to their directories, then REPORT_END               READY sent
//   kBarrier                                                             READY of every member
//   kRunning grants; sends again what has no answer                      the next generation
//
// INVARIANT: what was rebuilt counts only when all reports of that generation are here; SYNC tells the others which
// generation that last was. docs/protocols/dlm.md
#pragma once

#include <map>
#include <set>
#include <vector>

#include "dlm/directory.h"
#include "dlm/master.h"
#include "dlm/requester.h"

namespace holdfast::dlm {

class Recovery {
 public:
  enum class State : uint8_t { kIdle = 0, kFence = 1, kFlush = 2, kReport = 3, kBarrier = 4, kRunning = 5 };

  Recovery(Context& context, Directory& directory, Master& master, Requester& requester)
      : c_(context), directory_(directory), master_(master), requester_(requester) {}

  // The context has the new view; the master side is purged. Sends SYNC.
  void Start();
  // A recovery message of this generation.
  void Handle(const MemberId& from, Message message);
  // Goes on as far as it can. True when kRunning was entered now.
  bool Advance();
  State state() const { return state_; }
  std::string Describe() const;  // the state and whom it waits for

 private:
  bool HaveAll(const std::set<MemberId>& from) const;
  void SendReports();
  void Rebuild();
  void RebuildResource(const ResourceName& name, const std::vector<std::pair<MemberId, ReportEntry>>& entries);
  void RebuildValue(Resource& r, const std::vector<std::pair<MemberId, ReportEntry>>& entries);
  void RebuildRanges(Resource& r, const std::vector<std::pair<MemberId, ReportEntry>>& entries);

  Context& c_;
  Directory& directory_;
  Master& master_;
  Requester& requester_;
  State state_ = State::kIdle;
  Instant started_;
  uint64_t rebuilt_ = 0;                  // the last generation whose rebuild was completed here
  std::map<MemberId, uint64_t> synced_;   // SYNC came, with the sender's `rebuilt_`
  std::set<MemberId> ended_, ready_;
  std::map<ResourceName, std::vector<std::pair<MemberId, ReportEntry>>> staged_;
  std::vector<std::pair<MemberId, std::vector<MasteredEntry>>> mastered_;
};

}  // namespace holdfast::dlm
