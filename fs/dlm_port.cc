#include "fs/dlm_port.h"

namespace holdfast::fs {
namespace {

dlm::Mode ToDlm(LockMode mode) {
  return mode == LockMode::kEx ? dlm::Mode::kEX : mode == LockMode::kPr ? dlm::Mode::kPR : dlm::Mode::kNL;
}

}  // namespace

Task<Status> DlmPort::Acquire(Resource resource, LockMode from, LockMode to, bool noqueue) {
  (void)from;
  auto it = locks_.find(resource);
  if (it == locks_.end()) {
    dlm::LockId id = space_.Create(DlmName(resource), [this, resource](dlm::LockId, dlm::Mode wanted) {
      if (blocking_) blocking_(resource, wanted == dlm::Mode::kPR || wanted == dlm::Mode::kCR ? LockMode::kPr : LockMode::kEx);
    });
    it = locks_.emplace(resource, id).first;
  }
  dlm::LockId id = it->second;
  // Holders hear of a NOQUEUE request too: an idle cached lock elsewhere is given up for the next attempt.
  dlm::Flags flags = noqueue ? dlm::Flags::kNoQueue | dlm::Flags::kNoQueueBast : dlm::Flags::kNone;
  Status got = co_await space_.Request(id, ToDlm(to), flags);
  if (!got.ok() && space_.GrantedMode(id) == dlm::Mode::kIV) {
    locks_.erase(resource);
    space_.Destroy(id);
  }
  co_return got;
}

Task<Status> DlmPort::Lower(Resource resource, LockMode from, LockMode to) {
  (void)from;
  auto it = locks_.find(resource);
  if (it == locks_.end()) co_return Status();
  dlm::LockId id = it->second;
  if (to != LockMode::kNone) {
    Status lowered = co_await space_.Request(id, ToDlm(to));
    co_return lowered;
  }
  Status unlocked = co_await space_.Unlock(id);
  locks_.erase(resource);
  if (unlocked.ok()) space_.Destroy(id);
  co_return unlocked;
}

void DlmPort::Cancel(Resource resource) {
  auto it = locks_.find(resource);
  if (it != locks_.end()) space_.Cancel(it->second);
}

}  // namespace holdfast::fs
