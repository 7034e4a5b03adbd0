// LyingPeers: a member of a lockspace with two peers whose every message is well formed, in order, and otherwise as a target likes.
#pragma once

#include "base/log.h"
#include "dlm/service.h"
#include "dlm/wire.h"
#include "tests/fuzz/channel_pair.h"

namespace holdfast::fuzz {

inline dlm::View ViewOf(uint64_t generation, uint32_t peers) {
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

class LyingPeers {
 public:
  LyingPeers() {
    SetLogLevel(LogLevel::kOff);
    space_ = dlm::MakeLockSpace(pair_.process, &pair_.channel, LifeOf(1));
    space_->SetWithdrawnCallback([this](std::string) { ++withdrawn_; });
    space_->SetView(ViewOf(1, 2));
    // Both peers have nothing to report: the first generation opens.
    for (dlm::Kind kind : {dlm::Kind::kSync, dlm::Kind::kReportEnd, dlm::Kind::kReady})
      for (int i = 0; i < 2; ++i) Deliver(i, 1, kind, dlm::Encode(dlm::Message(kind, dlm::ResourceName(""))));
  }
  ~LyingPeers() {
    space_->Withdraw("the test ends");
    pair_.Settle(Seconds(5));
  }
  dlm::LockSpace& space() { return *space_; }
  sim::SimExecutor& process() { return pair_.process; }
  void Settle(Duration time) { pair_.Settle(time); }
  int withdrawn() const { return withdrawn_; }
  void Deliver(int i, uint64_t generation, dlm::Kind kind, std::span<const std::byte> body) {
    (void)pair_.peer(i).Send(LifeOf(1), Generation(generation), static_cast<uint32_t>(kind), body);
    pair_.Deliver(i);
    pair_.Settle(Microseconds(10));
  }

 private:
  ChannelPair pair_{5};
  std::unique_ptr<dlm::LockSpace> space_;
  int withdrawn_ = 0;
};

}  // namespace holdfast::fuzz
