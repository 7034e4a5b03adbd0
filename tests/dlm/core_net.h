// A handful of cores joined by wires without delay, for scenarios that are told step by step.
#pragma once

#include <map>
#include <memory>
#include <optional>

#include "base/log.h"
#include "dlm/core.h"
#include "tests/dlm/sim_register.h"

namespace holdfast::dlm {

class CoreNet {
 public:
  explicit CoreNet(uint32_t members) {
    SetLogLevel(LogLevel::kOff);
    for (uint32_t n = 1; n <= members; ++n) reg.Join(Add(n));
    Feed();
  }
  static MemberId IdOf(uint32_t node, uint64_t life = 1) { return {NodeId(node), Incarnation(life), node * 1000 + life}; }
  MemberId Add(uint32_t node, uint64_t life = 1) {
    cores[IdOf(node, life)] = std::make_unique<Core>(IdOf(node, life));
    return IdOf(node, life);
  }
  Core& At(uint32_t node, uint64_t life = 1) { return *cores.at(IdOf(node, life)); }
  // Power off: what it has not sent is lost. The register is told separately.
  void Kill(uint32_t node) { cores.erase(IdOf(node)); }
  void Feed() {
    for (auto& [id, core] : cores) core->SetView(reg.view());
    Pump();
  }
  void Pump() {
    for (bool more = true; more;) {
      more = false;
      for (auto& [id, core] : cores) {
        for (Upcall& up : core->TakeUpcalls()) {
          if (up.what == Upcall::What::kDone) done[{id, up.op}] = up;
          if (up.what == Upcall::What::kBlocking) blocked.emplace_back(id, up.mode);
        }
        for (Outgoing& out : core->TakeMessages()) {
          more = true;
          if (auto to = cores.find(out.to); to != cores.end()) to->second->Step(id, std::move(out.message));
        }
      }
    }
  }
  struct Op {
    MemberId id;
    uint64_t op;
  };
  Op Lock(uint32_t node, LockId lock, Mode mode, Flags flags = Flags::kNone) {
    auto op = At(node).requester().Request(lock, mode, flags, {});
    At(node).Settle();
    Pump();
    return {IdOf(node), op.ok() ? *op : 0};
  }
  Op Unlock(uint32_t node, LockId lock) {
    auto op = At(node).requester().Unlock(lock, std::nullopt);
    At(node).Settle();
    Pump();
    return {IdOf(node), op.ok() ? *op : 0};
  }
  LockId Create(uint32_t node, const char* name) { return At(node).requester().Create(ResourceName(name)); }
  std::optional<Errc> Result(const Op& op) const {
    auto it = done.find({op.id, op.op});
    if (it == done.end()) return std::nullopt;
    return it->second.status;
  }
  std::optional<bool> Frozen(uint32_t node, const char* name) {
    auto op = At(node).requester().Query(ResourceName(name));
    At(node).Settle();
    Pump();
    auto it = done.find({IdOf(node), *op});
    if (it == done.end()) return std::nullopt;
    return it->second.frozen;
  }

  SimRegister reg;
  std::map<MemberId, std::unique_ptr<Core>> cores;
  std::map<std::pair<MemberId, uint64_t>, Upcall> done;
  std::vector<std::pair<MemberId, Mode>> blocked;
};

}  // namespace holdfast::dlm
