// What fencing is asked and what it answers: devices and methods as cluster.conf lists them (no XML here), the victim,
// proofs, and steps for the history. Plain values; nothing here acts. docs/protocols/fencing.md.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "base/reservations.h"

namespace holdfast::fence {

// One <device> of a method, merged with its <fencedevice>: the device's attributes override.
struct FenceDevice {
  std::string name;                               // of the <fencedevice>
  std::string agent;                              // a program, or built in: "fence_pr", "fence_local"
  std::map<std::string, std::string> attributes;  // without name and agent; may hold secrets: never log it whole
};

// Succeeds when all its devices do, in order. Two power supplies: off, off, on, on.
struct FenceMethod {
  std::string name;
  std::vector<FenceDevice> devices;
};

// A volume that the victim had in use, and how.
struct VictimVolume {
  std::string volume;           // path or URL (may hold a secret)
  std::vector<MountNo> mounts;  // of the victim, on this volume
  bool daemon = false;          // the victim's holdfastd used it (quorum area)
};

struct Victim {
  NodeId node;
  std::string name;
  Incarnation incarnation;
  std::vector<ReservationKey> keys;  // all of this incarnation; keys with the same node and nonce are added from READ KEYS
  std::vector<VictimVolume> volumes;
  // The fencer is this node's own next life: no agent and no cgroup (they would hit ourselves); its old keys are
  // preempted and drained, the bytes of its old mounts are taken. Leave `daemon` false where we hold that byte ourselves.
  bool own_former_life = false;
};

enum class ProofKind : uint8_t {
  kPower,     // power off, confirmed off
  kPort,      // its port seen ON, then OFF
  kStorage,   // keys preempted, array drained, keys gone, reservation stands
  kLocal,     // lab: all its processes gone, its byte locks taken by the prover
  kManual,    // a human said so
  kRebooted,  // it shows a new boot id
};
std::string_view ProofName(ProofKind kind);

struct FenceProof {
  ProofKind kind = ProofKind::kPower;
  bool sufficient = false;     // the fence token may rest on it
  bool readers_ended = false;  // nothing of the victim runs: the second gate (cached readers) opens at once
  std::string method, device;
  std::string details;         // one line for a person; never a secret
  WallTime at;
};

enum class StepOutcome : uint8_t { kStarted, kSucceeded, kFailed, kTimedOut, kSkipped, kCancelled };
std::string_view OutcomeName(StepOutcome outcome);

// One thing done towards fencing. Every step is reported when it starts and when it ends.
struct FenceStep {
  NodeId node;
  Incarnation incarnation;
  std::string method;  // "storage" for the built-in storage step
  std::string device;
  std::string action;  // "off", "status", "on", "preempt", "drain", "verify", "kill", "lock", ...
  StepOutcome outcome = StepOutcome::kStarted;
  std::string details;
  WallTime at;
  Duration took;       // 0 for kStarted
  uint32_t round = 0;  // methods are cycled until one works
  bool behind = false; // after the token
};
using StepSink = std::function<void(const FenceStep&)>;

// Knobs. Seconds in cluster.conf become Durations at the caller.
struct FencePolicy {
  Duration post_fail_delay{0};              // before the first action
  Duration device_timeout = Seconds(60);    // one agent call; a device's own agent_timeout= overrides
  uint32_t device_retries = 2;              // calls after the first that failed; agent_retries= overrides, at most 10
  Duration retry_delay = Seconds(1);        // between those; agent_retry_wait= overrides
  Duration round_delay = Seconds(2);        // between rounds through the methods
  Duration storage_timeout = Seconds(30);   // one attempt of the storage step
  bool accept_storage_alone = false;        // the storage proof is sufficient even where keys do not survive the array's
                                            // power loss (labs); a fence_pr device with accept_volatile="1" says the same
};

// Does an attribute of that name hold a secret?
bool IsSecret(const std::string& name);
// attributes as they may be shown: secrets replaced by "***".
std::map<std::string, std::string> Redacted(const std::map<std::string, std::string>& attributes);
// A URL without its password.
std::string RedactedUrl(const std::string& url);

}  // namespace holdfast::fence
