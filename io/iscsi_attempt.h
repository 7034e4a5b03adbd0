// One command, or task management function, at the target. Internal to IscsiSession: a command's lives in its coroutine's
// frame, with the iovec that libiscsi keeps a pointer to.
#pragma once

#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>

#include "io/iscsi_session.h"

namespace holdfast::io {

struct IscsiSession::Attempt {
  IscsiSession* session = nullptr;
  scsi_iovec iov{};
  size_t length = 0;
  Instant deadline;
  bool management = false;
  End end = End::kLost;
  Error error = Errc::kOk;
  size_t moved = 0;
  Completion<bool> done;
};

}  // namespace holdfast::io
