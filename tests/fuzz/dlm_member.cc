// Fuzzer: a member of a lockspace with two peers whose every message is hostile: well formed, in order, and with any
// content. It keeps locks and ranges of its own going meanwhile. Two masters or two incompatible grants make the member withdraw:
// its owner is told, and nothing of it speaks or grants any more.
#include "base/check.h"
#include "tests/fuzz/frames.h"
#include "tests/fuzz/lying_peers.h"

namespace holdfast::fuzz {
namespace {

Task<void> Want(dlm::LockSpace* space, dlm::LockId lock, dlm::Mode mode) {
  dlm::RequestOptions options;
  auto done = co_await space->Request(lock, mode, dlm::Flags::kNone, options);
  (void)done;
}
Task<void> WantRange(dlm::LockSpace* space, dlm::RangeRequest request) {
  auto done = co_await space->RangeSet(request);
  (void)done;
}

class Member {
 public:
  Member() {
    for (const char* name : {"a", "b", "c"}) locks_.push_back(space().Create(dlm::ResourceName(name), [](dlm::LockId, dlm::Mode) {}));
    process().Spawn(Want(&space(), locks_[0], dlm::Mode::kEX));
    process().Spawn(Want(&space(), locks_[1], dlm::Mode::kPR));
    peers_.Settle(Milliseconds(10));
  }

  void Run(std::span<const uint8_t> input) {
    Frames frames(input);
    while (!frames.empty()) {
      uint8_t how = frames.Byte();
      uint32_t kind = frames.Byte() % 24;
      auto body = frames.Next();
      peers_.Deliver(how & 1, generation_ + (how >> 1 & 1) - (how >> 2 & 1), static_cast<dlm::Kind>(kind), body);
      if (how & 8) process().Spawn(Want(&space(), locks_[2], dlm::Mode::kPW));
      if (how & 16) {
        dlm::RangeRequest request;
        request.name = dlm::ResourceName("b");
        request.type = dlm::RangeType::kExclusive;
        process().Spawn(WantRange(&space(), request));
      }
      if ((how & 0xe0) == 0xe0) space().SetView(ViewOf(++generation_, how & 1));
      peers_.Settle(Milliseconds(5));
    }
    HF_CHECK(peers_.withdrawn() == (space().Dump().state == "withdrawn"), "a member that withdraws by itself says so, once");
  }

 private:
  dlm::LockSpace& space() { return peers_.space(); }
  sim::SimExecutor& process() { return peers_.process(); }

  LyingPeers peers_;
  std::vector<dlm::LockId> locks_;
  uint64_t generation_ = 1;
};

}  // namespace
}  // namespace holdfast::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  holdfast::fuzz::Member().Run({data, size});
  return 0;
}
