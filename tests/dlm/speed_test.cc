// Figures, not facts: time of a local lock, memory of an idle one, time of a rebuild. Hidden: run `dlm_test [.speed]`.
#include <catch2/catch.hpp>
#include <malloc.h>

#include <ctime>
#include <cstdio>

#include "dlm/standalone.h"
#include "tests/dlm/core_net.h"
#include "tests/sim/world.h"

namespace holdfast::dlm {
namespace {

// Of this process's processor, so that a busy machine does not show.
double Processor() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }
double SecondsSince(double start) { return Processor() - start; }

Task<void> Cycle(LockSpace* space, LockId lock, int rounds) {
  for (int i = 0; i < rounds; ++i) {
    auto up = co_await space->Request(lock, Mode::kEX, Flags::kNone, RequestOptions{});
    auto down = co_await space->Request(lock, Mode::kPR, Flags::kNone, RequestOptions{});
    HF_CHECK(up.ok() && down.ok(), "local conversion failed");
  }
}

TEST_CASE("dlm: speed and memory", "[.speed]") {
  constexpr int kRounds = 200'000;
  {
    sim::World world{1};
    auto& ex = world.Start(NodeId(1));
    auto space = MakeStandaloneLockSpace(ex, {NodeId(1), Incarnation(1), 1});
    LockId lock = space->Create(ResourceName("r"), {});
    auto start = Processor();
    world.Run(ex, Cycle(space.get(), lock, kRounds));
    std::printf("local conversion, coroutine and simulated executor included: %.0f ns\n", SecondsSince(start) / (2 * kRounds) * 1e9);
  }
  {
    CoreNet net(1);
    LockId lock = net.Create(1, "r");
    auto start = Processor();
    for (int i = 0; i < kRounds; ++i) {
      (void)net.At(1).requester().Request(lock, i % 2 ? Mode::kPR : Mode::kEX, Flags::kNone, {}).ok();
      net.At(1).Settle();
      net.At(1).TakeUpcalls();
    }
    std::printf("local conversion, core alone: %.0f ns\n", SecondsSince(start) / kRounds * 1e9);
  }
  {
    constexpr int kLocks = 200'000;
    CoreNet net(3);
    auto before = mallinfo2().uordblks;
    for (int i = 0; i < kLocks; ++i) {
      std::string name = "n" + std::to_string(i) + "pad";
      LockId lock = net.Create(1, name.c_str());
      (void)net.At(1).requester().Request(lock, Mode::kPR, Flags::kNone, {}).ok();
      net.At(1).Settle();
      net.Pump();
      net.done.clear();
    }
    std::printf("memory of an idle lock (handle, resource, directory entry): %.0f bytes\n",
                static_cast<double>(mallinfo2().uordblks - before) / kLocks);
    net.Kill(2);
    net.reg.Evict(CoreNet::IdOf(2));
    net.reg.SetFenced(CoreNet::IdOf(2));
    auto start = Processor();
    net.Feed();
    std::printf("new generation with %d locks on one of two survivors: %.0f ms\n", kLocks, SecondsSince(start) * 1e3);
  }
}

}  // namespace
}  // namespace holdfast::dlm
