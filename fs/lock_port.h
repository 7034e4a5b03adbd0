// LockPort: the lock manager as the lock table sees it: one lock of this mount per resource. dlm_port.h binds it to a
// dlm lockspace (a cluster's, or a lockspace of one for nolock); tests bind it to a small model.
#pragma once

#include <functional>

#include "base/result.h"
#include "base/task.h"
#include "fs/lock_mode.h"
#include "fs/resource.h"

namespace holdfast::fs {

class LockPort {
 public:
  // `wanted` stands in the way of somebody's request; called at most once per grant and mode, never inline.
  using Blocking = std::function<void(Resource, LockMode wanted)>;

  virtual ~LockPort() = default;
  virtual void SetBlocking(Blocking blocking) = 0;
  // Takes (from kNone) or raises the lock. Errors: kWouldBlock (noqueue), kDeadlock (two holders of PR both want EX:
  // let go of PR and ask anew), kCancelled (Cancel won), others are final.
  virtual Task<Status> Acquire(Resource resource, LockMode from, LockMode to, bool noqueue) = 0;
  // Lowers it; kNone forgets it.
  virtual Task<Status> Lower(Resource resource, LockMode from, LockMode to) = 0;
  // Asks to end a waiting Acquire; a grant that wins the race is delivered as a grant.
  virtual void Cancel(Resource resource) = 0;
};

}  // namespace holdfast::fs
