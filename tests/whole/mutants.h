// The known bugs that this simulator can switch on, by name, each with the seeds that find it (base/mutants.h, dlm/mutants.h,
// cluster/mutants.h).
#pragma once

#include <string>
#include <vector>

namespace holdfast::whole {

struct KnownMutant {
  std::string name;
  std::string scenario;  // the one that finds it soonest
  bool model = false;    // needs clients behind a kernel
  uint64_t seed = 0;     // the first of that scenario that finds it, when last measured
};
std::vector<KnownMutant> KnownMutants();
// Switches it on for this process; "" switches all off. False: no such mutant.
bool SetMutant(const std::string& name);
// An invariant of the lock manager's own that broke (production dies of it); "" if none.
const std::string& BrokenInvariant();

}  // namespace holdfast::whole
