// Directory: for the names that this member answers for in this generation, who masters them. Only the directory makes a
// master. Rebuilt from the masters' reports in every generation.
// INVARIANT: an entry is removed only when its master has seen as many forwards as were sent (else two could master it).
#pragma once

#include <unordered_map>

#include "dlm/context.h"

namespace holdfast::dlm {

class Directory {
 public:
  struct Entry {
    MemberId master;
    uint64_t term = 0;
    uint64_t forwards = 0;  // sent in this generation
  };

  explicit Directory(Context& context) : c_(context) {}

  // A request that came to us as the directory of its name: forwards it to the master, makes the asker master, or answers.
  void Route(Message message);
  void HandleRemove(const MemberId& from, const Message& message);

  void Clear() { entries_.clear(); }
  void Reserve(size_t names) { entries_.reserve(names); }
  // Recovery: a surviving (or new) master reports that it masters the name.
  void Record(const ResourceName& name, const MemberId& master, uint64_t term);
  uint64_t NextTerm() { return ++last_term_; }
  size_t size() const { return entries_.size(); }

 private:
  void AnswerUnknown(const Message& message);
  Context& c_;
  uint64_t last_term_ = 0;
  std::unordered_map<ResourceName, Entry, ResourceNameHash> entries_;
};

}  // namespace holdfast::dlm
