// Fuzzer: see mounted_volume.h, TryRepair.
#include "base/check.h"
#include "tests/fuzz/mounted_volume.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace holdfast::fuzz;
  std::string broken = TryRepair(Apply({data, size}).image);
  HF_CHECK(broken.empty(), "%s", broken.c_str());
  return 0;
}
