// Fuzzer: a member of a lockspace with two peers whose every message is hostile: well formed, in order, and with any
// content. It keeps locks and ranges of its own going meanwhile. Two masters or two incompatible grants make the member withdraw:
// its owner is told, and nothing of it speaks or grants any more.
#include "base/check.h"
#include "base/log.h"
#include "dlm/service.h"
#include "dlm/wire.h"
#include "tests/fuzz/channel_pair.h"
#include "tests/fuzz/frames.h"

namespace holdfast::fuzz {
namespace {

dlm::View ViewOf(uint64_t generation, uint32_t peers) {
  dlm::View view;
  view.version = RegisterVersion(generation);
  view.generation = Generation(generation);
  for (uint32_t node = 1; node <= 3; ++node) {
    dlm::Member member{LifeOf(node), MountNo(node - 1), {NodeId(node), "p" + std::to_string(node), ""}};
    if (node <= peers + 1) view.members.push_back(member);
    else view.victims.push_back({member.id, member.mount, true, true, true, LifeOf(1)});
  }
  return view;
}

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
    SetLogLevel(LogLevel::kOff);
    space_ = dlm::MakeLockSpace(pair_.process, &pair_.channel, LifeOf(1));
    space_->SetWithdrawnCallback([this](std::string) { ++withdrawn_; });
    space_->SetView(ViewOf(1, 2));
    // Both peers have nothing to report: the first generation opens.
    for (dlm::Kind kind : {dlm::Kind::kSync, dlm::Kind::kReportEnd, dlm::Kind::kReady})
      for (int i = 0; i < 2; ++i) Deliver(i, 1, static_cast<uint32_t>(kind), dlm::Encode(dlm::Message(kind, dlm::ResourceName(""))));
    for (const char* name : {"a", "b", "c"}) locks_.push_back(space_->Create(dlm::ResourceName(name), [](dlm::LockId, dlm::Mode) {}));
    pair_.process.Spawn(Want(space_.get(), locks_[0], dlm::Mode::kEX));
    pair_.process.Spawn(Want(space_.get(), locks_[1], dlm::Mode::kPR));
    pair_.Settle(Milliseconds(10));
  }
  ~Member() {
    space_->Withdraw("the test ends");
    pair_.Settle(Seconds(5));
  }

  void Run(std::span<const uint8_t> input) {
    Frames frames(input);
    while (!frames.empty()) {
      uint8_t how = frames.Byte();
      uint32_t kind = frames.Byte() % 24;
      auto body = frames.Next();
      Deliver(how & 1, generation_ + (how >> 1 & 1) - (how >> 2 & 1), kind, body);
      if (how & 8) pair_.process.Spawn(Want(space_.get(), locks_[2], dlm::Mode::kPW));
      if (how & 16) {
        dlm::RangeRequest request;
        request.name = dlm::ResourceName("b");
        request.type = dlm::RangeType::kExclusive;
        pair_.process.Spawn(WantRange(space_.get(), request));
      }
      if ((how & 0xe0) == 0xe0) space_->SetView(ViewOf(++generation_, how & 1));
      pair_.Settle(Milliseconds(5));
    }
    HF_CHECK(withdrawn_ == (space_->Dump().state == "withdrawn"), "a member that withdraws by itself says so, once");
  }

 private:
  void Deliver(int i, uint64_t generation, uint32_t kind, std::span<const std::byte> body) {
    (void)pair_.peer(i).Send(LifeOf(1), Generation(generation), kind, body);
    pair_.Deliver(i);
    pair_.Settle(Microseconds(10));
  }

  ChannelPair pair_{5};
  std::unique_ptr<dlm::LockSpace> space_;
  std::vector<dlm::LockId> locks_;
  uint64_t generation_ = 1;
  int withdrawn_ = 0;
};

}  // namespace
}  // namespace holdfast::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  holdfast::fuzz::Member().Run({data, size});
  return 0;
}
