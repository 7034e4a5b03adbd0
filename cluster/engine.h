// Engine: one node's part in the cluster, assembled from the pure cores: heartbeats (network, disk), membership
// verdicts, the register, the lease. holdfastd and the simulator run this same class over the seams.
//
//   Start: store -> disk (drain, twin check, area id) -> loops. It then joins by itself: BeginJoin, is admitted by a live
//   member that hears it, or, where nobody lives, takes part in a cold start. What it decides it proposes as transitions
//   (BeginJoin, AdmitJoin, ColdStart, Evict, ReadmitStorage). Fencing, lockspaces and config are the owner's: Change().
//
// Threading: one executor; callbacks are posted, never inline. docs/protocols/membership.md, register.md.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/block_device.h"
#include "base/executor.h"
#include "base/kv_store.h"
#include "base/random.h"
#include "base/result.h"
#include "base/status_tree.h"
#include "base/sync.h"
#include "base/task.h"
#include "cluster/mutants.h"
#include "cluster/quorum_area.h"
#include "cluster/state.pb.h"
#include "cluster/transitions.h"

namespace holdfast::cluster {

using StatePtr = std::shared_ptr<const ClusterState>;
// A transition bound to its arguments. It may be called several times and must be pure. A Change object whose outcome is
// unknown (kTimeout, kNoQuorum) may be given again with the same change id.
using ChangeFn = std::function<Result<ClusterState>(const ClusterState&)>;

struct EngineTiming {
  Duration heartbeat = Milliseconds(200);
  Duration token = Milliseconds(1000);       // silence after which a member is evicted
  Duration lease = Milliseconds(2000);
  Duration lease_margin = Milliseconds(500); // for drift; added before readers count as ended
  Duration post_join_delay = Seconds(6);     // a cold start waits so long for members that the register shows
  Duration disk_token = Seconds(10);         // heard on the network, silent on disk while most are not: evicted
  Duration rank_step = Milliseconds(150);    // the r-th of the chosen group waits r steps before it proposes
  Duration attempt = Milliseconds(1000);     // one ballot's phases
  uint32_t stable_beats = 2;                 // the picture must be so old; part of `token`, not added to it
};

struct EngineOptions {
  NodeId self;
  uint64_t nonce = 0;          // random per start, never 0
  std::string boot_id;
  std::string endpoint;
  std::string cluster_name;
  uint64_t config_version = 0;
  std::string config_hash;
  std::vector<NodeId> nodes;   // all configured nodes, with self
  EngineTiming timing;
  bool join = true;            // false: acceptor and observer only (quorum init over the network, tools)
  // The disk as acceptor and heartbeat medium; nullptr: none.
  BlockDevice* disk = nullptr;
  uint64_t disk_offset = 0;
  // Returns when nothing that an older session or life of this node sent to the disk can land any more (LOGICAL UNIT
  // RESET, or the byte lock of an image file). Called before the first slot write and after every failed write.
  std::function<Task<Status>()> drain;
  Mutants mutants;             // tests only
};

// Unordered, unreliable, authenticated: Channel::SendDatagram, or the simulator's transport.
class PeerSender {
 public:
  virtual ~PeerSender() = default;
  virtual void Send(NodeId to, std::string message) = 0;
};

class EngineHandler {
 public:
  virtual ~EngineHandler() = default;
  // A newer decided state. Versions may be skipped, never go back.
  virtual void OnState(StatePtr state) = 0;
  // The lease of this life moved: mounts may act until then (CLOCK_BOOTTIME).
  virtual void OnLease(Incarnation incarnation, Instant deadline) = 0;
  // This life is over, for good: it was evicted, or another life of this node joined. Stop everything.
  virtual void OnEvicted(std::string why) = 0;
};

// What this node sees, for status. "since" values are this node's clock.
struct PeerPicture {
  NodeId node;
  bool heard = false;        // on the network, within the token
  bool on_disk = false;      // its disk heartbeat moves
  bool hears_us = false;
  Instant heard_at, disk_at; // 0: never
  uint64_t nonce = 0;
  uint64_t incarnation = 0;
  std::vector<NodeId> hears; // as it says
};
struct Picture {
  bool quorate = false;      // a majority acknowledged our last heartbeats
  bool disk_ok = false;
  Instant lease_deadline;
  uint32_t votes_heard = 0, votes_total = 0;
  std::vector<PeerPicture> peers;       // by node, without self
  std::vector<Life> suspects;           // members about to be evicted by our reading
  std::vector<NodeId> group;            // the group chosen after a split; empty: no split
  std::string waiting;                  // on what the join, or a verdict, waits; empty: nothing
  Instant waiting_since;
};

struct ChangeOptions {
  bool confirmed = false;         // apply only on a value that is known to be decided
  Duration limit = Seconds(10);   // then kNoQuorum or kTimeout; the outcome is unknown
};

class Engine {
 public:
  Engine(EngineOptions options, Executor* executor, Random* random, KvStore* store, PeerSender* sender,
         EngineHandler* handler);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Errors: kBusy (a living twin uses this node's slot), kIo, kCorrupt (the store). A quorum area that is absent or
  // foreign is no error: the disk gives no votes, and status says so.
  Task<Status> Start();
  // Ends the loops. The life is not over in the register (Leave does that).
  Task<void> Stop();
  // Clean: member -> left. kBusy while mounts are members of lockspaces. No heartbeats after it.
  Task<Status> Leave();

  // From the transport; `from` is authenticated. Malformed bytes are dropped and counted.
  void OnMessage(NodeId from, std::span<const std::byte> message);

  // Applies a transition. The decided state after it, or: kConflict, kFenced, … (the transition's own errors, on a
  // decided value), kNoQuorum / kTimeout (unknown), kNotFound (no register: quorum init), kExhausted (value too large).
  Task<Result<StatePtr>> Change(ChangeFn change, ChangeOptions options = {});
  // A decided state that is not older than the call.
  Task<Result<StatePtr>> Read(ChangeOptions options = {});
  // The first value: without a disk acceptor every configured node must be up and empty; with it, own and disk votes
  // must make a quorum. kExists: there is a register.
  Task<Result<StatePtr>> Initialize(InitClusterArgs args);

  StatePtr state() const;      // the newest decided state that we know; nullptr: none yet
  Life self() const;           // incarnation 0 before BeginJoin
  bool member() const;         // and not evicted
  uint64_t storage_id() const;
  bool PeerAlive(NodeId node) const;  // heard on the network or on disk within the token, its newest life
  // A start of this node other than the one with that nonce is heard on the network now.
  bool HearsOtherLife(NodeId node, uint64_t nonce) const;
  Instant lease_deadline() const;
  Picture picture() const;
  StatusTree Dump() const;
  uint64_t NewChangeId();
  // Instant (our clock) at which we learned of that eviction; readers have ended lease + lease_margin after it.
  std::optional<Instant> EvictionSeenAt(Life victim) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Who shall fence this victim: the fencer that the register names (it goes on, or resigns); else the node itself, if a newer life of it is up (it alone can prove a former life gone without
// harm to the new one), else the lowest living member. 0: nobody can now.
NodeId FencerFor(const ClusterState& state, Life victim, const std::function<bool(NodeId)>& alive);

// `holdfast quorum init` where no daemon runs: makes the area (when disk votes > 0) and registers version 1 with this
// node's votes and the disk's. kNoQuorum: these are not enough (use a running daemon on every node, Engine::Initialize).
struct OfflineInitOptions {
  NodeId self;
  InitClusterArgs args;          // area_id and self's storage are filled in here
  BlockDevice* disk = nullptr;
  uint64_t disk_offset = 0;
  bool force = false;            // an existing area or store is given up; else kExists
};
Task<Result<StatePtr>> OfflineInit(OfflineInitOptions options, Executor* executor, Random* random, KvStore* store);

}  // namespace holdfast::cluster
