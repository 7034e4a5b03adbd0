#include "io/volume_users.h"

#include "base/sync.h"

namespace holdfast::io {
namespace {

constexpr Duration kLookAgain = Milliseconds(20);

}  // namespace

Result<VolumeUser> VolumeUserNow(const FileDevice& file) {
  VolumeUser ending;
  for (uint64_t i = 0; i < kUsersMax; ++i) {
    auto held = file.TestByte(kDaemonBytes + i);
    if (!held.ok()) return held.error();
    if (*held) return VolumeUser{"holdfastd of node " + std::to_string(i + 1), true, false, i};
  }
  for (uint64_t i = 0; i < kUsersMax; ++i) {
    auto held = file.TestByte(kMountBytes + i);
    if (!held.ok()) return held.error();
    if (!*held) continue;
    auto goes = file.TestByte(kEndingBytes + i);
    if (!goes.ok()) return goes.error();
    VolumeUser user{"mount number " + std::to_string(i), false, *goes, i};
    if (!*goes) return user;
    user.who += ", unmounted and still writing back,";
    ending = user;
  }
  return ending;
}

Task<Result<VolumeUser>> VolumeUserAfterEnding(const FileDevice* file, Duration patience) {
  Clock& clock = Executor::Current().clock();
  for (Instant until = clock.Now() + patience;;) {
    Result<VolumeUser> user = VolumeUserNow(*file);
    if (!user.ok() || !user->ending || clock.Now() >= until) co_return user;
    co_await SleepFor(kLookAgain);
  }
}

Task<Status> TakeMountByte(FileDevice* file, uint64_t mount, Duration patience) {
  Clock& clock = Executor::Current().clock();
  for (Instant until = clock.Now() + patience;;) {
    Status taken = file->LockByte(kMountBytes + mount);
    if (taken.code() != Errc::kBusy || clock.Now() >= until) co_return taken;
    auto goes = file->TestByte(kEndingBytes + mount);
    if (!goes.ok()) co_return goes.error();
    if (!*goes) {
      // Gone between the two looks, or there for good.
      co_return file->LockByte(kMountBytes + mount);
    }
    co_await SleepFor(kLookAgain);
  }
}

}  // namespace holdfast::io
