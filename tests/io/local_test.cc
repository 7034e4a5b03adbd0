// The contracts of KvStore and Processes against both lives.
#include <catch2/catch.hpp>

#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include "io/processes.h"
#include "io/reactor.h"
#include "io/rocks_store.h"
#include "io/thread_pool.h"
#include "tests/io/temp_dir.h"
#include "tests/sim/kv_store.h"
#include "tests/sim/processes.h"

using namespace holdfast;

namespace {

KvBatch Put(std::string key, std::string value) {
  KvBatch batch;
  batch.puts.push_back({std::move(key), std::move(value)});
  return batch;
}

Task<void> WriteMany(KvStore* store, int count) {
  Scope scope;
  for (int i = 0; i < count; ++i)
    scope.Spawn([](KvStore* s, int n) -> Task<void> {
      auto status = co_await s->Write(Put("last", std::to_string(n)), false);
      CHECK(status.ok());
    }(store, i));
  co_await scope.Join();
}

template <class Run>
void KvStoreContract(KvStore* store, Run run) {
  CHECK(run(store->Write(Put("a/1", "one"), true)).ok());
  KvBatch batch = Put("a/2", std::string(100'000, 'x'));
  batch.puts.push_back({"b", std::string("\0binary", 7)});
  batch.deletes.push_back("a/1");
  CHECK(run(store->Write(batch, false)).ok());
  CHECK_FALSE(run(store->Get("a/1"))->has_value());
  CHECK(run(store->Get("a/2"))->value().size() == 100'000);
  CHECK(run(store->Get("b"))->value() == std::string("\0binary", 7));
  CHECK(run(store->Write(Put("a/0", "zero"), true)).ok());
  auto all = run(store->Scan("a/", 10));
  REQUIRE(all->size() == 2);
  CHECK((*all)[0].first == "a/0");
  CHECK((*all)[1].first == "a/2");
  CHECK(run(store->Scan("a/", 1))->size() == 1);
  CHECK(run(store->Scan("zz", 10))->empty());
  run(WriteMany(store, 50));
  CHECK(run(store->Get("last"))->value() == "49");  // writes keep their order
}

ProcessSpec Shell(std::string script, Duration timeout = Seconds(10)) {
  ProcessSpec spec;
  spec.program = "/bin/sh";
  spec.args = {"-c", std::move(script)};
  spec.timeout = timeout;
  return spec;
}

// `sh` of the simulated world knows the scripts of the contract.
sim::SimProcesses::Answer SimShell(const ProcessSpec& spec) {
  sim::SimProcesses::Answer answer;
  const std::string& script = spec.args.at(1);
  answer.outcome.exit_code = 0;
  if (script == "cat; echo $NAME >&2; exit 3") {
    answer.outcome.output = spec.standard_input;
    answer.outcome.errors = spec.environment.at("NAME") + "\n";
    answer.outcome.exit_code = 3;
  } else if (script == "sleep 100 & sleep 100") {
    answer.takes = Seconds(100);
  }
  return answer;
}

template <class Run>
void ProcessesContract(Processes* processes, Run run) {
  SECTION("input, environment, output, exit code") {
    ProcessSpec spec = Shell("cat; echo $NAME >&2; exit 3");
    spec.standard_input = std::string(200'000, 'i');
    spec.environment["NAME"] = "value";
    auto outcome = run(processes->Run(spec));
    REQUIRE(outcome.ok());
    CHECK(outcome->exit_code == 3);
    CHECK(outcome->output == spec.standard_input);
    CHECK(outcome->errors == "value\n");
    CHECK_FALSE(outcome->timed_out);
  }
  SECTION("a timeout kills the whole group") {
    auto outcome = run(processes->Run(Shell("sleep 100 & sleep 100", Milliseconds(200))));
    REQUIRE(outcome.ok());
    CHECK(outcome->timed_out);
    CHECK(outcome->exit_code == -1);
  }
  SECTION("a program that does not exist is kNotFound") {
    ProcessSpec spec;
    spec.program = "/no/such/agent";
    CHECK(run(processes->Run(spec)).code() == Errc::kNotFound);
  }
  SECTION("a process that does not exist has ended") {
    CHECK(run(processes->AwaitExit(0x3ffffff0, Milliseconds(100))).ok());
  }
}

}  // namespace

TEST_CASE("contract KvStore: RocksDB", "[io][contract][unit]") {
  TempDir dir;
  io::Reactor reactor;
  io::ThreadPool pool(3);
  auto run = [&](auto task) { return reactor.RunTask(std::move(task)); };
  {
    auto store = io::RocksStore::Open(&pool, dir / "store");
    REQUIRE(store.ok());
    KvStoreContract(store->get(), run);
    CHECK(io::RocksStore::Open(&pool, dir / "store").code() == Errc::kBusy);
  }
  auto again = io::RocksStore::Open(&pool, dir / "store");
  REQUIRE(again.ok());
  CHECK(run((*again)->Get("a/0"))->value() == "zero");
}

TEST_CASE("contract KvStore: simulation", "[io][contract][unit]") {
  sim::World world(1);
  sim::SimExecutor& executor = world.Start(NodeId(1));
  sim::SimKvMedium medium(&world);
  sim::SimKvStore store(&executor, &medium);
  KvStoreContract(&store, [&](auto task) { return world.Run(executor, std::move(task)); });
}

TEST_CASE("contract Processes: this machine", "[io][contract][unit]") {
  io::Reactor reactor;
  io::SystemProcesses processes(&reactor);
  ProcessesContract(&processes, [&](auto task) { return reactor.RunTask(std::move(task)); });
}

TEST_CASE("contract Processes: simulation", "[io][contract][unit]") {
  sim::World world(1);
  sim::SimExecutor& executor = world.Start(NodeId(1));
  sim::SimProcesses processes(&executor);
  processes.Define("/bin/sh", SimShell);
  ProcessesContract(&processes, [&](auto task) { return world.Run(executor, std::move(task)); });
}

TEST_CASE("processes: the end of another process is seen, and waiting has a limit", "[io][unit]") {
  io::Reactor reactor;
  io::SystemProcesses processes(&reactor);
  int hold[2];
  REQUIRE(pipe(hold) == 0);
  pid_t child = fork();
  if (child == 0) {
    close(hold[1]);
    char c;
    (void)!read(hold[0], &c, 1);
    _exit(0);
  }
  close(hold[0]);
  CHECK(reactor.RunTask(processes.AwaitExit(child, Milliseconds(50))).code() == Errc::kTimeout);
  close(hold[1]);
  CHECK(reactor.RunTask(processes.AwaitExit(child, Seconds(10))).ok());
  waitpid(child, nullptr, 0);
}
