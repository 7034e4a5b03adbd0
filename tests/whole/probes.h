// The probes of this simulator (base/probe.h): counters in memory that forked batches share.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace holdfast::whole {

std::vector<std::pair<std::string, uint64_t>> Probes();  // by name

}  // namespace holdfast::whole
