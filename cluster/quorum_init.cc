// `holdfast quorum init` where no daemon runs. See engine.h, OfflineInit.
#include <memory>
#include <utility>

#include "cluster/disk_acceptor.h"
#include "cluster/engine.h"
#include "cluster/node_acceptor.h"
#include "cluster/register.h"

namespace holdfast::cluster {

Task<Result<StatePtr>> OfflineInit(OfflineInitOptions options, Executor* executor, Random* random, KvStore* store) {
  InitClusterArgs args = options.args;
  if (args.disk_votes > 0 && options.disk == nullptr) co_return Error(Errc::kInvalid, "disk votes need a quorum device");
  NodeAcceptor acceptor(store, random);
  auto loaded = co_await acceptor.Load();
  if (!loaded.ok()) co_return loaded.error();
  if (acceptor.accepted().counter != 0) {
    if (!options.force) co_return Error(Errc::kExists, "this node's store has a cluster register already");
    auto forgotten = co_await acceptor.Forget();
    if (!forgotten.ok()) co_return forgotten.error();
  }
  uint64_t nonce = 0;
  while (nonce == 0) nonce = random->Next();
  std::unique_ptr<DiskAcceptor> disk;
  RegisterOptions how;
  how.self = options.self;
  how.nonce = nonce;
  how.nodes = {options.self};
  uint32_t all = args.disk_votes, own = args.disk_votes;
  for (const auto& node : args.nodes) {
    all += node.votes;
    if (node.id == options.self) own += node.votes;
  }
  if (2 * own <= all)
    co_return Error(Errc::kNoQuorum, "this node and the disk have no majority of votes: start holdfastd on every node first");
  if (args.disk_votes > 0) {
    auto there = co_await ReadAreaId(options.disk, options.disk_offset);
    if (there.ok() && !options.force) {
      // An area that was made and never used is no register.
      DiskAcceptorOptions look;
      look.self = options.self;
      look.offset = options.disk_offset;
      for (uint32_t n = 1; n <= kNodesMax; ++n) look.nodes.push_back(NodeId(n));
      DiskAcceptor reader(look, options.disk);
      auto attached = co_await reader.Attach();
      if (!attached.ok()) co_return attached.error();
      auto highest = co_await reader.HighestAccepted();
      if (!highest.ok()) co_return highest.error();
      if (highest->counter != 0) co_return Error(Errc::kExists, "the quorum area holds a cluster register already");
    } else if (!there.ok() && there.code() != Errc::kNotFound) {
      co_return there.error();
    }
    uint64_t area = 0;
    while (area == 0) area = random->Next();
    auto made = co_await InitQuorumArea(options.disk, options.disk_offset, area);
    if (!made.ok()) co_return made.error();
    DiskAcceptorOptions slot;
    slot.self = options.self;
    slot.nonce = nonce;
    slot.offset = options.disk_offset;
    slot.nodes = {options.self};  // a new area: all others are empty
    disk = std::make_unique<DiskAcceptor>(slot, options.disk);
    auto attached = co_await disk->Attach();
    if (!attached.ok()) co_return attached.error();
    args.area_id = area;
  }
  Register reg(how, executor, random, &acceptor, disk.get(), [](NodeId, const RegisterMessage&) {});
  auto init = reg.Initialize(std::move(args), Seconds(10));
  auto result = co_await std::move(init);
  co_await reg.Stop();
  co_return result;
}

}  // namespace holdfast::cluster
