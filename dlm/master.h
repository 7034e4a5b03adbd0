// Master: the resources that this member masters. Takes the requests that reached their master, keeps the queues, grants,
// tells holders who stand in the way, drops what is unused.
// INVARIANT: nothing is granted while the lockspace recovers (Context::running), nor against a gate.
#pragma once

#include <deque>
#include <map>
#include <set>
#include <unordered_map>

#include "dlm/resource.h"

namespace holdfast::dlm {

class Master {
 public:
  explicit Master(Context& context) : c_(context) {}

  // Mastered here and not on its way out?
  bool Masters(const ResourceName& name) const;
  // A request by name, or to the master of a lock. REQUIRES: this member masters the name.
  void Handle(Message message);
  // The directory forwarded a request to us. False: we do not know the name (never with an honest directory).
  bool HandleForwarded(Message message);
  void Create(const ResourceName& name, uint64_t term);
  void HandleRemoveOk(const Message& message);

  // ---- recovery ----
  // Removes what former members held and waited for; remembers what the gates have to hold.
  void Purge();
  // After the flush, before anything is reported.
  void DropRemoving();
  // A resource rebuilt from reports; its locks and ranges are set by the caller.
  Resource& Adopt(const ResourceName& name, uint64_t term);
  std::vector<std::pair<ResourceName, uint64_t>> Mastered() const;  // names and terms, ordered
  // Looks at every queue again: after the barrier, and when a gate opens.
  void PumpAll();
  void GateOpened();
  void Clear();

  void Tick();  // drops what was unused for long
  std::optional<Instant> NextDeadline() const;
  bool FrozenHere(const ResourceName& name) const;
  size_t size() const { return resources_.size(); }
  void DumpTo(LockSpaceDump& dump) const;

 private:
  void Request(Resource& r, Message& m);
  void Convert(Resource& r, Message& m);
  void Unlock(Resource& r, Message& m);
  void Cancel(Resource& r, const Message& m);
  void Query(Resource& r, const Message& m);
  void RangeSet(Resource& r, Message& m);
  void RangeTest(Resource& r, const Message& m);
  void RangeDrop(Resource& r, const Message& m);

  void Pump(Resource& r);
  bool PumpLocks(Resource& r);
  void PumpRanges(Resource& r);
  bool RangesHeldBack(const Resource& r) const;
  void Grant(Resource& r, MasterLock& lock);
  void TellHolders(Resource& r, const MasterLock& waiting);
  void Settle(Resource& r);  // after a change: pump, note waiters, note disuse
  void Answer(const Resource& r, const MemberId& to, uint64_t op, LockId lock, Errc status);
  void Queued(const Resource& r, const MemberId& to, uint64_t op);
  void FreezeNew(Resource& r);
  void NoteDisuse(Resource& r);

  Context& c_;
  std::unordered_map<ResourceName, Resource, ResourceNameHash> resources_;
  std::set<ResourceName> contended_;    // somebody waits
  std::set<ResourceName> removing_;     // REMOVE is on its way (or they were revived since)
  std::set<ResourceName> dead_ranges_;  // ranges of the dead wait for gate 1
  std::deque<std::pair<Instant, ResourceName>> unused_;  // when they were listed; each name at most once
};

}  // namespace holdfast::dlm
