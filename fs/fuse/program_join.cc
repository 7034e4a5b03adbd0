// Program: becoming a member of the lockspace. The mount number comes from the register; with it the mount proves that
// it is the only one of that number: an OFD lock on a byte of the volume, through the very descriptor that carries
// its I/O, or a reservation key of its own (cluster.md, "A mount dies, its node lives").
#include "base/log.h"
#include "cluster/client.h"
#include "dlm/service.h"
#include "fs/fuse/program.h"
#include "io/volume_users.h"
#include "io/iscsi_device.h"
#include "io/zmq_transport.h"

namespace holdfast::fs::fuse {
namespace {

uint64_t LockspaceId(const std::string& name) {
  uint64_t h = 14695981039346656037ull;
  for (unsigned char c : name) h = (h ^ c) * 1099511628211ull;
  return h | 1;  // 0 is the daemons' channel
}

}  // namespace

Task<Status> Program::JoinCluster(const Superblock& super) {
  size_t colon = super.lock_table.find(':');
  if (colon == std::string::npos || colon == 0 || colon + 1 == super.lock_table.size()) {
    co_return Error(Errc::kInvalid, "the volume has no lock table (mkfs.holdfast -t cluster:name); use lockproto=nolock");
  }
  auto identity = cluster::LoadIdentity(line_.config, line_.state_dir, line_.node);
  if (!identity.ok()) co_return Error(identity.code(), "node identity: " + identity.error().ToString());
  io::ZmqTransportOptions transport_options;
  transport_options.node = identity->node;
  transport_options.bind = "tcp://" + identity->address + ":0";
  transport_options.source_address = identity->address;
  transport_options.keys = io::CurveKeys{identity->public_key, identity->secret_key};
  for (const auto& [node, key] : identity->peers) transport_options.allowed[key] = node;
  auto transport = io::ZmqTransport::Create(&reactor_, transport_options);
  if (!transport.ok()) co_return Error(transport.code(), "lock manager's transport: " + transport.error().ToString());
  transport_ = std::move(*transport);

  cluster::ClusterClientOptions client_options;
  client_options.run_dir = line_.run_dir;
  link_ = cluster::MakeClusterClient(reactor_, client_options, *this);
  dlm::JoinRequest request;
  request.cluster = super.lock_table.substr(0, colon);
  request.lockspace = super.lock_table.substr(colon + 1);
  request.volume_uuid = UuidText(super.geometry.uuid);
  request.volume_url = line_.volume;
  request.nonce = random_.Next();
  request.address = transport_->LocalAddress();
  request.mounts_max = super.geometry.journal_count;
  auto joined = co_await link_->Join(request);
  if (!joined.ok()) co_return Error(joined.code(), "cannot join lockspace '" + request.lockspace + "': " + joined.error().ToString());
  joined_ = *joined;
  owner_ = OwnerStamp{joined_->self.node, joined_->self.incarnation, joined_->self.nonce, joined_->mount};
  HF_LOG(LogLevel::kInfo, "mount", "joined", {{"self", joined_->self}, {"number", joined_->mount}});
  Status taken = co_await TakeMountNumber(joined_->mount, joined_->key);
  if (!taken.ok()) co_return taken;

  ChannelOptions channel_options;
  channel_options.self = joined_->self;
  channel_options.cluster = request.cluster;
  channel_options.lockspace = LockspaceId(request.lockspace);
  channel_ = std::make_unique<Channel>(transport_.get(), &reactor_, channel_options);
  space_ = dlm::MakeLockSpace(reactor_, channel_.get(), joined_->self);
  space_->SetView(joined_->view);
  if (early_view_) space_->SetView(*early_view_);
  co_return Status();
}

Task<Status> Program::TakeMountNumber(MountNo number, ReservationKey key) {
  if (auto* file = dynamic_cast<io::FileDevice*>(device_.get())) {
    Status locked = co_await io::TakeMountByte(file, number.v, io::kEndingPatience);
    if (!locked.ok()) {
      co_return Error(locked.code(), "mount number " + std::to_string(number.v) + " is still in use on this volume: " +
                                         locked.error().ToString());
    }
  }
  auto* reservations = dynamic_cast<Reservations*>(device_.get());
  if (!reservations) co_return Status();
  Status registered = co_await reservations->Register(key);
  if (!registered.ok()) co_return Error(registered.code(), "reservation key: " + registered.error().ToString());
  Status reserved = co_await reservations->Reserve(key);
  if (!reserved.ok()) co_return Error(reserved.code(), "reservation: " + reserved.error().ToString());
  reservations_ = reservations;
  key_ = key;
  if (auto* iscsi = dynamic_cast<io::IscsiDevice*>(device_.get())) {
    iscsi->session().OnFenced([this](const Error& why) {
      Error error(Errc::kFenced, "the volume refuses us: " + why.ToString());
      if (mount_) mount_->Fatal(error);
    });
    iscsi->session().SetReconnectGuard([this, key] { return GuardReconnect(key); });
  }
  co_return Status();
}

Task<Status> Program::GuardReconnect(ReservationKey key) {
  while (joined_ && joined_->lease) {
    // With a dead holdfastd the lease is neither valid nor over for good, and the withdraw waits for what is in flight here.
    if (mount_ && mount_->withdrawn()) co_return Error(Errc::kFenced, "withdrawn while the session was lost");
    LeaseState state = CheckLease(*joined_->lease, owner_.incarnation, reactor_.clock().Now());
    if (state == LeaseState::kValid) break;
    if (state == LeaseState::kEvicted) co_return Error(Errc::kFenced, "evicted while the session was lost");
    co_await SleepFor(Milliseconds(20));
  }
  auto* iscsi = dynamic_cast<io::IscsiDevice*>(device_.get());
  Status registered = co_await iscsi->Reregister(key);
  if (registered.code() != Errc::kStale) co_return registered;
  // The array has forgotten all keys, and a mount never registers a second time: it could be a zombie whose fencing was
  // forgotten with them. While nobody else stands there we wait; when the reservation stands again, it does so without us.
  auto state = co_await iscsi->Read();
  if (state.ok() && !state->keys.empty())
    co_return Error(Errc::kFenced, "the array has lost its reservation keys, and others stand there now without ours");
  co_return registered;
}

}  // namespace holdfast::fs::fuse
