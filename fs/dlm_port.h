// DlmPort: LockPort over a lockspace of the lock manager (a cluster's, or the standalone one of nolock).
// Threading: the lockspace's executor.
#pragma once

#include <unordered_map>

#include "dlm/lockspace.h"
#include "fs/lock_port.h"

namespace holdfast::fs {

class DlmPort : public LockPort {
 public:
  explicit DlmPort(dlm::LockSpace& space) : space_(space) {}

  void SetBlocking(Blocking blocking) override { blocking_ = std::move(blocking); }
  Task<Status> Acquire(Resource resource, LockMode from, LockMode to, bool noqueue) override;
  Task<Status> Lower(Resource resource, LockMode from, LockMode to) override;
  void Cancel(Resource resource) override;

 private:
  dlm::LockSpace& space_;
  Blocking blocking_;
  std::unordered_map<Resource, dlm::LockId> locks_;
};

}  // namespace holdfast::fs
