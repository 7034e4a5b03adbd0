// The register alone in bad times. See register_storm.h.
#include "tests/cluster/register_storm.h"

#include <algorithm>
#include <map>
#include <memory>
#include <vector>

#include "cluster/disk_acceptor.h"
#include "cluster/engine.h"
#include "cluster/register.h"
#include "tests/sim/disk.h"
#include "tests/sim/kv_store.h"
#include "tests/sim/network.h"
#include "tests/sim/world.h"

namespace holdfast::cluster {

using namespace holdfast::sim;

namespace {

class Arena;

// One life of a proposer and acceptor.
struct Party {
  Party(Arena* arena, NodeId node);
  Task<void> Run();
  Task<void> Propose();

  Arena* arena;
  NodeId node;
  uint64_t nonce;
  SimExecutor* executor;
  std::unique_ptr<SimTransport> transport;
  std::unique_ptr<SimDiskSession> device;
  std::unique_ptr<SimKvStore> store;
  std::unique_ptr<NodeAcceptor> acceptor;
  std::unique_ptr<DiskAcceptor> disk;
  std::unique_ptr<Register> reg;
  bool ready = false;
};

class Arena {
 public:
  Arena(World* w, Mutants m) : world(*w), mutants(m), network(w) {}

  void Violate(std::string what) {
    if (wrong.empty()) wrong = std::move(what);
  }
  // A value that somebody was told is decided.
  void Told(const ClusterState& state, uint64_t change) {
    world.Mix(state.version());
    std::vector<uint64_t> ids(state.applied().begin(), state.applied().end());
    auto [it, fresh] = chain.try_emplace(state.version(), ids);
    if (!fresh && it->second != ids) Violate("two values of register version " + std::to_string(state.version()));
    if (fresh) {
      CheckPrefix(it, it == chain.begin() ? chain.end() : std::prev(it));
      if (std::next(it) != chain.end()) CheckPrefix(std::next(it), it);
    }
    if (change != 0 && std::find(ids.begin(), ids.end(), change) == ids.end()) Violate("a change that was told done is not in version " + std::to_string(state.version()) + " with " + std::to_string(ids.size()) + " ids");
  }
  // Real time: a call that begins now must see at least what was told before now.
  uint64_t newest() const { return chain.empty() ? 0 : chain.rbegin()->first; }

  World& world;
  Mutants mutants;
  SimNetwork network;
  std::unique_ptr<SimDisk> disk;
  uint32_t nodes = 3;
  bool votes_change = false;
  std::map<uint32_t, std::unique_ptr<SimKvMedium>> media;
  std::map<uint32_t, Party*> parties;
  std::map<NodeId, std::string> addresses;
  std::map<uint64_t, std::vector<uint64_t>> chain;  // version -> applied ids (all of them: storms are short)
  std::string wrong;

