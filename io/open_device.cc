#include "io/open_device.h"

#include "io/file_device.h"
#if __has_include("io/iscsi_device.h")
#include "io/iscsi_device.h"
#define HOLDFAST_HAVE_ISCSI 1
#endif

namespace holdfast::io {

bool IsUrl(const std::string& path_or_url) { return path_or_url.find("://") != std::string::npos; }

Task<Result<std::unique_ptr<BlockDevice>>> OpenDevice(Reactor* reactor, Pool* pool, std::string path_or_url,
                                                      OpenDeviceOptions options) {
  if (path_or_url.starts_with("iscsi://")) {
#ifdef HOLDFAST_HAVE_ISCSI
    auto device = co_await OpenIscsiDevice(reactor, pool, path_or_url, options);
    co_return std::move(device);
#else
    co_return Error(Errc::kUnsupported, "this build has no iSCSI");
#endif
  }
  if (IsUrl(path_or_url)) co_return Error(Errc::kInvalid, "a volume is a path or an iscsi:// URL");
  FileDeviceOptions file_options;
  file_options.read_only = options.read_only;
  auto device = FileDevice::Open(reactor, pool, path_or_url, file_options);
  if (!device.ok()) co_return device.error();
  co_return std::unique_ptr<BlockDevice>(std::move(*device));
}

}  // namespace holdfast::io
