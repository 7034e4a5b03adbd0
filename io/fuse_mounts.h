// FUSE mounts as the kernel lists them, for those who must end the connection of a dead server: its supervisor, and holdfastd
// when that has died too. No call here looks at the mount itself, which could wait for the dead. May block: pool.
#pragma once

#include <string>

namespace holdfast::io {

// The device number ("0:53") of the uppermost FUSE mount at this path, as this process sees it; "" if there is none.
std::string FuseDeviceAt(const std::string& mountpoint);

// Ends the connection: every request without an answer ends with an error. The last closing of /dev/fuse would do it too, but
// a thread of the dead process that waits in the kernel for such a request keeps it open. The mount stays in its place
// (nobody shall write into the folder below it). Only if the mount there has that device number: another may be there by
// now. False: it is not there.
bool AbortFuseMount(const std::string& mountpoint, const std::string& device);

}  // namespace holdfast::io
