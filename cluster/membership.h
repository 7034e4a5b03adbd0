// Membership: from heartbeats (network and disk) and the register's state to a verdict: whom to evict, whom to admit,
// whether to start a cluster where nobody lives. It feeds the register and nothing else. Pure; docs/protocols/membership.md.
//
//   hears      we had a heartbeat of that node within token - stable_beats x heartbeat
//   alive      heard by us, or its disk heartbeat moves, or somebody we hear hears it
//   link       both directions, as both nodes' rows say
//   group      the best clique of living members: able to be quorate, larger, more votes, lowest id
//   verdict    members outside the group, once the picture has been the same for stable_beats; its lowest node proposes,
//              the r-th waits r rank steps plus jitter
//
// A silence is thus acted on `token` after the last heartbeat. After a pause of our own all clocks start anew.
#pragma once

#include <array>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/random.h"
#include "cluster/cliques.h"
#include "cluster/engine.h"
#include "cluster/peer.pb.h"
#include "cluster/quorum_area.h"
#include "cluster/state.pb.h"
#include "cluster/transitions.h"

namespace holdfast::cluster {

struct Verdict {
  enum class Kind { kNothing, kEvict, kAdmit, kColdStart };
  Kind kind = Kind::kNothing;
  std::vector<Life> victims;                       // kEvict, kColdStart
  std::vector<std::pair<Life, uint64_t>> joiners;  // kAdmit, kColdStart
  std::string reason;                              // kEvict
};

class Membership {
 public:
  Membership(NodeId self, uint64_t nonce, std::vector<NodeId> nodes, EngineTiming timing, bool disk, Random* random);

  void Start(Instant now);
  void OnHeartbeat(NodeId from, uint64_t nonce, const Heartbeat& beat, Instant now);
  // All valid heartbeat blocks but our own, after a beat of ours was written and all were read.
  void OnDiskBeats(const std::vector<DiskBeat>& beats, Instant now);
  void OnState(StatePtr state, Instant now);

  // Whom we hear: goes out with our heartbeats. Sends one at once when it changes.
  NodeSet Hears(Instant now) const;
  NodeSet SeesOnDisk(Instant now) const;
  // Every heartbeat / 4 or so.
  Verdict Tick(Instant now);

  // An eviction that waited for the register is still what we would do.
  bool StillEvicts(const std::vector<Life>& victims) const { return split_.victims == victims; }
  bool Alive(NodeId node, Instant now) const;
  // Another start of this node than the one with that nonce is heard: the older one is over.
  bool HearsOtherLife(NodeId node, uint64_t nonce, Instant now) const;
  bool disk_ok(Instant now) const;
  void Fill(Picture* picture, Instant now) const;

 private:
  struct Peer {
    uint64_t nonce = 0;        // on the network
    uint64_t incarnation = 0;
    Instant heard;
    bool ever_heard = false;
    bool joining = false, leaving = false, disk_ok = false;
    NodeSet hears;
    uint64_t disk_nonce = 0;
    uint64_t disk_sequence = 0;
    Instant disk_moved;        // when we saw its disk heartbeat move
    bool ever_moved = false;
    NodeSet disk_hears;
    uint64_t disk_incarnation = 0;
  };
  struct Split {               // what we would act on, and since when it has looked so
    NodeSet group;
    std::vector<Life> victims;
    bool operator==(const Split&) const = default;
  };

  Duration SuspectAfter() const;
  bool HearsNow(const Peer& peer, uint64_t nonce, Instant now) const;
  bool OnDiskNow(const Peer& peer, uint64_t nonce, Instant now) const;
  bool LifeAlive(const Node& node, Instant now) const;
  bool MemberAlive(const Node& node, Instant now) const;
  bool DiskSick(const Node& node, Instant now) const;
  // The row of a node: whom it hears. False: not known.
  bool RowOf(NodeId node, Instant now, NodeSet* row) const;
  bool Link(NodeId a, NodeId b, Instant now) const;
  std::vector<NodeSet> Links(const NodeSet& nodes, Instant now) const;
  bool CouldBeQuorate(const NodeSet& group, Instant now) const;
  NodeSet BestGroup(const NodeSet& nodes, Instant now) const;
  bool MyTurn(const NodeSet& group, Instant since, Instant now);

  Verdict JudgeMembers(Instant now);
  Verdict JudgeJoiners(Instant now);
  Verdict JudgeColdStart(Instant now);
  void Wait(std::string what, Instant now);

  NodeId self_;
  uint64_t nonce_;
  std::vector<NodeId> nodes_;
  EngineTiming timing_;
  bool disk_;
  Random* random_;
  StatePtr state_;
  std::map<NodeId, Peer> peers_;
  std::map<Life, Instant> member_since_;  // by our knowledge: a new member is given time to be heard
  Instant started_, last_tick_, disk_done_;
  bool disk_ever_ = false;
  bool sees_peer_disk_ = false;           // at least two disk reads: stillness means something
  Split split_;
  Instant split_since_;
  NodeSet ready_;                         // joiners ready to be admitted / to start with
  Instant ready_since_;
  Instant member_alive_at_;               // for a cold start
  Duration jitter_;
  std::string waiting_;
  Instant waiting_since_;
};

}  // namespace holdfast::cluster
