// Fuzzer: what mounts tell each other beside locks (fs/app_messages.h), with two lying peers, while the mount asks them for favours
// itself. Bounded work, every question ends, nothing is done after the end.
#include "base/check.h"
#include "fs/app_messages.h"
#include "tests/fuzz/frames.h"
#include "tests/fuzz/lying_peers.h"

namespace holdfast::fuzz {
namespace {

class Mount {
 public:
  Mount() {
    fs::AppMessages::Handlers handlers;
    handlers.reap_again = [this](InodeNo) { Busy(); };
    handlers.checkpoint = [this] { return Work(this, Milliseconds(40)); };
    handlers.shrink = [this] { return Work(this, Milliseconds(3)); };
    handlers.free_delta = [this](int64_t) { Busy(); };
    handlers.take_delta = [] { return int64_t{1}; };
    messages_ = std::make_unique<fs::AppMessages>(peers_.space(), std::move(handlers));
    messages_->Start();
  }

  void Run(std::span<const uint8_t> input) {
    Frames frames(input);
    while (!frames.empty()) {
      uint8_t how = frames.Byte();
      // An application message around the bytes, again and again if the input says so.
      dlm::Message message(dlm::Kind::kApp, dlm::ResourceName(""));
      auto body = frames.Next();
      message.payload.assign(body.begin(), body.end());
      Bytes wire = dlm::Encode(message);
      for (int n = how & 2 ? 40 : 1; n > 0; --n) peers_.Deliver(how & 1, 1, dlm::Kind::kApp, wire);
      if (how & 4) peers_.process().Spawn(Ask(this, (how & 8) != 0));
      if (how & 16) peers_.Settle(Milliseconds(20));
    }
    peers_.Settle(Seconds(12));  // what a question takes at most
    HF_CHECK(asking_ == 0, "a question does not end");
    messages_->Stop();
    peers_.process().Spawn(AwaitIdle(this));
    peers_.Settle(Seconds(2));
    HF_CHECK(over_ && working_ == 0, "what was asked for does not end");
    peers_.Settle(Seconds(1));
  }

 private:
  void Busy() { HF_CHECK(!over_, "something is done after the end"); }
  static Task<Status> Work(Mount* self, Duration time) {
    self->Busy();
    ++self->working_;
    HF_CHECK(self->working_ <= 2000, "no bound");
    co_await SleepFor(time);
    --self->working_;
    co_return Status();
  }
  static Task<void> Ask(Mount* self, bool shrink) {
    ++self->asking_;
    if (shrink) {
      co_await self->messages_->ShrinkOthers();
    } else {
      Status done = co_await self->messages_->CheckpointOthers();
      (void)done;
    }
    --self->asking_;
  }
  static Task<void> AwaitIdle(Mount* self) {
    co_await self->messages_->Idle();
    self->over_ = true;
  }

  LyingPeers peers_;
  std::unique_ptr<fs::AppMessages> messages_;
  int asking_ = 0, working_ = 0;
  bool over_ = false;
};

}  // namespace
}  // namespace holdfast::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  holdfast::fuzz::Mount().Run({data, size});
  return 0;
}
