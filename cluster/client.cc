#include "cluster/client.h"

#include <optional>
#include <unordered_map>

#include "base/control.pb.h"
#include "base/log.h"
#include "base/sync.h"
#include "cluster/control_codec.h"

namespace holdfast::cluster {
namespace {

using control::ControlFrame;
using Answer = Result<std::shared_ptr<ControlFrame>>;

class ClusterClient final : public dlm::ClusterLink {
 public:
  ClusterClient(ClusterClientSeams seams, dlm::ClusterLinkHandler& handler)
      : seams_(std::move(seams)), handler_(handler), alive_(std::make_shared<bool>(true)) {}

  ~ClusterClient() override {
    *alive_ = false;
    if (connection_) connection_->Close();
  }

  Task<Result<dlm::Joined>> Join(dlm::JoinRequest request) override;
  Task<Result<dlm::ReplayClaim>> ClaimReplay(MemberId victim) override;
  Task<Status> ReplayDone(MemberId victim) override;
  Task<Status> Leave() override;
  Task<void> Withdrawn(std::string why) override;
  void ReportStep(MemberId victim, dlm::RecoveryStep step, std::string detail) override;
  void Mounted(std::string mountpoint, std::string device) override;

 private:
  Status Connect();
  Task<Answer> Ask(std::shared_ptr<ControlFrame> frame);
  void OnPacket(std::span<const std::byte> packet);
  void OnClosed();
  void Lose(const std::string& why);
  void OnView(const control::View& view);

