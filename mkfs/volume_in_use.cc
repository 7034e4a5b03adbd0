#include "mkfs/volume_in_use.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/reservations.h"
#include "io/volume_users.h"

namespace holdfast::mkfs {
namespace {

// A second, exclusive open fails while the kernel has the device mounted or claimed.
bool KernelUses(const std::string& path) {
  struct stat st;
  if (stat(path.c_str(), &st) != 0 || !S_ISBLK(st.st_mode)) return false;
  int fd = open(path.c_str(), O_RDONLY | O_EXCL | O_CLOEXEC);
  if (fd < 0) return errno == EBUSY;
  close(fd);
  return false;
}

}  // namespace

Task<Result<std::string>> VolumeInUse(BlockDevice& device, std::string path) {
  if (auto* file = dynamic_cast<io::FileDevice*>(&device)) {
    auto user = co_await io::VolumeUserAfterEnding(file, io::kEndingPatience);
    if (!user.ok()) co_return user.error();
    if (user->daemon) co_return user->who + " is running on it";
    if (user->ending) co_return "it was unmounted, but its server is still writing back (" + user->who + " has not ended)";
    if (!user->who.empty()) co_return "it is mounted (journal " + std::to_string(user->number) + ")";
    if (KernelUses(path)) co_return std::string("the kernel uses it (mounted, or part of another device)");
  } else if (auto* reservations = dynamic_cast<Reservations*>(&device)) {
    auto state = co_await reservations->Read();
    if (!state.ok() && state.code() != Errc::kUnsupported) co_return state.error();
    if (state.ok() && !state->keys.empty())
      co_return std::to_string(state->keys.size()) + " nodes or mounts are registered at the target";
  }
  co_return std::string();
}

}  // namespace holdfast::mkfs
