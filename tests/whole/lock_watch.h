// WatchLocks: a mount's LockSpace with the checker looking on: every grant, conversion and release of this member.
#pragma once

#include <memory>

#include "dlm/lockspace.h"
#include "tests/whole/checker.h"

namespace holdfast::whole {

std::unique_ptr<dlm::LockSpace> WatchLocks(Checker* checker, std::unique_ptr<dlm::LockSpace> space);

}  // namespace holdfast::whole
