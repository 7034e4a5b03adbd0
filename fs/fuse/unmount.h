// umount.holdfast: the helper of umount(8) (called as umount.holdfast or umount.fuse.holdfast, and mount.holdfast is that
// program too). The kernel's part of an unmount is over when the call returns; the server then still writes back and
// leaves its cluster. The helper waits for its end, so that after umount the volume is clean and free.
// Flow: ask the server who it is (an extended attribute of the root) -> unmount -> is the connection really over (it
// is not when the volume is mounted in another place or namespace)? -> wait for the process.
#pragma once

namespace holdfast::fs::fuse {

// trusted.*: only for the administrator. Value: the server's process id and its descriptor of /dev/fuse.
inline constexpr const char* kServerXattr = "trusted.holdfast.server";

bool IsUnmountName(const char* program);
// Exit codes of umount(8).
int UnmountMain(int argc, char** argv);

}  // namespace holdfast::fs::fuse
