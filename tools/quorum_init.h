// `holdfast quorum init`: version 1 of the cluster's register, written while no daemon runs: into this node's store and,
// by its votes, onto the quorum device. The only way a cluster begins.
#pragma once

#include <string>

#include "base/result.h"

namespace holdfast::tools {

struct QuorumInitOptions {
  std::string config, state_dir, node;
  bool force = false;
};

// What was done, in words. Errors: kExists (a register is there), kNoQuorum (this node's votes and the disk's are not
// enough), kBusy (the store or this node's place on the disk is in use).
Result<std::string> QuorumInit(const QuorumInitOptions& options);

}  // namespace holdfast::tools
