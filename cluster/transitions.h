// Transitions: every change of ClusterState, as pure functions from old state to new. A change names the (node,
// incarnation, state) that it expects and carries a random change id:
//   - it fits:              the new state, version + 1, generation + 1 of each lockspace whose members changed
//   - the id was applied, or nothing would change: the old state as it is (same version)
//   - it does not fit:      kConflict; kFenced where the actor has been evicted (it may only ask to join)
// The register calls them with whatever value its ballot read, perhaps more than once: no side effects.
// INVARIANTS: a generation changes only when that lockspace's members change; an evicted life never becomes a member
// again; a mount number that is owed is not given out while another is free or a member lives; nothing is replayed
// or opened here without its token.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "cluster/state.pb.h"

namespace holdfast::cluster {

using ChangeId = uint64_t;  // random; never 0

inline constexpr int kAppliedMax = 128;     // ids kept
inline constexpr int kFenceStepsMax = 16;   // per victim; the oldest go
inline constexpr int kLockspacesMax = 32;
inline constexpr uint32_t kMountsMax = 256;

// One life of a node.
struct Life {
  NodeId node;
  Incarnation incarnation;
  constexpr auto operator<=>(const Life&) const = default;
};
std::string ToString(const Life& life);  // "n2.5"

// ---- reading ----
const Node* FindNode(const ClusterState& state, NodeId id);
const Lockspace* FindLockspace(const ClusterState& state, const std::string& name);
const Fencing* FindFencing(const ClusterState& state, Life life);
bool IsMember(const ClusterState& state, Life life);
bool IsJoining(const ClusterState& state, Life life);
// Members of the cluster, by id.
std::vector<Life> Members(const ClusterState& state);
Life LifeOf(const Node& node);
// No token is missing and no action runs against any older life of this node: it may be admitted.
bool FormerLivesEnded(const ClusterState& state, NodeId node);
// nodeid 16 | start nonce 32 | process 16 (0: holdfastd, mount number + 1)
uint64_t ReservationKeyOf(NodeId node, uint64_t nonce, uint32_t process);
std::string StateName(NodeState state);
std::string ProofName(ProofKind kind);

// ---- the cluster ----
struct InitClusterArgs {
  std::string cluster_name;
  std::string cluster_uuid;  // 16 random bytes
  uint64_t config_version = 0;
  std::string config_hash;
  struct InitNode {
    NodeId id;
    std::string name;
    uint32_t votes = 1;
    uint64_t storage = 0;  // 0: not known; that acceptor is admitted when it comes
  };
  std::vector<InitNode> nodes;
  uint32_t disk_votes = 0;  // 0: the disk is no acceptor
  uint64_t area_id = 0;
};
Result<ClusterState> InitCluster(const InitClusterArgs& args);  // version 1

struct ConfigVersionArgs {
  ChangeId change = 0;
  Life by;                     // a member, or a joiner where there is no member
  uint64_t expected_version = 0;
  uint64_t version = 0;
  std::string hash;
};
Result<ClusterState> ConfigVersion(const ClusterState& state, const ConfigVersionArgs& args);

// A node's acceptor lost its memory and comes back under a new storage id. Use Change(…, {.confirmed = true}).
struct ReadmitStorageArgs {
  ChangeId change = 0;
  NodeId node;
  uint64_t old_storage = 0;
  uint64_t new_storage = 0;
};
Result<ClusterState> ReadmitStorage(const ClusterState& state, const ReadmitStorageArgs& args);

// ---- nodes ----
struct BeginJoinArgs {
  ChangeId change = 0;
  NodeId node;
  uint64_t nonce = 0;
  std::string boot_id;
  std::string endpoint;
  std::string cluster_name;    // kInvalid if it is another
  uint64_t config_version = 0; // kStale if it is not the register's
  std::string config_hash;
};
// configured|joining|member|evicted|fenced|left -> joining, incarnation + 1. A life that was a member is evicted by it.
Result<ClusterState> BeginJoin(const ClusterState& state, const BeginJoinArgs& args);

struct AdmitJoinArgs {
  ChangeId change = 0;
  Life by;                                          // a member
  std::vector<std::pair<Life, uint64_t>> joiners;   // (life, nonce); those that do not fit are left out
};
Result<ClusterState> AdmitJoin(const ClusterState& state, const AdmitJoinArgs& args);

// Nobody is left: joiners become members, and every member that the register shows is evicted.
struct ColdStartArgs {
  ChangeId change = 0;
  Life by;                                         // one of the joiners
  std::vector<std::pair<Life, uint64_t>> joiners;
  std::vector<Life> victims;                       // exactly the members that the register shows
};
Result<ClusterState> ColdStart(const ClusterState& state, const ColdStartArgs& args);

struct CleanLeaveArgs {
  ChangeId change = 0;
  Life node;
};
// kBusy while it is a member of a lockspace.
Result<ClusterState> CleanLeave(const ClusterState& state, const CleanLeaveArgs& args);

struct EvictArgs {
  ChangeId change = 0;
  Life by;  // a member, not among the victims
  std::vector<Life> victims;  // those that are no members (any more) are left out
  std::string reason;
};
Result<ClusterState> Evict(const ClusterState& state, const EvictArgs& args);

// ---- fencing ----
// `by` of all of these: a member; or a joining node against former lives of itself.
struct FenceArgs {
  ChangeId change = 0;
  Life by;
  Life victim;
};
// kBusy: another living node is the fencer.
Result<ClusterState> ClaimFencer(const ClusterState& state, const FenceArgs& args);
// The fencer gives up; another may take over. Its actions have ended.
Result<ClusterState> ResignFencer(const ClusterState& state, const FenceArgs& args);
Result<ClusterState> RecordFenceStep(const ClusterState& state, const FenceArgs& args, const FenceStep& step);
// evicted -> fenced. The proof is sufficient. POWER, REBOOT and MANUAL end the readers too.
Result<ClusterState> WriteToken(const ClusterState& state, const FenceArgs& args, const std::vector<FenceProof>& proofs);
// Nothing more is done to this life (the methods behind the first sufficient proof have ended).
Result<ClusterState> FenceActionsEnded(const ClusterState& state, const FenceArgs& args);
Result<ClusterState> ReadersEnded(const ClusterState& state, const FenceArgs& args);
// A person answers for it. `by` may be any node; all waiting lives of the node are acknowledged.
struct ManualAckArgs {
  ChangeId change = 0;
  NodeId node;
  std::string who;
};
Result<ClusterState> ManualAck(const ClusterState& state, const ManualAckArgs& args);

// ---- lockspaces ----
struct LockspaceJoinArgs {
  ChangeId change = 0;
  Life by;
  std::string name;
  std::string volume_uuid;  // kInvalid if the lockspace's is another
  std::string volume_url;
  uint64_t nonce = 0;
  std::string address;
  uint32_t mounts_max = 0;  // kNoSpace: all numbers below it are in use or owed
};
// The lowest mount number that is neither used nor owed. Find the result with FindLockspaceMember (it may be missing from
// a state that is newer than the join: evicted meanwhile).
Result<ClusterState> LockspaceJoin(const ClusterState& state, const LockspaceJoinArgs& args);
const LockspaceMember* FindLockspaceMember(const ClusterState& state, const std::string& name, const MemberId& id);

struct LockspaceArgs {
  ChangeId change = 0;
  std::string name;
  MemberId member;  // what happens to it; its node must be a member of the cluster
};
Result<ClusterState> LockspaceLeave(const ClusterState& state, const LockspaceArgs& args);
// A mount died or withdrew, its node lives: a victim with its own proof.
Result<ClusterState> MountDied(const ClusterState& state, const LockspaceArgs& args, const std::string& reason);

struct MountProofArgs {
  ChangeId change = 0;
  Life by;
  std::string name;
  MemberId victim;
  std::string proof;
  bool readers_ended = false;
};
// The first: fenced. Again with readers_ended: the second gate.
Result<ClusterState> MountProof(const ClusterState& state, const MountProofArgs& args);

struct ReplayArgs {
  ChangeId change = 0;
  std::string name;
  MemberId by;  // a member of the lockspace
  MemberId victim;
};
// kBusy: another member is at it. kConflict: not fenced yet. kNotFound: nothing is owed any more.
Result<ClusterState> ClaimReplay(const ClusterState& state, const ReplayArgs& args);
Result<ClusterState> ReplayDone(const ClusterState& state, const ReplayArgs& args);

}  // namespace holdfast::cluster
