// OpenDevice: a volume by path or URL. A path gives a FileDevice; iscsi://[user[%password]@]host[:port]/target-iqn/lun
// an IscsiDevice. Callers that need more than BlockDevice ask with dynamic_cast: FileDevice (byte locks), Reservations.
#pragma once

#include <memory>
#include <string>

#include "base/block_device.h"
#include "base/clock.h"
#include "base/pool.h"
#include "base/result.h"
#include "base/task.h"
#include "io/reactor.h"

namespace holdfast::io {

struct OpenDeviceOptions {
  bool read_only = false;
  std::string initiator_name;  // iscsi: empty makes one from the host name and process
  Duration command_timeout;    // iscsi: then the session counts as lost; 0: its default
  std::string source_address;  // iscsi: reserved for nodes with several addresses
};

bool IsUrl(const std::string& path_or_url);

Task<Result<std::unique_ptr<BlockDevice>>> OpenDevice(Reactor* reactor, Pool* pool, std::string path_or_url,
                                                      OpenDeviceOptions options);

}  // namespace holdfast::io
