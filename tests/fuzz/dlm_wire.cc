// Fuzzer: messages of the lock manager, decoded and encoded again: what is accepted means the same afterwards.
#include "base/check.h"
#include "dlm/wire.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace holdfast;
  if (size == 0) return 0;
  auto message = dlm::Decode(data[0], std::as_bytes(std::span(data, size)).subspan(1));
  if (!message.ok()) return 0;
  Bytes bytes = dlm::Encode(*message);
  auto again = dlm::Decode(data[0], bytes);
  HF_CHECK(again.ok(), "encoded, it is refused: %s", again.error().ToString().c_str());
  HF_CHECK(dlm::Encode(*again) == bytes, "encoded twice it differs");
  return 0;
}
