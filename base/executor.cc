#include "base/executor.h"

#include "base/check.h"

namespace holdfast {
namespace {
thread_local Executor* current = nullptr;
}  // namespace

Executor& Executor::Current() {
  HF_CHECK(current != nullptr, "no executor runs on this thread");
  return *current;
}
Executor* Executor::CurrentOrNull() { return current; }

ExecutorTurn::ExecutorTurn(Executor* executor) : previous_(current) { current = executor; }
ExecutorTurn::~ExecutorTurn() { current = previous_; }

}  // namespace holdfast