 private:
  using Link = std::map<uint64_t, std::vector<uint64_t>>::iterator;
  void CheckPrefix(Link newer, Link older) {
    if (older == chain.end()) return;
    if (older->second.empty()) return;
    // The newer list goes on from the older one's end; ids far back have been dropped from it.
    auto at = std::find(newer->second.begin(), newer->second.end(), older->second.back());
    bool far = newer->first - older->first >= kAppliedMax;
    auto keep = at == newer->second.end() ? 0 : at - newer->second.begin() + 1;
    if ((at == newer->second.end() && !far) || keep > static_cast<ptrdiff_t>(older->second.size()) ||
        !std::equal(newer->second.begin(), newer->second.begin() + keep, older->second.end() - keep))
      Violate("register version " + std::to_string(newer->first) + " does not continue version " + std::to_string(older->first));
  }
};

Party::Party(Arena* a, NodeId n) : arena(a), node(n), executor(&a->world.Start(n)) {
  nonce = a->world.random().Next() | 1;
  transport = a->network.Listen(*executor, "n" + std::to_string(n.v) + "/" + std::to_string(nonce));
  a->addresses[n] = transport->endpoint().address;
  store = std::make_unique<SimKvStore>(executor, a->media.at(n.v).get());
  acceptor = std::make_unique<NodeAcceptor>(store.get(), &a->world.random());
  RegisterOptions how;
  how.self = n;
  how.nonce = nonce;
  how.mutants = a->mutants;
  how.attempt = Milliseconds(150);
  how.resend = Milliseconds(30);
  how.backoff_max = Milliseconds(20);
  for (uint32_t i = 1; i <= a->nodes; ++i) how.nodes.push_back(NodeId(i));
  if (a->disk) {
    device = a->disk->Open(*executor);
    DiskAcceptorOptions slot;
    slot.self = n;
    slot.nonce = nonce;
    slot.nodes = how.nodes;
    slot.mutants = a->mutants;
    SimDiskSession* session = device.get();
    slot.drain = [session] { return session->Drain(); };
    disk = std::make_unique<DiskAcceptor>(slot, device.get());
  }
  reg = std::make_unique<Register>(how, executor, &a->world.random(), acceptor.get(), disk.get(),
                                   [this](NodeId to, const RegisterMessage& message) {
                                     std::string bytes = message.SerializeAsString();
                                     auto span = AsBytes(bytes);
                                     transport->Send({to, arena->addresses[to], ""}, {span.begin(), span.end()});
                                   });
  reg->SetWatcher([this] { arena->Told(*reg->decided(), 0); });
  transport->SetReceiver([this](NodeId from, std::span<const std::byte> frame) {
    RegisterMessage message;
    if (ready && message.ParseFromArray(frame.data(), static_cast<int>(frame.size()))) reg->OnMessage(from, message);
  });
}

Task<void> Party::Run() {
  auto loaded = co_await acceptor->Load();
  if (!loaded.ok()) co_return;
  while (true) {
    if (disk != nullptr && !disk->attached()) {  // as the engine does: again until it works
      auto attached = co_await disk->Attach();
      (void)attached;
    }
    ready = true;
    auto propose = Propose();
    co_await std::move(propose);
    co_await SleepFor(Microseconds(static_cast<int64_t>(arena->world.random().Below(20'000))));
  }
}

// Joint consensus: first a value with both sets, then, once that is chosen, one with the new set alone.
void ChangeVotes(ClusterState* state, NodeId whose, bool one_step) {
  if (state->has_acceptors_next()) {
    *state->mutable_acceptors() = state->acceptors_next();
    state->clear_acceptors_next();
    return;
  }
  AcceptorSet* set = one_step ? state->mutable_acceptors() : state->mutable_acceptors_next();
  if (!one_step) *set = state->acceptors();
  for (auto& acceptor : *set->mutable_acceptors())
    if (acceptor.node() == whose.v) acceptor.set_votes(acceptor.votes() == 1 ? 7 : 1);
}

Task<void> Party::Propose() {
  ChangeOptions how;
  how.limit = Milliseconds(400);
  uint64_t before = arena->newest();
  StatePtr known = reg->decided();
  if (known != nullptr) {
    uint64_t old_storage = 0;
    for (const auto& entry : known->acceptors().acceptors())
      if (entry.node() == node.v) old_storage = entry.storage();
    if (old_storage != acceptor->storage() && !arena->mutants.wiped_counts) {
      ReadmitStorageArgs args{arena->world.random().Next() | 1, node, old_storage, acceptor->storage()};
      ChangeFn change = [args](const ClusterState& s) { return ReadmitStorage(s, args); };
      how.confirmed = true;
      auto changing = reg->Change(std::move(change), how);
      auto result = co_await std::move(changing);
      if (result.ok()) arena->Told(**result, 0);
      co_return;
    }
  }
  if (arena->world.random().Chance(300'000)) {
    auto reading = reg->Read(how);
    auto result = co_await std::move(reading);
    if (!result.ok()) co_return;
    arena->Told(**result, 0);
    if ((*result)->version() < before) arena->Violate("a read is older than what was told before it began");
    co_return;
  }
  uint64_t id = arena->world.random().Next() | 1;
  bool votes = arena->votes_change && arena->world.random().Chance(400'000);
  if (votes) how.confirmed = !arena->mutants.votes_in_one_step;  // the final value only after a joint one that was chosen
  NodeId whose(1 + static_cast<uint32_t>(arena->world.random().Below(arena->votes_change ? arena->nodes : 1)));
  bool one_step = arena->mutants.votes_in_one_step;
  ChangeFn change = [id, votes, whose, one_step](const ClusterState& s) -> Result<ClusterState> {
    if (std::find(s.applied().begin(), s.applied().end(), id) != s.applied().end()) return s;
    ClusterState next = s;
    next.set_version(s.version() + 1);
    next.add_applied(id);
    if (votes) ChangeVotes(&next, whose, one_step);
    return next;
  };
  auto changing = reg->Change(std::move(change), how);
  auto result = co_await std::move(changing);
  if (!result.ok()) co_return;
  arena->Told(**result, id);
  if ((*result)->version() < before) arena->Violate("a change went to a value older than what was told before it began");
}

void Start(Arena* arena, NodeId node) {
  Party* party = new Party(arena, node);  // never destroyed: the world's frames refer to it to the end
  arena->parties[node.v] = party;
  party->executor->Spawn(party->Run());
}

void Kill(Arena* arena, NodeId node) {
  arena->world.CrashNode(node);
  arena->media.at(node.v)->Crash();
}

// What a seed is mostly about.
enum class Season { kMixed, kIslands, kRestarts };

void Fault(Arena* arena, bool* wiped, Season season, NodeId weak) {
  SimRandom& random = arena->world.random();
  NodeId a(1 + static_cast<uint32_t>(random.Below(arena->nodes))), b(1 + static_cast<uint32_t>(random.Below(arena->nodes)));
  uint64_t what = random.Below(8);
  // Islands: the nodes see each other through the disk alone, and the array fails often.
  if (season == Season::kIslands) what = random.Chance(500'000) ? 6 : 0;
  // Restarts: one node starts again and again, and its store is slower than all the others' answers.
  if (season == Season::kRestarts && random.Chance(700'000)) {
    what = 0;
    a = weak;
  }
  switch (what) {
    case 0:
    case 1:
    case 2:
      Kill(arena, a);
      Start(arena, a);
      break;
    case 3:
      if (a != b) arena->network.CutOneWay(a, b);
      break;
    case 4:
    case 5:
      arena->network.HealAll();
      break;
    case 6:
      if (arena->disk) arena->disk->PowerLoss();
      break;
    case 7:
      if (*wiped) break;
      *wiped = true;
      Kill(arena, a);
      arena->media.at(a.v)->Wipe();
      Start(arena, a);
      break;
  }
}

}  // namespace

RegisterStormResult RegisterStorm(uint64_t seed, Mutants mutants) {
  World world(seed);
  SimRandom& random = world.random();
  Arena arena(&world, mutants);
  arena.nodes = static_cast<uint32_t>(random.Between(uint64_t{2}, uint64_t{4}));
  bool with_disk = arena.nodes == 2 || random.Chance(750'000);
  for (uint32_t n = 1; n <= arena.nodes; ++n) arena.media[n] = std::make_unique<SimKvMedium>(&world);
  InitClusterArgs init;
  init.cluster_name = "sim";
  init.cluster_uuid = std::string(16, 'u');
  init.disk_votes = with_disk ? arena.nodes - 1 : 0;
  for (uint32_t n = 1; n <= arena.nodes; ++n) init.nodes.push_back({NodeId(n), "", 1, 0});
  auto& first = world.Start(NodeId(1));
  if (with_disk) {
    arena.disk = std::make_unique<SimDisk>(&world, kQuorumAreaBytes);
    auto session = arena.disk->Open(first);
    auto made = world.Run(first, InitQuorumArea(session.get(), 0, 77));
    if (!made.ok()) return {"init: " + made.error().ToString()};
  }
  first.Crash();
  for (uint32_t n = 1; n <= arena.nodes; ++n) Start(&arena, NodeId(n));
  world.RunUntil([&] { return arena.parties.at(1)->ready && arena.parties.at(2)->ready; }, Seconds(2));
  Party* one = arena.parties.at(1);
  auto made = world.Run(*one->executor, one->reg->Initialize(init, Seconds(20)));
  if (!made.ok()) return {"init: " + made.error().ToString()};
  // Everybody's memory is listed before the first of them is lost.
  world.RunUntil(
      [&] {
        StatePtr state = one->reg->decided();
        return std::all_of(state->acceptors().acceptors().begin(), state->acceptors().acceptors().end(),
                           [&](const auto& a) { return a.node() == 0 || a.storage() == arena.parties.at(a.node())->acceptor->storage(); });
      },
      Seconds(20));

  arena.network.knobs() = NetworkKnobs::Random(random);
  arena.network.knobs().slow = static_cast<uint32_t>(random.Below(100'000));
  arena.network.knobs().slow_max = Milliseconds(static_cast<int64_t>(random.Between(uint64_t{5}, uint64_t{400})));
  if (arena.disk) {
    auto& knobs = arena.disk->knobs();
    knobs.crash_late = 800'000;
    knobs.crash_late_max = Milliseconds(static_cast<int64_t>(random.Between(uint64_t{3}, uint64_t{100})));
    knobs.slow = static_cast<uint32_t>(random.Below(80'000));
    knobs.slow_max = Milliseconds(30);
    knobs.read_error = random.Chance(500'000) ? 20'000 : 0;
    knobs.split = 300'000;
  }
  Season season = Season::kMixed;
  if (random.Chance(250'000))
    season = Season::kRestarts;
  else if (arena.disk && random.Chance(350'000))
    season = Season::kIslands;
  if (season == Season::kIslands)
    for (uint32_t a = 1; a <= arena.nodes; ++a)
      for (uint32_t b = a + 1; b <= arena.nodes; ++b)
        if (random.Chance(800'000)) arena.network.Cut(NodeId(a), NodeId(b));
  NodeId weak(1 + static_cast<uint32_t>(random.Below(arena.nodes)));
  if (season == Season::kRestarts) {
    arena.media.at(weak.v)->knobs().latency_min = Milliseconds(8);
    arena.media.at(weak.v)->knobs().latency_max = Milliseconds(30);
    arena.network.knobs().slow = 200'000;
    arena.network.knobs().slow_max = Milliseconds(60);
  }
  for (auto& [n, medium] : arena.media)
    if (season != Season::kRestarts && random.Chance(400'000))
      medium->knobs().latency_max = Milliseconds(static_cast<int64_t>(random.Between(uint64_t{2}, uint64_t{25})));
  arena.votes_change = seed % 4 == 3;
  bool wiped = arena.votes_change;  // who has most of the votes may not forget: nobody could admit it again
  Instant end = world.now() + Milliseconds(1500);
  while (world.now() < end && arena.wrong.empty()) {
    Fault(&arena, &wiped, season, weak);
    world.RunFor(random.Between(Milliseconds(2), Milliseconds(season == Season::kMixed ? 80 : 40)));
  }
  // Calm: the register answers, with everything that was told.
  arena.network.HealAll();
  arena.network.knobs() = {};
  for (auto& [n, medium] : arena.media) medium->knobs() = {};
  if (arena.disk) arena.disk->knobs().read_error = arena.disk->knobs().slow = 0;
  uint64_t told = arena.newest();
  bool alive = arena.wrong.empty() && world.RunUntil([&] { return arena.newest() >= told + 3 || !arena.wrong.empty(); }, Seconds(20));
  if (arena.wrong.empty() && !alive) {
    std::string what = "the register does not answer any more:";
    for (auto& [n, party] : arena.parties) {
      what += "\n n" + std::to_string(n) + (party->ready ? "" : " not ready") + " storage " + std::to_string(party->acceptor->storage()) +
              " promised " + std::to_string(party->acceptor->promised().counter) + " register: " + party->reg->trouble();
      if (party->disk != nullptr) what += party->disk->attached() ? ", disk: " + party->disk->trouble() : ", disk not attached: " + party->disk->trouble();
      if (party->reg->decided() != nullptr) {
        what += ", version " + std::to_string(party->reg->decided()->version()) + " storage:";
        for (const auto& a : party->reg->decided()->acceptors().acceptors()) what += " " + std::to_string(a.storage());
      }
    }
    arena.Violate(what);
  }
  return {arena.wrong, arena.newest(), world.trace_hash()};
}

}  // namespace holdfast::cluster
