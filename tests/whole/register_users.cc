#include "tests/whole/register_users.h"

#include <algorithm>

#include "base/log.h"
#include "base/probe.h"
#include "tests/whole/daemon_life.h"

namespace holdfast::whole {

using cluster::ClusterState;
using cluster::StatePtr;

void RegisterUsers::Violate(std::string what) {
  if (!violation_.empty()) return;
  violation_ = "I2: " + std::move(what);
  HF_LOG(LogLevel::kError, "register", "violation", {{"what", violation_}});
}

void RegisterUsers::Told(const ClusterState& state) {
  // Each change is a version of its own: the last id is this version's, the ones before it those of the versions before.
  for (int i = 0; i < state.applied_size(); ++i) {
    uint64_t change = state.applied(state.applied_size() - 1 - i), version = state.version() - static_cast<uint64_t>(i);
    auto [at, fresh] = version_of_.try_emplace(change, version);
    if (!fresh && at->second == version) break;  // the rest was known with it
    if (!fresh) return Violate("change " + std::to_string(change) + " came twice, with versions " + std::to_string(at->second) + " and " + std::to_string(version));
    auto [other, first] = change_of_.try_emplace(version, change);
    if (!first && other->second != change) return Violate("two changes made version " + std::to_string(version));
  }
  newest_ = std::max(newest_, state.version());
}

void RegisterUsers::Start(DaemonLife* life) { life->executor->Spawn(Use(life)); }

Task<void> RegisterUsers::Use(DaemonLife* life) {
  sim::SimRandom& random = world_->random();
  for (;;) {
    co_await SleepFor(random.Between(Milliseconds(50), Milliseconds(900)));
    if (quiet_ || !violation_.empty()) co_return;
    if (life->core->end() != cluster::DaemonEnd::kRunning) co_return;
    cluster::Engine* engine = life->core->engine();
    if (!engine || !engine->state()) continue;
    Op op;
    op.newest = newest_;
    op.who = cluster::ToString(life->life());
    cluster::ChangeOptions options;
    options.limit = random.Between(Milliseconds(300), Seconds(4));
    Result<StatePtr> result = Errc::kTimeout;
    if (random.Chance(600'000)) {
      result = co_await engine->Read(options);
    } else {
      op.id = engine->NewChangeId();
      uint64_t id = op.id;
      cluster::ChangeFn change = [id](const ClusterState& s) -> Result<ClusterState> {
        if (std::find(s.applied().begin(), s.applied().end(), id) != s.applied().end()) return s;
        ClusterState next = s;
        next.set_version(s.version() + 1);
        next.add_applied(id);
        if (next.applied_size() > cluster::kAppliedMax)
          next.mutable_applied()->ExtractSubrange(0, next.applied_size() - cluster::kAppliedMax, nullptr);
        return next;
      };
      result = co_await engine->Change(change, options);
    }
    ++operations_;
    Ended(op, result);
  }
}

void RegisterUsers::Ended(const Op& op, const Result<StatePtr>& result) {
  if (!result.ok()) {
    HF_PROBE("register user: no answer");
    return;
  }
  const ClusterState& state = **result;
  Told(state);
  std::string what = op.id == 0 ? "a read" : "change " + std::to_string(op.id);
  if (op.id == 0) {
    if (state.version() < op.newest)
      Violate(what + " of " + op.who + " returned version " + std::to_string(state.version()) + ", but version " + std::to_string(op.newest) +
              " had been told before it began");
    return;
  }
  auto at = version_of_.find(op.id);
  if (at == version_of_.end()) return Violate(what + " of " + op.who + " was told done with version " + std::to_string(state.version()) + " and is not in it");
  if (at->second <= op.newest)
    Violate(what + " of " + op.who + " is version " + std::to_string(at->second) + ", but version " + std::to_string(op.newest) +
            " had been told before it began");
}

}  // namespace holdfast::whole
