// The lines' side of DaemonCore: frames of mounts go to Mounts, questions of the command are answered here.
#include "base/control.pb.h"
#include "base/log.h"
#include "cluster/control_codec.h"
#include "cluster/daemon/core.h"
#include "cluster/daemon/status.h"

namespace holdfast::cluster {
namespace {

Result<LogLevel> LevelOf(const std::string& name) {
  const std::pair<const char*, LogLevel> levels[] = {{"trace", LogLevel::kTrace}, {"debug", LogLevel::kDebug}, {"info", LogLevel::kInfo},
                                                     {"warn", LogLevel::kWarn},   {"error", LogLevel::kError}, {"off", LogLevel::kOff}};
  for (const auto& [text, level] : levels)
    if (name == text) return level;
  return Error(Errc::kInvalid, "log level '" + name + "': trace, debug, info, warn, error or off");
}

}  // namespace

void DaemonCore::Accept(std::shared_ptr<ControlLine> line) {
  lines_.insert(line);
  std::weak_ptr<ControlLine> weak = line;
  line->Start(
      [this, weak](std::span<const std::byte> packet) {
        if (auto l = weak.lock()) OnFrame(l, packet);
      },
      [this, weak] {
        auto l = weak.lock();
        if (!l) return;
        mounts_->OnClosed(l);
        lines_.erase(l);
      });
}

StatusTree DaemonCore::Describe() { return BuildStatus({&parts_, mounts_.get(), fencer_.get(), notes_}); }

void DaemonCore::OnFrame(const std::shared_ptr<ControlLine>& connection, std::span<const std::byte> packet) {
  auto frame = std::make_shared<control::ControlFrame>();
  if (Status parsed = DecodeFrame(packet, frame.get()); !parsed.ok()) {
    ReplyError(connection, 0, parsed.error());
    return;
  }
  if (end_ != DaemonEnd::kRunning) {
    ReplyError(connection, frame->number(), Error(Errc::kDisconnected, "this holdfastd ends"));
    return;
  }
  if (mounts_->OnFrame(connection, *frame)) return;
  scope_.Spawn(Answer(connection, frame));
}

Task<void> DaemonCore::Answer(std::shared_ptr<ControlLine> connection, std::shared_ptr<control::ControlFrame> frame) {
  using control::ControlFrame;
  uint64_t number = frame->number();
  Status done = Errc::kUnsupported;
  switch (frame->body_case()) {
    case ControlFrame::kStatus:
    case ControlFrame::kHistory:
    case ControlFrame::kConfigShow:
    case ControlFrame::kFenceCheck: {
      auto tree = co_await AnswerTree(frame);
      if (!tree.ok()) co_return ReplyError(connection, number, tree.error());
      ControlFrame answer;
      ToProto(*tree, answer.mutable_tree()->mutable_tree());
      co_return Reply(connection, number, std::move(answer));
    }
    case ControlFrame::kFenceAck: {
      std::string node = frame->fence_ack().node();
      std::string who = seams_.user_name(connection->peer_uid()) + " on " + parts_.self->name;
      if (!parts_.engine) {
        done = Error(Errc::kBusy, "this node has not started yet");
      } else {
        done = co_await fencer_->Acknowledge(node, who);
      }
      break;
    }
    case ControlFrame::kSetLogLevel: {
      auto level = LevelOf(frame->set_log_level().level());
      if (!level.ok()) co_return ReplyError(connection, number, level.error());
      if (frame->set_log_level().scope().empty()) {
        SetLogLevel(*level);
      } else {
        SetLogLevel(frame->set_log_level().scope(), *level);
      }
      done = Status();
      break;
    }
    case ControlFrame::kQuorumInit: {
      done = co_await InitQuorum();
      break;
    }
    case ControlFrame::kNodeLeave: {
      if (!mounts_->empty()) {
        done = Error(Errc::kBusy, "mounts are in use: unmount them first");
        break;
      }
      RequestLeave("asked by " + seams_.user_name(connection->peer_uid()));
      ReplyDone(connection, number);
      co_return;
    }
    default: done = Error(Errc::kUnsupported, "this holdfastd does not know that request"); break;
  }
  if (done.ok()) {
    ReplyDone(connection, number);
  } else {
    ReplyError(connection, number, done.error());
  }
}

// Without a disk acceptor every node's vote is needed, so every node's holdfastd runs and has nothing in its store.
Task<Status> DaemonCore::InitQuorum() {
  if (!config_.quorum_device.empty()) co_return Error(Errc::kBusy, "holdfastd runs: stop every node's before quorum init on a quorum device");
  if (!parts_.engine) co_return Error(Errc::kBusy, "this node has not started yet");
  InitClusterArgs args;
  args.cluster_name = config_.cluster;
  for (int i = 0; i < 2; ++i) {
    uint64_t word = parts_.random->Next();
    args.cluster_uuid.append(reinterpret_cast<const char*>(&word), sizeof word);
  }
  args.config_version = config_.version;
  args.config_hash = config_.hash;
  for (const auto& node : config_.nodes) args.nodes.push_back({node.id, node.name, node.votes, 0});
  auto state = co_await parts_.engine->Initialize(args);
  if (!state.ok()) co_return state.error();
  co_return Status();
}

Task<Result<StatusTree>> DaemonCore::AnswerTree(std::shared_ptr<control::ControlFrame> frame) {
  if (frame->has_history()) co_return timeline_->Show(frame->history().limit() == 0 ? 100 : frame->history().limit());
  if (frame->has_config_show()) co_return ShowConfig(config_);
  if (frame->has_fence_check()) {
    auto checked = co_await fencer_->Check();
    co_return checked;
  }
  co_await mounts_->AskStatus(Milliseconds(200));
  co_return Describe();
}

}  // namespace holdfast::cluster
