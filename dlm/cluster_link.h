// ClusterLink: the cluster as one member of a lockspace (a mount) meets it: join, views, the replay of dead members'
// journals, leave. Production: cluster/client.h (the control socket of holdfastd); the simulator has its own.
// Flow of a mount: Join -> OnView* -> [ClaimReplay -> replay -> ReplayDone]* -> Leave | Withdrawn.
// Join comes before anything on the volume is written: it gives the mount number (= journal, = byte of the OFD lock,
// = process part of the reservation key) and the lease page to look at before every submit.
// Threading: one executor; callbacks are never called inline from a method.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "base/lease_page.h"
#include "base/reservations.h"
#include "base/result.h"
#include "base/status_tree.h"
#include "base/task.h"
#include "base/transport.h"
#include "dlm/view.h"

namespace holdfast::dlm {

struct JoinRequest {
  std::string cluster;      // of the volume's lock table "cluster:lockspace"; must be holdfastd's cluster
  std::string lockspace;    // the filesystem's name
  std::string volume_uuid;  // 36 characters; must be that of the lockspace
  std::string volume_url;   // path or URL: how a fencer that has not mounted it reaches the volume
  uint64_t nonce = 0;       // random, one per mount
  std::string address;      // where this member's lock manager listens: "tcp://10.77.0.1:40123"
  uint32_t mounts_max = 0;  // journals of the volume; numbers 0..mounts_max-1 are given out
  bool spectator = false;   // no journal, cannot replay (reserved; refused for now)
};

struct Joined {
  MemberId self;
  MountNo mount;
  ReservationKey key = 0;            // what this mount registers on a volume with reservations
  const LeasePage* lease = nullptr;  // mapped for the life of the process
  std::string lease_path;            // for the supervisor to map itself
  View view;                         // contains self
};

// Why a journal may be replayed: the fence token's facts. Replay requires that the journal header names this owner.
struct ReplayClaim {
  MemberId victim;
  MountNo mount;
  RegisterVersion fenced_at;
  std::string proof;  // for people: "fence_local n2 off", "byte lock", "power off confirmed"
};

// Something that somebody waits for, shown by `holdfast status`.
struct Waiting {
  std::string what;  // "write of inode 1234", "replay of journal 2"
  std::string on;    // "lock 1:1234 held by n2.5/ab", "fencing of n2"
  Duration since;    // how long already
};

struct LinkStatus {
  std::vector<Waiting> waits;
  StatusTree tree;  // anything else worth showing: journal, caches, locks, open files
};

// Steps of a recovery that members report for `holdfast history`.
enum class RecoveryStep : uint8_t { kLocksRebuilt, kReplayStarted, kReplayed, kResumed };

class ClusterLinkHandler {
 public:
  virtual ~ClusterLinkHandler() = default;
  // A newer register version with another view of this lockspace. Versions may be skipped, never go back.
  virtual void OnView(const View& view) = 0;
  // This member is no longer one (evicted, or its node is): withdraw, for good.
  virtual void OnEvicted(std::string why) = 0;
  // holdfastd is gone: its incarnation is over and this mount with it: withdraw.
  virtual void OnDaemonLost(std::string why) = 0;
  // The node wants to stop cleanly: unmount if nobody uses the mount. Called again while it waits.
  virtual void OnStopRequested(std::string why) = 0;
  virtual LinkStatus OnStatus() = 0;
};

class ClusterLink {
 public:
  virtual ~ClusterLink() = default;
  // Waits (for quorum, for fencing, for an older life's end) as long as it takes; holdfastd's status says why.
  // Errors: kDisconnected (no holdfastd), kInvalid (cluster, uuid), kNoSpace (all mount numbers in use), kFenced.
  virtual Task<Result<Joined>> Join(JoinRequest request) = 0;
  // Asks to be the replayer of a fenced victim. kBusy: another living member is; kNotFound: nothing is owed any
  // more; kConflict: not fenced yet. Claiming again what one has claimed is a success.
  virtual Task<Result<ReplayClaim>> ClaimReplay(MemberId victim) = 0;
  // The journal is replayed, clean on disk, its orphans and claims adopted. Opens the first gate in the register.
  virtual Task<Status> ReplayDone(MemberId victim) = 0;
  // Clean: nothing in flight, journal clean, key unregistered. The member is gone from the register when it returns.
  virtual Task<Status> Leave() = 0;
  // Left dirty: in-flight I/O has ended, key unregistered, nothing more is submitted; others shall replay.
  virtual Task<void> Withdrawn(std::string why) = 0;
  // Fire and forget.
  virtual void ReportStep(MemberId victim, RecoveryStep step, std::string detail) = 0;
  // The kernel serves it now: so that the connection can be ended when this process and its supervisor both die.
  virtual void Mounted(std::string mountpoint, std::string device) { (void)mountpoint, (void)device; }
};

}  // namespace holdfast::dlm
