// The contract of Executor, Clock, Timer and Pool against both lives, and what only the reactor has.
#include <catch2/catch.hpp>

#include "io/reactor.h"

#include <sys/epoll.h>
#include <unistd.h>

#include <csignal>
#include <set>
#include <thread>

#include "io/system_random.h"
#include "io/thread_pool.h"
#include "tests/sim/pool.h"
#include "tests/sim/world.h"

using namespace holdfast;

namespace {

Task<void> Say(std::string* log, char c) {
  *log += c;
  co_return;
}

Task<std::string> Order(Executor* executor) {
  std::string log;
  executor->Post([&] { log += "1"; });
  executor->Post([&] {
    log += "2";
    executor->Post([&] { log += "4"; });
  });
  executor->Post([&] { log += "3"; });
  co_await SleepFor(Milliseconds(2));
  co_return log;
}

Task<std::string> Timers(Executor* executor) {
  std::string log;
  Instant now = executor->clock().Now();
  executor->PostAt(now + Milliseconds(4), [&] { log += "c"; });
  executor->PostAt(now + Milliseconds(2), [&] { log += "a"; });
  executor->PostAt(now + Milliseconds(3), [&] { log += "b"; });
  TimerId never = executor->PostAt(now + Milliseconds(1), [&] { log += "!"; });
  executor->Cancel(never);
  executor->Cancel(never);
  executor->Cancel(0);
  co_await SleepFor(Milliseconds(10));
  // A timer that is due is still cancelled by one that runs before it.
  TimerId second = 0;
  now = executor->clock().Now();
  executor->PostAt(now, [&] { executor->Cancel(second); });
  second = executor->PostAt(now + Nanoseconds(1), [&] { log += "!"; });
  co_await SleepFor(Milliseconds(5));
  co_return log;
}

Task<bool> NeverEarly(Executor* executor) {
  for (int i = 0; i < 20; ++i) {
    Instant when = executor->clock().Now() + Microseconds(137 * i);
    co_await SleepUntil(when);
    if (executor->clock().Now() < when) co_return false;
  }
  co_return true;
}

Task<int> PoolWork(Pool* pool) {
  int sum = 0;
  for (int i = 0; i < 10; ++i) {
    auto value = co_await pool->Run<int>([i] { return Executor::CurrentOrNull() == nullptr ? i : 1000; });
    sum += value;
  }
  co_return sum;
}

template <class Run>
void ExecutorContract(Executor* executor, Pool* pool, Run run) {
  SECTION("posted functions run in posting order, never inline") { CHECK(run(Order(executor)) == "1234"); }
  SECTION("timers run by time; a cancelled one does not") { CHECK(run(Timers(executor)) == "abc"); }
  SECTION("a sleep does not end early") { CHECK(run(NeverEarly(executor))); }
  SECTION("a pool works elsewhere and comes back") { CHECK(run(PoolWork(pool)) == 45); }
  SECTION("a scope joins what it spawned") {
    std::string log;
    run([](std::string* out) -> Task<void> {
      Scope scope;
      scope.Spawn(Say(out, 'x'));
      scope.Spawn(Say(out, 'y'));
      co_await scope.Join();
    }(&log));
    CHECK(log == "xy");
  }
}

}  // namespace

TEST_CASE("contract Executor, Clock, Pool: reactor and threads", "[io][contract][unit]") {
  io::Reactor reactor;
  io::ThreadPool pool(2);
  ExecutorContract(&reactor, &pool, [&](auto task) { return reactor.RunTask(std::move(task)); });
}

TEST_CASE("contract Executor, Clock, Pool: simulation", "[io][contract][unit]") {
  sim::World world(5);
  sim::SimExecutor& executor = world.Start(NodeId(1));
  sim::SimPool pool(&executor);
  ExecutorContract(&executor, &pool, [&](auto task) { return world.Run(executor, std::move(task)); });
}

TEST_CASE("reactor: another thread's posts arrive in its order and wake the loop", "[io][unit]") {
  io::Reactor reactor;
  std::vector<int> got;
  std::thread other([&] {
    for (int i = 0; i < 10'000; ++i) reactor.Post([&got, i] { got.push_back(i); });
    reactor.Stop();
  });
  reactor.Run();
  other.join();
  REQUIRE(got.size() == 10'000);
  CHECK(std::is_sorted(got.begin(), got.end()));
}

TEST_CASE("reactor: a descriptor's callback may end its own watch and another's", "[io][unit]") {
  io::Reactor reactor;
  int one[2], two[2];
  REQUIRE(pipe(one) == 0);
  REQUIRE(pipe(two) == 0);
  int calls = 0;
  auto both_gone = [&](uint32_t) {
    ++calls;
    reactor.Unwatch(one[0]);
    reactor.Unwatch(two[0]);
    reactor.Post([&] { reactor.Stop(); });
  };
  CHECK(reactor.Watch(one[0], EPOLLIN, both_gone).ok());
  CHECK(reactor.Watch(two[0], EPOLLIN, both_gone).ok());
  CHECK(write(one[1], "x", 1) == 1);
  CHECK(write(two[1], "x", 1) == 1);
  reactor.Run();
  CHECK(calls == 1);
  for (int fd : {one[0], one[1], two[0], two[1]}) close(fd);
}

TEST_CASE("reactor: signals come to the loop", "[io][unit]") {
  io::Reactor reactor;
  int usr1 = 0;
  reactor.OnSignal(SIGUSR1, [&] {
    ++usr1;
    reactor.Stop();
  });
  reactor.OnSignal(SIGUSR2, [&] {});
  raise(SIGUSR1);
  reactor.Run();
  CHECK(usr1 == 1);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  sigaddset(&set, SIGUSR2);
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

TEST_CASE("io: system randomness does not repeat itself", "[io][unit]") {
  io::SystemRandom random;
  std::set<uint64_t> seen;
  for (int i = 0; i < 1000; ++i) seen.insert(random.Next());
  CHECK(seen.size() == 1000);
}
