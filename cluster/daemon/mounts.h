// Mounts: this node's mounts as members of lockspaces. A mount's control connection is part of its membership: when it
// ends without a clean leave the mount is a victim, and this node proves it dead (mount_burial.h).
//
// One mount:  new -> joining (waits for membership, quorum, a free number) -> joined -> leaving -> gone
//                                                        any but new and gone --connection ends--> burial
// Views are pushed when the register changes what the mount acts on. docs/protocols/control.md.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/control_line.h"
#include "cluster/daemon/parts.h"
#include "dlm/view.h"

namespace holdfast::control {
class ControlFrame;
}
namespace holdfast::cluster {

struct MountEntry {
  enum class State : uint8_t { kJoining, kJoined, kLeaving, kGone };
  State state = State::kJoining;
  std::shared_ptr<ControlLine> connection;
  int32_t pid = 0;
  std::string lockspace, volume_uuid, volume_url, address;
  std::string mountpoint, device;  // once the kernel serves it
  uint64_t nonce = 0;
  uint32_t mounts_max = 0;
  MemberId member;  // once it is in the register
  MountNo mount;
  dlm::View view;
  dlm::LinkStatus status;
  bool status_fresh = false;
  Instant since;
};
using MountPtr = std::shared_ptr<MountEntry>;

const char* StateName(MountEntry::State state);

class MountBurial;

class Mounts {
 public:
  Mounts(Parts* parts, MountBurial* burial) : parts_(parts), burial_(burial) {}

  // A frame of a connection; false: not one of a mount.
  bool OnFrame(const std::shared_ptr<ControlLine>& connection, const control::ControlFrame& frame);
  void OnClosed(const std::shared_ptr<ControlLine>& connection);
  void OnState(const StatePtr& state);
  // This node's life is over: mounts withdraw.
  void Evict(const std::string& why);
  void RequestStop(const std::string& why);
  // Asks every mount how it is; waits for answers until the limit. Entries then have them.
  Task<void> AskStatus(Duration limit);

  std::vector<MountPtr> list() const;
  bool empty() const { return mounts_.empty(); }

 private:
  MountPtr Find(const std::shared_ptr<ControlLine>& connection) const;
  Task<void> Join(MountPtr mount, uint64_t number);
  Task<Status> Enter(MountPtr mount);
  Task<void> Leave(MountPtr mount, uint64_t number);
  Task<void> Withdraw(MountPtr mount, uint64_t number, std::string why);
  Task<void> ClaimReplay(MountPtr mount, uint64_t number, MemberId victim);
  Task<void> ReplayDone(MountPtr mount, uint64_t number, MemberId victim);
  void ReportStep(const MountPtr& mount, const control::ControlFrame& frame);
  void Drop(const MountPtr& mount);

  Parts* parts_;
  MountBurial* burial_;
  std::map<ControlLine*, MountPtr> mounts_;
};

// Answers on a mount's or the command's connection.
void Reply(const std::shared_ptr<ControlLine>& connection, uint64_t number, control::ControlFrame frame);
void ReplyError(const std::shared_ptr<ControlLine>& connection, uint64_t number, const Error& error);
void ReplyDone(const std::shared_ptr<ControlLine>& connection, uint64_t number);

}  // namespace holdfast::cluster
