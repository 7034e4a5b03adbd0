// ControlCodec: the control protocol's messages to our own types and back. What comes in is checked: a packet that does
// not parse, has another protocol number or holds impossible ids is an error, never a wrong answer.
// docs/protocols/control.md.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/status_tree.h"
#include "dlm/cluster_link.h"
#include "dlm/view.h"

namespace holdfast::control {
class ControlFrame;
class Failure;
class MemberId;
class MountStatus;
class StatusNode;
class View;
}  // namespace holdfast::control

namespace holdfast::cluster {

inline constexpr uint32_t kControlProtocol = 1;

std::vector<std::byte> EncodeFrame(control::ControlFrame& frame);  // sets the protocol number
// Errors: kCorrupt, kUnsupported (another protocol number).
Status DecodeFrame(std::span<const std::byte> packet, control::ControlFrame* frame);

void ToProto(const MemberId& id, control::MemberId* out);
MemberId FromProto(const control::MemberId& in);
void ToProto(const dlm::View& view, control::View* out);
Result<dlm::View> FromProto(const control::View& in);  // kCorrupt: not ordered, node ids out of range
void ToProto(const StatusTree& tree, control::StatusNode* out);
StatusTree FromProto(const control::StatusNode& in);
void ToProto(const dlm::LinkStatus& status, control::MountStatus* out);
dlm::LinkStatus FromProto(const control::MountStatus& in);
void ToProto(const Error& error, control::Failure* out);
Error FromProto(const control::Failure& in);

}  // namespace holdfast::cluster
