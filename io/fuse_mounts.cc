#include "io/fuse_mounts.h"

#include <cstdlib>
#include <fcntl.h>
#include <fstream>
#include <sstream>
#include <sys/mount.h>
#include <unistd.h>

namespace holdfast::io {
namespace {

// Spaces and the like are three octal digits behind a backslash.
std::string Unescape(const std::string& in) {
  std::string out;
  for (size_t i = 0; i < in.size(); ++i) {
    if (in[i] == '\\' && i + 3 < in.size()) {
      out += static_cast<char>(std::strtol(in.substr(i + 1, 3).c_str(), nullptr, 8));
      i += 3;
    } else {
      out += in[i];
    }
  }
  return out;
}

}  // namespace

std::string FuseDeviceAt(const std::string& mountpoint) {
  std::ifstream mounts("/proc/self/mountinfo");
  std::string device;
  for (std::string line; std::getline(mounts, line);) {
    // id parent major:minor root mountpoint options [optional fields] - type source options
    std::istringstream words(line);
    std::string id, parent, number, root, at, word, type;
    words >> id >> parent >> number >> root >> at;
    if (Unescape(at) != mountpoint) continue;
    while (words >> word && word != "-") continue;
    words >> type;
    device = type.starts_with("fuse") ? number : "";  // the last is on top
  }
  return device;
}

bool AbortFuseMount(const std::string& mountpoint, const std::string& device) {
  if (device.empty() || FuseDeviceAt(mountpoint) != device) return false;
  // An open descriptor keeps it busy, so that only the connection ends.
  int keep = open(mountpoint.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
  umount2(mountpoint.c_str(), MNT_FORCE);
  if (keep >= 0) close(keep);
  return true;
}

}  // namespace holdfast::io
