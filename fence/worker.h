// FenceRun::Worker: the order logic of one fencing, as coroutines over the seams (internal to fence/).
//
//   Storage()  step on every volume with reservations, again until it works  -> proof kStorage
//   Methods()  in order, round after round, until one succeeds               -> proof of its devices, after the barrier
//   both start together; what is still to do when the token is complete goes on "behind": the storage step a few times,
//   the methods to the end of their round.
// A method's proof is given after its last `off`: then every device of it was off at once; an `on` before that spoils it.
// action="reboot", or none: off, confirmed OFF, and `on` behind the token. Barrier: the array drained, or the victim's
// bytes locked, after the proof, because what was accepted before a power cut still lands.
#pragma once

#include <string>
#include <vector>

#include "fence/agent.h"
#include "fence/domain.h"
#include "fence/types.h"

namespace holdfast::fence {

struct FenceRun::Worker {
  Worker(FenceSeams s, FencePolicy p, Agents* a, SeenPorts* sp, std::shared_ptr<FenceRun> r, std::vector<FenceMethod> m, StepSink on_step)
      : seams(s), policy(p), agents(a), seen(sp), run(std::move(r)), methods(std::move(m)), sink(std::move(on_step)) {}

  FenceSeams seams;
  FencePolicy policy;
  Agents* agents;
  SeenPorts* seen;
  std::shared_ptr<FenceRun> run;
  std::vector<FenceMethod> methods;
  StepSink sink;

  Task<void> Storage();
  Task<void> Methods();
  Task<void> OwnBytes();  // our own former life, on image files
  // What the array accepted before now has landed, on every volume. `skip_storage`: those with reservations are done.
  Task<Status> Barrier(const char* method, bool skip_storage);
  void AddProof(FenceProof proof);
  bool cancelled() const { return run->cancelled_; }
  bool StorageVolumes() const;
  // Sleeps; false: cancelled.
  Task<bool> Pause(Duration how_long);

 private:
  struct OffReport {
    ProofKind kind = ProofKind::kPower;
    std::string words;
  };
  struct Place {
    std::string method, device;
    uint32_t round = 0;
  };
  Task<Status> StorageOnce(bool* persistent, std::string* details);
  Task<bool> Method(const FenceMethod* method, uint32_t round);
  Task<Result<OffReport>> Off(FenceDevice device, Place place);
  Task<Result<OffReport>> AgentOff(FenceDevice device, Place place);
  Task<Result<OffReport>> LocalOff(FenceDevice device, Place place);
  Task<Result<OffReport>> StorageOff(Place place);
  Task<Status> SeenOn(FenceDevice device, Place place);
  Task<Status> Call(FenceDevice device, Place place, const char* action, AgentAnswer wanted);
  bool AcceptsVolatile() const;
  std::string NotSufficient() const;
  bool OnlyCovered() const;
  void Started(const Place& place, const std::string& action);
  void Ended(const Place& place, const std::string& action, Instant begun, const Status& outcome, const std::string& details = {});

  bool storage_done_ = false;        // the step has succeeded
  bool storage_sufficient_ = false;
};

}  // namespace holdfast::fence
