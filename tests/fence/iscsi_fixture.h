// What the iSCSI tests share: keys, opening a device on a test target, writes in the background.
#pragma once

#include <catch2/catch.hpp>

#include <cstring>
#include <memory>

#include "base/sync.h"
#include "fence/pr_fence.h"
#include "io/iscsi_device.h"
#include "tests/fence/tgt.h"

namespace holdfast::fence {

using io::IscsiDevice;
using io::IscsiDeviceOptions;
using io::IscsiState;
using io::Reactor;

inline constexpr ReservationKey kKeyA = MakeKey(NodeId(1), 0x11111111, 1);
inline constexpr ReservationKey kKeyB = MakeKey(NodeId(2), 0x22222222, 1);
inline constexpr ReservationKey kKeyC = MakeKey(NodeId(3), 0x33333333, 1);
inline constexpr ReservationKey kFencer = MakeKey(NodeId(1), 0x11111111, kFencerProcess);
inline constexpr uint64_t kPlace = 7000 * kBlockSize;
inline constexpr int kSlowMs = 700;

inline AlignedBuffer Text(const char* text) {
  AlignedBuffer out(kBlockSize);
  std::memcpy(out.data(), text, std::strlen(text));
  return out;
}

inline std::unique_ptr<IscsiDevice> Open(Reactor* reactor, const Tgt& tgt, IscsiDeviceOptions options = {}) {
  if (options.session.initiator_name.empty()) options.session.initiator_name = "iqn.2026-11.org.holdfast:test-node";
  auto device = reactor->RunTask(IscsiDevice::Open(reactor, tgt.url(), options));
  INFO((device.ok() ? "" : device.error().ToString()));
  REQUIRE(device.ok());
  return std::move(*device);
}

inline Status WriteText(Reactor* reactor, IscsiDevice* device, const char* text, WriteFlags flags = WriteFlags::kNone) {
  AlignedBuffer block = Text(text);
  return reactor->RunTask(device->Write(kPlace, block.span(), flags));
}

// A write in the background, as a node's that will be fenced.
struct Background {
  AlignedBuffer block;
  bool done = false;
  Status status;
};

inline Task<void> WriteBehind(IscsiDevice* device, Background* background) {
  background->status = co_await device->Write(kPlace, background->block.span(), WriteFlags::kNone);
  background->done = true;
}

inline Task<void> Until(bool* condition) {
  while (!*condition) co_await SleepFor(Milliseconds(5));
}

// Long enough for the reactor to send it and for the target to accept it; the target then holds it for kSlowMs.
inline void StartSlow(Reactor* reactor, IscsiDevice* device, Background* background, const char* text) {
  background->block = Text(text);
  {
    ExecutorTurn turn(reactor);
    Detach(WriteBehind(device, background));
  }
  reactor->RunTask(SleepFor(Milliseconds(60)));
  REQUIRE(!background->done);
}

inline Task<Status> Allow() { co_return Status{}; }

}  // namespace holdfast::fence
