#include "cluster/daemon/io_quorum_device.h"

#include "io/file_device.h"
#include "io/iscsi_device.h"
#include "io/open_device.h"
#include "io/reactor.h"

namespace holdfast::cluster {
namespace {

// After the session was lost, logged in again and drained: our key comes back only if nobody has preempted it, or if the
// target has lost all keys (a restart without APTPL): we write only our own slots.
Task<Status> Reregister(io::IscsiDevice* device, ReservationKey key) {
  Status registered = co_await device->Restore(key);
  co_return registered;
}

}  // namespace

Task<Result<std::unique_ptr<QuorumDevice>>> OpenQuorumDevice(io::Reactor* reactor, Pool* pool, Parts* parts,
                                                             std::function<void(std::string)> on_fenced) {
  io::OpenDeviceOptions options;
  options.command_timeout = parts->config->timing.DiskCommandTimeout();
  auto device = co_await io::OpenDevice(reactor, pool, parts->config->quorum_device, options);
  if (!device.ok()) co_return device.error();
  std::function<Status()> take_byte;
  if (auto* file = dynamic_cast<io::FileDevice*>(device->get())) {
    uint64_t byte = parts->self->id.v - 1;
    take_byte = [file, byte] { return file->LockByte(byte); };
  }
  auto* iscsi = dynamic_cast<io::IscsiDevice*>(device->get());
  auto* reservations = dynamic_cast<Reservations*>(device->get());
  auto quorum = std::make_unique<QuorumDevice>(parts, std::move(*device), reservations, std::move(take_byte));
  if (iscsi) {
    ReservationKey key = quorum->key();
    iscsi->session().OnFenced([on_fenced](const Error& why) { on_fenced(why.message); });
    iscsi->session().SetReconnectGuard([iscsi, key] { return Reregister(iscsi, key); });
  }
  co_return quorum;
}

}  // namespace holdfast::cluster
