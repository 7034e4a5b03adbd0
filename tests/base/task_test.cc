// Facts about Task, Scope and the waiting primitives, on a minimal executor.
#include <catch2/catch.hpp>

#include <deque>
#include <map>

#include "base/crc32c.h"
#include "base/le.h"
#include "base/sync.h"

namespace holdfast {
namespace {

class InlineClock : public Clock {
 public:
  Instant Now() const override { return now; }
  WallTime Wall() const override { return {}; }
  Instant now;
};

// Runs what is posted; virtual time jumps to the next timer.
class LoopExecutor : public Executor {
 public:
  void Post(std::function<void()> fn) override { ready_.push_back(std::move(fn)); }
  void Post(std::coroutine_handle<> h) override {
    ready_.push_back([h] { h.resume(); });
  }
  TimerId PostAt(Instant when, std::function<void()> fn) override {
    timers_.emplace(std::make_pair(when.ns, ++next_), std::move(fn));
    return next_;
  }
  void Cancel(TimerId id) override {
    std::erase_if(timers_, [id](auto& t) { return t.first.second == id; });
  }
  Clock& clock() override { return clock_; }
  void Run() {
    ExecutorTurn turn(this);
    while (!ready_.empty() || !timers_.empty()) {
      if (ready_.empty()) {
        auto t = timers_.begin();
        clock_.now.ns = std::max(clock_.now.ns, t->first.first);
        ready_.push_back(std::move(t->second));
        timers_.erase(t);
      }
      auto fn = std::move(ready_.front());
      ready_.pop_front();
      fn();
    }
  }

 private:
  std::deque<std::function<void()>> ready_;
  std::map<std::pair<uint64_t, TimerId>, std::function<void()>> timers_;
  TimerId next_ = 0;
  InlineClock clock_;
};

Task<int> Leaf(int i) { co_return i; }
Task<int64_t> Sum(int n) {
  int64_t sum = 0;
  for (int i = 0; i < n; ++i) {
    int v = co_await Leaf(i);
    sum += v;
  }
  co_return sum;
}

void RunTask(LoopExecutor& ex, Task<void> t) {
  ExecutorTurn turn(&ex);
  Detach(std::move(t));
  ex.Run();
}

}  // namespace

TEST_CASE("task: a million awaits of ready tasks do not grow the stack", "[base][unit]") {
  LoopExecutor ex;
  int64_t got = 0;
  auto root = [](int64_t* out) -> Task<void> {
    int64_t v = co_await Sum(1'000'000);
    *out = v;
  };
  RunTask(ex, root(&got));
  REQUIRE(got == 499'999'500'000);
}

TEST_CASE("scope: join returns after every spawned task", "[base][unit]") {
  LoopExecutor ex;
  int done = 0;
  bool joined_after_all = false;
  auto child = [](int ms, int* d) -> Task<void> {
    co_await SleepFor(Milliseconds(ms));
    ++*d;
  };
  auto root = [&child](int* d, bool* ok) -> Task<void> {
    Scope scope;
    for (int i = 0; i < 10; ++i) scope.Spawn(child(10 - i, d));
    co_await scope.Join();
    *ok = *d == 10;
  };
  RunTask(ex, root(&done, &joined_after_all));
  REQUIRE(joined_after_all);
}

TEST_CASE("mutex: waiters enter in order and alone", "[base][unit]") {
  LoopExecutor ex;
  Mutex m;
  std::vector<int> order;
  int inside = 0;
  auto worker = [](Mutex* mu, int id, std::vector<int>* o, int* in) -> Task<void> {
    Mutex::Guard g = co_await mu->Lock();
    REQUIRE(++*in == 1);
    co_await SleepFor(Milliseconds(1));
    o->push_back(id);
    --*in;
  };
  auto root = [&](int) -> Task<void> {
    Scope scope;
    for (int i = 0; i < 5; ++i) scope.Spawn(worker(&m, i, &order, &inside));
    co_await scope.Join();
  };
  RunTask(ex, root(0));
  REQUIRE(order == std::vector<int>{0, 1, 2, 3, 4});
  REQUIRE(!m.locked());
}

TEST_CASE("crc32c: the published check value", "[base][unit]") {
  const char* text = "123456789";
  REQUIRE(Crc32c({reinterpret_cast<const std::byte*>(text), 9}) == 0xE3069283u);
  uint32_t first = Crc32c({reinterpret_cast<const std::byte*>(text), 4});
  REQUIRE(Crc32c({reinterpret_cast<const std::byte*>(text) + 4, 5}, first) == 0xE3069283u);
}

TEST_CASE("le: bytes are little-endian whatever the machine", "[base][unit]") {
  Le32 x = 0x01020304u;
  auto* p = reinterpret_cast<uint8_t*>(&x);
  REQUIRE((p[0] == 4 && p[1] == 3 && p[2] == 2 && p[3] == 1));
  REQUIRE(static_cast<uint32_t>(x) == 0x01020304u);
}

}  // namespace holdfast
