// ControlCall: one question of the `holdfast` command to holdfastd and its answer, over the control socket. Blocking:
// a command has nothing else to do.
#pragma once

#include <string>

#include "base/control.pb.h"
#include "base/result.h"
#include "base/status_tree.h"

namespace holdfast::tools {

// Errors: kDisconnected (holdfastd does not answer at RUN_DIR), kTimeout, kPermission, or what holdfastd answered.
Result<control::ControlFrame> Call(const std::string& run_dir, control::ControlFrame request, int timeout_seconds);
// For requests that are answered with a tree.
Result<StatusTree> CallForTree(const std::string& run_dir, control::ControlFrame request, int timeout_seconds);
bool DaemonLives(const std::string& run_dir);

}  // namespace holdfast::tools
