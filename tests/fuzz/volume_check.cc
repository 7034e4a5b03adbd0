// Fuzzer: see mounted_volume.h, TryCheck.
#include "base/check.h"
#include "tests/fuzz/mounted_volume.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace holdfast::fuzz;
  std::string broken = TryCheck(Apply({data, size}).image);
  HF_CHECK(broken.empty(), "%s", broken.c_str());
  return 0;
}
