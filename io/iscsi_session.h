// IscsiSession: one libiscsi context on the reactor, with our own reconnect. libiscsi's is off: it replays queued writes
// before anybody has asked whether this node is still a member (measured).
//
// States:  connecting -> draining -> guard -> ready --(lost or timed out)--> connecting ...     any -> fenced | closed
//   connecting  login, with backoff
//   draining    LOGICAL UNIT RESET, answered: a write of the old session that the array had accepted has landed; without
//               it an old write in flight overwrote a newer synced one (measured)
//   guard       the owner asks the cluster, and registers its key again only if it is still a member. A session never
//               registers by itself. Then the owner writes again what was not flushed: the array may have lost its power,
//               and a flush in this session would answer well without it. Control commands alone pass
//   ready       what waited and what was in flight is issued (again)
//   fenced      a RESERVATION CONFLICT was seen, or the guard said so: every command fails with kConflict, for ever
//
// INVARIANT: no data command is issued between the loss of a session and the guard's yes.
// Threading: the reactor's. Names in the URL are resolved by a blocking call: give addresses.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "base/sync.h"
#include "base/task.h"
#include "io/reactor.h"

struct iscsi_context;

namespace holdfast::io {

struct IscsiOptions {
  std::string initiator_name;                // empty: made from the host's name
  Duration login_timeout = Seconds(5);
  Duration command_timeout = Seconds(20);    // then the session counts as lost
  Duration drain_again = Milliseconds(500);  // a reset without an answer is sent again: when two sessions reset at once
                                             // over one write in flight, tgt answers only the last
  Duration drain_timeout = Seconds(10);      // then the session counts as lost: login and reset anew
  Duration backoff_min = Milliseconds(20);   // between logins, doubled up to the maximum
  Duration backoff_max = Seconds(1);
  Duration stall_limit = Seconds(60);        // without a session for so long: commands fail with kDisconnected; 0: never
  unsigned depth_max = 64;                   // commands at the target at once; more wait here
  bool drain_at_open = true;                 // an earlier life of ours may have left a write in flight
  bool drain_at_reconnect = true;            // off only in the test that shows why it is on
};

enum class IscsiState : uint8_t { kConnecting, kDraining, kGuard, kReady, kFenced, kClosed };
std::string_view IscsiStateName(IscsiState state);

// A SCSI command. Its buffers outlive the call.
struct ScsiCommand {
  std::array<uint8_t, 16> cdb{};
  uint8_t cdb_size = 0;
  std::span<std::byte> in;         // at most one of in and out
  std::span<const std::byte> out;
  bool control = false;            // reservations and the like: passes the guard, is never issued again after a loss, and
                                   // its conflict is its own result
  bool short_answer = false;       // fewer bytes than asked for are no error
};

class IscsiSession {
 public:
  // Logs in (one attempt), drains if the options say so. kInvalid: not such a URL. kDisconnected, kTimeout.
  static Task<Result<std::unique_ptr<IscsiSession>>> Open(Reactor* reactor, std::string url, IscsiOptions options);
  ~IscsiSession();
  IscsiSession(const IscsiSession&) = delete;

  // The number of bytes moved. Waits while there is no session; issues again after UNIT ATTENTION, TASK ABORTED, BUSY and
  // the loss of the session. kConflict: fenced. kDisconnected: stalled past the limit (outcome of a write unknown).
  // kUnsupported: ILLEGAL REQUEST. kIo: any other sense.
  Task<Result<size_t>> Execute(ScsiCommand command);
  // LOGICAL UNIT RESET and its answer: nothing that the array accepted before can land any more.
  Task<Status> Drain();
  // No new commands (kCancelled), waits for those at the target, logs out. Registrations stay.
  Task<void> Close();

  // Called after login and drain, before I/O goes on. kConflict or kFenced end the session; any other error tries again.
  void SetReconnectGuard(std::function<Task<Status>()> guard) { guard_ = std::move(guard); }
  // Called after the guard's yes, before I/O goes on: the owner writes again, by control commands, what was acknowledged and
  // not flushed. Any error tries again.
  void SetRewrite(std::function<Task<Status>()> rewrite) { rewrite_ = std::move(rewrite); }
  // Called once, from the queue, when the session becomes fenced.
  void OnFenced(std::function<void(const Error& why)> fn) { on_fenced_ = std::move(fn); }
  // Called from the queue at every change of state, for status and logs.
  void OnState(std::function<void(IscsiState state, const std::string& why)> fn) { on_state_ = std::move(fn); }

  IscsiState state() const { return state_; }
  const std::string& name() const { return name_; }  // the URL without its password
  const IscsiOptions& options() const { return options_; }
  uint64_t logins() const { return logins_; }
  // For tests: cuts the connection as a dying link does.
  void CutForTest();

 private:
  enum class End : uint8_t { kGood, kLost, kAgain, kBusy, kConflict, kError };
  struct Attempt;
  struct Url {
    std::string portal, target, user, password;
    int lun = 0;
  };
  explicit IscsiSession(Reactor* reactor, IscsiOptions options) : reactor_(reactor), options_(std::move(options)) {}

  Status Parse(const std::string& url);
  Task<Status> Login();
  Task<Status> ResetUnit();
  Attempt* SendReset(Instant deadline);
  Task<Status> Recover(bool drain);
  Task<void> Keep();
  Task<Status> Admit();
  Task<Status> Nap(Duration how_long);
  void Start(Attempt* attempt, const ScsiCommand& command);
  void Finish(Attempt* attempt, End end, Error error, size_t moved);
  static void OnConnected(iscsi_context* context, int status, void* data, void* self);
  static void OnScsi(iscsi_context* context, int status, void* data, void* attempt);
  static void OnManagement(iscsi_context* context, int status, void* data, void* attempt);
  void Service(uint32_t events);
  void Pump();
  void UpdateEvents();
  void Tick();
  void Drop(const std::string& why = "session lost");  // the context goes; what was in flight ends as lost
  void Lose(std::string why);
  void Fence(Error why);
  void Enter(IscsiState state, std::string why);

  Reactor* reactor_;
  IscsiOptions options_;
  Url url_;
  std::string name_;
  iscsi_context* context_ = nullptr;
  int watched_ = -1;
  uint32_t events_ = 0;
  IscsiState state_ = IscsiState::kConnecting;
  bool logged_in_ = false, broken_ = false, closing_ = false, drain_owed_ = false, pump_posted_ = false;
  bool in_service_ = false;
  std::string broken_why_;
  Instant lost_since_;
  uint64_t logins_ = 0;
  std::unique_ptr<Completion<Status>> login_;
  std::set<Attempt*> active_;  // ordered by address, never iterated for output
  std::vector<std::shared_ptr<Attempt>> resets_;  // libiscsi may still name them, until the context goes
  WaitList reset_ended_;
  unsigned at_target_ = 0;
  WaitList gate_;
  Event lost_;
  TimerId tick_ = 0;
  Scope scope_;
  std::function<Task<Status>()> guard_;
  std::function<Task<Status>()> rewrite_;
  std::function<void(const Error&)> on_fenced_;
  std::function<void(IscsiState, const std::string&)> on_state_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace holdfast::io
