// A lockspace of one member, without any transport: lockproto=nolock. The same core as in a cluster; generation 1 is in
// force when the function returns, both gates are open.
#pragma once

#include <memory>

#include "base/executor.h"
#include "dlm/lockspace.h"

namespace holdfast::dlm {

// REQUIRES: the executor outlives the lockspace.
std::unique_ptr<LockSpace> MakeStandaloneLockSpace(Executor& executor, MemberId self, MountNo mount = MountNo(0));

}  // namespace holdfast::dlm
