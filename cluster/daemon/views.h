// Views: what the register says of a lockspace, as the mounts' lock managers want it (dlm/view.h), with the nodes' public
// keys from cluster.conf. Pure.
#pragma once

#include <string>

#include "cluster/config.h"
#include "cluster/lockspace_view.h"
#include "cluster/state.pb.h"
#include "dlm/view.h"

namespace holdfast::cluster {

dlm::View MakeView(const ClusterState& state, const std::string& lockspace, const Config& config);
// Equal but for the register version: nothing that a mount acts on has changed.
bool SameView(const dlm::View& a, const dlm::View& b);

}  // namespace holdfast::cluster