  ClusterClientSeams seams_;
  dlm::ClusterLinkHandler& handler_;
  std::shared_ptr<ControlLine> connection_;
  std::unordered_map<uint64_t, Completion<Answer>*> waiting_;
  uint64_t next_number_ = 1;
  bool joined_ = false;   // the handler hears of the connection's end from now on
  bool leaving_ = false;  // its end is what we want
  RegisterVersion seen_;
  std::optional<dlm::View> early_view_;  // pushed before Join had returned
  std::shared_ptr<bool> alive_;
};

Status ClusterClient::Connect() {
  auto connection = seams_.connect();
  if (!connection.ok()) return connection.error();
  connection_ = std::move(*connection);
  std::shared_ptr<bool> alive = alive_;
  connection_->Start(
      [this, alive](std::span<const std::byte> packet) {
        if (*alive) OnPacket(packet);
      },
      [this, alive] {
        if (*alive) OnClosed();
      });
  return {};
}

Task<Answer> ClusterClient::Ask(std::shared_ptr<ControlFrame> frame) {
  if (!connection_ || !connection_->open()) co_return Error(Errc::kDisconnected, "holdfastd is gone");
  uint64_t number = next_number_++;
  frame->set_number(number);
  Completion<Answer> answer;
  waiting_[number] = &answer;
  Status sent = connection_->Send(EncodeFrame(*frame));
  if (!sent.ok()) {
    // Its failure also ends the connection, which answers everybody who waits; only if it has not yet, we do.
    if (waiting_.erase(number) > 0) co_return sent.error();
  }
  auto result = co_await answer;
  if (result.ok() && (*result)->body_case() == ControlFrame::kFailure) co_return FromProto((*result)->failure());
  co_return result;
}

void ClusterClient::OnPacket(std::span<const std::byte> packet) {
  auto frame = std::make_shared<ControlFrame>();
  if (Status parsed = DecodeFrame(packet, frame.get()); !parsed.ok()) return Lose(parsed.error().message);
  switch (frame->body_case()) {
    case ControlFrame::kView: return OnView(frame->view());
    case ControlFrame::kEvicted:
      if (joined_ && !leaving_) handler_.OnEvicted(frame->evicted());
      return;
    case ControlFrame::kStopRequested:
      if (joined_ && !leaving_) handler_.OnStopRequested(frame->stop_requested());
      return;
    case ControlFrame::kMountStatusRequest: {
      ControlFrame answer;
      answer.set_number(frame->number());
      ToProto(handler_.OnStatus(), answer.mutable_mount_status());
      if (connection_) (void)connection_->Send(EncodeFrame(answer));
      return;
    }
    default: break;
  }
  auto it = waiting_.find(frame->number());
  if (it == waiting_.end()) return;
  auto* completion = it->second;
  waiting_.erase(it);
  completion->Set(Answer(std::move(frame)));
}

void ClusterClient::OnView(const control::View& in) {
  auto view = FromProto(in);
  if (!view.ok()) return Lose(view.error().message);
  if (view->version < seen_) return;
  seen_ = view->version;
  // A view may overtake the coroutine that is still on its way out of Join with an older one: it is what Join returns.
  if (joined_) {
    handler_.OnView(*view);
  } else {
    early_view_ = std::move(*view);
  }
}

void ClusterClient::OnClosed() { Lose("holdfastd closed the connection: its incarnation is over"); }

void ClusterClient::Lose(const std::string& why) {
  if (connection_) connection_->Close();
  auto waiting = std::move(waiting_);
  waiting_.clear();
  for (auto& [number, completion] : waiting) completion->Set(Answer(Error(Errc::kDisconnected, why)));
  if (joined_ && !leaving_) {
    joined_ = false;
    handler_.OnDaemonLost(why);
  }
}

Task<Result<dlm::Joined>> ClusterClient::Join(dlm::JoinRequest request) {
  HF_CHECK(!connection_, "a cluster client joins once");
  if (Status connected = Connect(); !connected.ok()) co_return connected.error();
  auto frame = std::make_shared<ControlFrame>();
  auto* join = frame->mutable_join();
  join->set_cluster(request.cluster);
  join->set_lockspace(request.lockspace);
  join->set_volume_uuid(request.volume_uuid);
  join->set_volume_url(request.volume_url);
  join->set_nonce(request.nonce);
  join->set_address(request.address);
  join->set_mounts_max(request.mounts_max);
  join->set_spectator(request.spectator);
  auto answer = co_await Ask(frame);
  if (!answer.ok()) co_return answer.error();
  if ((*answer)->body_case() != ControlFrame::kJoined) co_return Error(Errc::kCorrupt, "holdfastd gave another answer than was asked");
  const auto& in = (*answer)->joined();
  auto view = FromProto(in.view());
  if (!view.ok()) co_return view.error();
  auto page = seams_.map_lease(in.lease_path());
  if (!page.ok()) co_return page.error();
  dlm::Joined joined;
  joined.self = FromProto(in.self());
  joined.mount = MountNo(in.mount());
  joined.key = in.key();
  joined.lease = *page;
  joined.lease_path = in.lease_path();
  joined.view = std::move(*view);
  if (!connection_->open()) co_return Error(Errc::kDisconnected, "holdfastd is gone");
  if (early_view_ && early_view_->version > joined.view.version) joined.view = std::move(*early_view_);
  early_view_.reset();
  seen_ = joined.view.version;
  joined_ = true;
  co_return joined;
}

Task<Result<dlm::ReplayClaim>> ClusterClient::ClaimReplay(MemberId victim) {
  auto frame = std::make_shared<ControlFrame>();
  ToProto(victim, frame->mutable_claim_replay()->mutable_victim());
  auto answer = co_await Ask(frame);
  if (!answer.ok()) co_return answer.error();
  if ((*answer)->body_case() != ControlFrame::kReplayClaimed) co_return Error(Errc::kCorrupt, "holdfastd gave another answer than was asked");
  const auto& in = (*answer)->replay_claimed();
  dlm::ReplayClaim claim;
  claim.victim = FromProto(in.victim());
  claim.mount = MountNo(in.mount());
  claim.fenced_at = RegisterVersion(in.fenced_at());
  claim.proof = in.proof();
  if (claim.victim != victim) co_return Error(Errc::kCorrupt, "holdfastd answered for another victim");
  co_return claim;
}

Task<Status> ClusterClient::ReplayDone(MemberId victim) {
  auto frame = std::make_shared<ControlFrame>();
  ToProto(victim, frame->mutable_replay_done()->mutable_victim());
  auto answer = co_await Ask(frame);
  if (!answer.ok()) co_return answer.error();
  co_return Status();
}

Task<Status> ClusterClient::Leave() {
  leaving_ = true;
  auto frame = std::make_shared<ControlFrame>();
  frame->mutable_leave();
  auto answer = co_await Ask(frame);
  if (!answer.ok()) co_return answer.error();
  if (connection_) connection_->Close();
  co_return Status();
}

Task<void> ClusterClient::Withdrawn(std::string why) {
  leaving_ = true;
  auto frame = std::make_shared<ControlFrame>();
  frame->mutable_withdrawn()->set_why(why);
  auto answer = co_await Ask(frame);
  if (!answer.ok()) HF_LOG(LogLevel::kWarn, "cluster", "withdraw_not_told", {{"why", answer.error().message}});
  if (connection_) connection_->Close();
}

void ClusterClient::Mounted(std::string mountpoint, std::string device) {
  if (!connection_ || !connection_->open()) return;
  ControlFrame frame;
  frame.mutable_mounted()->set_mountpoint(std::move(mountpoint));
  frame.mutable_mounted()->set_device(std::move(device));
  (void)connection_->Send(EncodeFrame(frame));
}

void ClusterClient::ReportStep(MemberId victim, dlm::RecoveryStep step, std::string detail) {
  if (!connection_ || !connection_->open()) return;
  ControlFrame frame;
  auto* report = frame.mutable_report_step();
  ToProto(victim, report->mutable_victim());
  report->set_step(static_cast<control::RecoveryStep>(step));
  report->set_detail(std::move(detail));
  (void)connection_->Send(EncodeFrame(frame));
}

}  // namespace

std::unique_ptr<dlm::ClusterLink> MakeClusterClient(ClusterClientSeams seams, dlm::ClusterLinkHandler& handler) {
  return std::make_unique<ClusterClient>(std::move(seams), handler);
}

}  // namespace holdfast::cluster
