// Pool: a few threads for calls that block or burn CPU. The work must touch nothing of the reactor's; its result
// comes back through the executor. Production: io/thread_pool.h; simulation runs it after a random delay.
#pragma once

#include <functional>
#include <memory>
#include <utility>

#include "base/sync.h"
#include "base/task.h"

namespace holdfast {

class Pool {
 public:
  virtual ~Pool() = default;
  // Runs work on some thread, then `done` on the executor that called Submit.
  virtual void Submit(std::function<void()> work, std::function<void()> done) = 0;

  // Awaits work's result. Captures by value; both lambdas outlive the frame.
  template <class T>
  Task<T> Run(std::function<T()> work) {
    struct State {
      std::optional<T> value;
      Completion<bool> finished;
    };
    auto state = std::make_shared<State>();
    Submit([state, work = std::move(work)] { state->value.emplace(work()); }, [state] { state->finished.Set(true); });
    co_await state->finished;
    co_return std::move(*state->value);
  }
};

}  // namespace holdfast
