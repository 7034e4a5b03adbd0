#include "tools/quorum_init.h"

#include <sys/stat.h>

#include "cluster/client.h"
#include "cluster/config.h"
#include "cluster/daemon/quorum_device.h"
#include "cluster/engine.h"
#include "io/file_device.h"
#include "io/open_device.h"
#include "io/reactor.h"
#include "io/rocks_store.h"
#include "io/system_random.h"
#include "io/thread_pool.h"

namespace holdfast::tools {
namespace {

using namespace cluster;

InitClusterArgs ArgsOf(const Config& config, Random& random) {
  InitClusterArgs args;
  args.cluster_name = config.cluster;
  for (int i = 0; i < 2; ++i) {
    uint64_t word = random.Next();
    args.cluster_uuid.append(reinterpret_cast<const char*>(&word), sizeof word);
  }
  args.config_version = config.version;
  args.config_hash = config.hash;
  for (const auto& node : config.nodes) args.nodes.push_back({node.id, node.name, node.votes, 0});
  args.disk_votes = config.quorum_votes;
  do args.area_id = random.Next();
  while (args.area_id == 0);
  return args;
}

Task<Result<std::string>> Init(io::Reactor* reactor, io::ThreadPool* pool, Config config, NodeId self, QuorumInitOptions options) {
  io::SystemRandom random;
  auto store = io::RocksStore::Open(pool, options.state_dir + "/store");
  if (!store.ok()) co_return store.error();
  std::unique_ptr<BlockDevice> disk;
  if (!config.quorum_device.empty()) {
    io::OpenDeviceOptions how;
    auto opened = co_await io::OpenDevice(reactor, pool, config.quorum_device, how);
    if (!opened.ok()) co_return opened.error();
    disk = std::move(*opened);
    // The bytes of all nodes: a running holdfastd of any of them holds its own.
    if (auto* file = dynamic_cast<io::FileDevice*>(disk.get()))
      for (const auto& node : config.nodes)
        if (Status locked = file->LockByte(node.id.v - 1); !locked.ok())
          co_return Error(Errc::kBusy, "holdfastd of " + node.name + " uses " + RedactUrl(config.quorum_device) + ": stop it first");
  }
  OfflineInitOptions init;
  init.self = self;
  init.args = ArgsOf(config, random);
  init.disk = disk.get();
  init.disk_offset = kVolumeQuorumOffset;
  init.force = options.force;
  auto done = co_await OfflineInit(init, reactor, &random, store->get());
  if (disk) co_await disk->Close();
  if (!done.ok()) co_return done.error();
  co_return "cluster " + config.cluster + ": register version " + std::to_string((*done)->version()) + ", " +
      std::to_string(config.nodes.size()) + " nodes, quorum " + std::to_string(config.Quorum()) + " of " + std::to_string(config.TotalVotes()) +
      " votes" + (disk ? ", disk " + RedactUrl(config.quorum_device) : "");
}

}  // namespace

Result<std::string> QuorumInit(const QuorumInitOptions& options) {
  auto loaded = cluster::LoadConfig(options.config);
  if (!loaded.ok()) return loaded.error();
  auto identity = cluster::LoadIdentity(options.config, options.state_dir, options.node);
  if (!identity.ok()) return identity.error();
  io::Reactor reactor;
  io::ThreadPool pool(2);
  return reactor.RunTask(Init(&reactor, &pool, loaded->config, identity->node, options));
}

}  // namespace holdfast::tools
