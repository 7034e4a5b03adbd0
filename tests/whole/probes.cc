#include "tests/whole/probes.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/probe.h"

namespace holdfast {
namespace {

constexpr size_t kProbesMax = 400;

struct Registry {
  const char* names[kProbesMax];
  uint64_t* counters = nullptr;
  size_t count = 0;
};

Registry& TheRegistry() {
  static Registry registry;
  if (registry.counters == nullptr) {
    void* memory = ::mmap(nullptr, kProbesMax * sizeof(uint64_t), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    HF_CHECK(memory != MAP_FAILED, "no memory for probes");
    registry.counters = static_cast<uint64_t*>(memory);
  }
  return registry;
}

}  // namespace

uint64_t* RegisterProbe(const char* name) {
  Registry& r = TheRegistry();
  for (size_t i = 0; i < r.count; ++i)
    if (std::strcmp(r.names[i], name) == 0) return &r.counters[i];
  HF_CHECK(r.count < kProbesMax, "too many probes");
  r.names[r.count] = name;
  return &r.counters[r.count++];
}

namespace whole {

std::vector<std::pair<std::string, uint64_t>> Probes() {
  Registry& r = TheRegistry();
  std::vector<std::pair<std::string, uint64_t>> out;
  for (size_t i = 0; i < r.count; ++i) out.emplace_back(r.names[i], r.counters[i]);
  std::sort(out.begin(), out.end());
  return out;
}

}  // namespace whole
}  // namespace holdfast
