// Register: CASPaxos. A change is a ballot: PREPARE to all acceptors, the newest value among a quorum's promises, the
// transition applied to it, ACCEPT of the result (or of the value as it was, if the transition refuses: what a caller is
// told was decided). No log, one value. docs/protocols/register.md.
//
//   Quorums come from the value that was read: an answer counts only under the storage id that the value lists, in every
//   acceptor set in force (two while votes change), and phase 2 needs them of the old and of the new value.
//   INVARIANT: of one register version there is one value, ever: who meets two ends its life (SetForked; HF_CHECK without it).
//
// Threading: one executor. Changes of one node are served one after the other; nodes that meet back off at random.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/executor.h"
#include "base/random.h"
#include "base/result.h"
#include "base/sync.h"
#include "base/task.h"
#include "cluster/disk_acceptor.h"
#include "cluster/engine.h"
#include "cluster/mutants.h"
#include "cluster/node_acceptor.h"
#include "cluster/peer.pb.h"
#include "cluster/state.pb.h"

namespace holdfast::cluster {

Ballot FromWire(const WireBallot& ballot);
void ToWire(const Ballot& ballot, WireBallot* out);

struct RegisterOptions {
  NodeId self;
  uint64_t nonce = 0;
  std::vector<NodeId> nodes;  // all configured, with self
  Duration attempt = Milliseconds(1000);
  Duration resend = Milliseconds(100);
  Duration backoff_max = Milliseconds(160);  // or eight times what a ballot took, whichever is longer
  Mutants mutants;
};

// Which votes a set of answers has. 0 as node: the disk.
struct Answers {
  std::map<uint32_t, uint64_t> storage;  // by node: the storage id it answered under
};
// True if the answers are a majority of every acceptor set in force in the value.
bool IsQuorum(const ClusterState& value, const Answers& answers, const Mutants& mutants);

class Register {
 public:
  // send may be called during any call of this class. disk may be nullptr.
  Register(RegisterOptions options, Executor* executor, Random* random, NodeAcceptor* acceptor, DiskAcceptor* disk,
           std::function<void(NodeId to, const RegisterMessage&)> send);

  // Told after each newer decided value, from the turn in which it became known.
  void SetWatcher(std::function<void()> watcher) { watcher_ = std::move(watcher); }
  // Called once, when there are two values of one version (a lying peer, a bug): this life of the node must end.
  void SetForked(std::function<void(std::string why)> forked) { forked_ = std::move(forked); }
  void OnMessage(NodeId from, const RegisterMessage& message);

  Task<Result<StatePtr>> Change(ChangeFn change, ChangeOptions options);
  Task<Result<StatePtr>> Read(ChangeOptions options);
  Task<Result<StatePtr>> Initialize(InitClusterArgs args, Duration limit);

  StatePtr decided() const { return decided_; }
  Ballot decided_ballot() const { return decided_ballot_; }
  // The newest value that this node's acceptor has accepted, perhaps undecided; nullptr: none.
  StatePtr accepted_here();
  // Asks a node that knows more.
  void Fetch(NodeId from);
  // Looks on the disk for the value decided under that ballot.
  Task<void> FetchFromDisk(Ballot ballot);
  // Ends: changes under way complete with kCancelled; returns when nothing of it runs any more.
  Task<void> Stop();
  const std::string& trouble() const { return trouble_; }  // of the last attempt; empty: it went through

 private:
  struct Answer {
    uint64_t storage = 0;
    Ballot accepted;
    std::string value;
  };
  // One phase of one ballot. Shared with the answers under way, which may come after its end.
  struct Phase {
    uint64_t attempt = 0;
    bool second = false;
    Ballot ballot;
    std::map<uint32_t, Answer> answers;   // promised / accepted, by node; 0: the disk
    std::map<uint32_t, Ballot> refusals;
    WaitList changed;
  };
  using PhasePtr = std::shared_ptr<Phase>;

  // One ballot. kBusy: a higher ballot is about; kTimeout: no quorum answered in time.
  struct Outcome {
    Result<StatePtr> result = Errc::kTimeout;
    bool retry = false;
    bool again = false;  // the value is confirmed now: go on with the change at once
  };
  Task<Outcome> RunBallot(ChangeFn change, bool confirmed);
  Task<bool> RunPhase(PhasePtr phase, std::string value, std::function<bool(const Phase&)> enough,
                      std::function<bool(const Phase&)> hopeless);
  Task<void> AskSelf(PhasePtr phase, std::string value);
  Task<void> AskDisk(PhasePtr phase, std::string value);
  void AskPeers(const PhasePtr& phase, const std::string& value);
  Task<void> Serve(NodeId from, RegisterMessage message);
  Task<void> Wait(PhasePtr phase, Instant until);
  void Learn(const Ballot& ballot, const std::string& bytes, bool ours);
  bool Hopeless(const Phase& phase, const ClusterState* value) const;
  Ballot NextBallot();
  void Saw(const Ballot& ballot) { highest_ = std::max(highest_, ballot.counter); }

  RegisterOptions options_;
  Executor* executor_;
  Random* random_;
  NodeAcceptor* acceptor_;
  DiskAcceptor* disk_;
  std::function<void(NodeId, const RegisterMessage&)> send_;
  std::function<void()> watcher_;
  std::function<void(std::string)> forked_;
  bool fork_told_ = false;
  Mutex changes_;
  Scope background_;
  PhasePtr current_;
  bool stopping_ = false;
  uint64_t highest_ = 0;  // ballot counter seen anywhere
  static constexpr Duration kBackoffMin = Milliseconds(5);
  Duration backoff_ = kBackoffMin;  // grows with each ballot that met another, until one goes through
  Instant rest_until_;
  StatePtr decided_;
  Ballot decided_ballot_;
  std::string decided_bytes_;
  StatePtr accepted_;      // parsed accepted_here
  Ballot accepted_ballot_;
  std::string trouble_;
};

}  // namespace holdfast::cluster
