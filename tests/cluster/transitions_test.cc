// Transitions of ClusterState: what each expects, what it changes, and that a retry changes nothing.
#include <catch2/catch.hpp>

#include "cluster/lockspace_view.h"
#include "cluster/transitions.h"

using namespace holdfast;
using namespace holdfast::cluster;

namespace {

uint64_t next_change = 100;
ChangeId New() { return ++next_change; }

ClusterState Fresh(uint32_t nodes = 3) {
  InitClusterArgs args;
  args.cluster_name = "lab";
  args.cluster_uuid = std::string(16, 'u');
  args.config_version = 1;
  args.config_hash = "hash";
  for (uint32_t n = 1; n <= nodes; ++n) args.nodes.push_back({NodeId(n), "n" + std::to_string(n), 1, 1000 + n});
  args.disk_votes = nodes - 1;
  args.area_id = 77;
  auto state = InitCluster(args);
  REQUIRE(state.ok());
  return *state;
}

Life L(uint32_t node, uint64_t incarnation) { return {NodeId(node), Incarnation(incarnation)}; }

template <class Fn>
ClusterState Do(const ClusterState& state, Fn fn) {
  auto next = fn(state);
  if (!next.ok()) FAIL(next.error().ToString());
  CHECK(next->version() == state.version() + 1);
  auto again = fn(*next);  // the same change id: a retry
  REQUIRE(again.ok());
  CHECK(again->SerializeAsString() == next->SerializeAsString());
  return *next;
}

BeginJoinArgs JoinArgs(uint32_t node, uint64_t nonce) {
  return {New(), NodeId(node), nonce, "boot", "addr", "lab", 1, "hash"};
}
ClusterState Begin(const ClusterState& state, uint32_t node, uint64_t nonce) {
  auto args = JoinArgs(node, nonce);
  return Do(state, [&](const auto& s) { return BeginJoin(s, args); });
}

// Nodes 1..n are members of incarnation 1 with nonces 11, 12, …
ClusterState Running(uint32_t nodes = 3) {
  auto state = Fresh(nodes);
  for (uint32_t n = 1; n <= nodes; ++n) state = Begin(state, n, 10 + n);
  ColdStartArgs cold{New(), L(1, 1), {{L(1, 1), 11}}, {}};
  state = Do(state, [&](const auto& s) { return ColdStart(s, cold); });
  AdmitJoinArgs admit{New(), L(1, 1), {}};
  for (uint32_t n = 2; n <= nodes; ++n) admit.joiners.push_back({L(n, 1), 10 + n});
  if (nodes > 1) state = Do(state, [&](const auto& s) { return AdmitJoin(s, admit); });
  return state;
}

LockspaceJoinArgs MountArgs(Life by, uint64_t nonce, uint32_t max = 4) {
  return {New(), by, "fs", "uuid", "url", nonce, "tcp://x:" + std::to_string(nonce), max};
}
ClusterState Mount(const ClusterState& state, Life by, uint64_t nonce) {
  auto args = MountArgs(by, nonce);
  return Do(state, [&](const auto& s) { return LockspaceJoin(s, args); });
}
MemberId M(uint32_t node, uint64_t incarnation, uint64_t nonce) { return {NodeId(node), Incarnation(incarnation), nonce}; }

ClusterState EvictOne(const ClusterState& state, Life by, Life victim) {
  EvictArgs args{New(), by, {victim}, "silent"};
  return Do(state, [&](const auto& s) { return Evict(s, args); });
}

FenceProof Proof(ProofKind kind) {
  FenceProof proof;
  proof.set_kind(kind);
  proof.set_by("fence_test");
  return proof;
}

ClusterState FenceIt(ClusterState state, Life by, Life victim, ProofKind kind) {
  FenceArgs claim{New(), by, victim}, token{New(), by, victim}, ended{New(), by, victim};
  state = Do(state, [&](const auto& s) { return ClaimFencer(s, claim); });
  state = Do(state, [&](const auto& s) { return WriteToken(s, token, {Proof(kind)}); });
  return Do(state, [&](const auto& s) { return FenceActionsEnded(s, ended); });
}

}  // namespace

// A path of a volume, the words of a fence agent. Such a value would be decided, written, and never read again by anybody.
TEST_CASE("state: text that is no UTF-8 is read again", "[cluster][unit]") {
  auto state = Running(1);
  CHECK(ClusterState().ParseFromString(state.SerializeAsString()));
  state.add_lockspaces()->set_volume_url("/images/caf\xe9");
  state.mutable_lockspaces(0)->add_members()->set_address("\xff");
  state.add_fencing()->set_reason("\xc3");
  state.mutable_fencing(0)->add_steps()->set_detail("agent: \x80");
  ClusterState again;
  REQUIRE(again.ParseFromString(state.SerializeAsString()));
  CHECK(again.lockspaces(0).volume_url() == "/images/caf\xe9");
}

TEST_CASE("transitions: joiners are admitted together and only by a member", "[cluster][unit]") {
  auto state = Running();
  CHECK(Members(state) == std::vector{L(1, 1), L(2, 1), L(3, 1)});
  auto evicted = EvictOne(state, L(1, 1), L(3, 1));
  CHECK(AdmitJoin(evicted, {New(), L(3, 1), {{L(3, 1), 13}}}).code() == Errc::kFenced);
  CHECK(AdmitJoin(evicted, {New(), L(1, 1), {{L(3, 1), 13}}}).code() == Errc::kConflict);
}

TEST_CASE("transitions: a change without an id is refused", "[cluster][unit]") {
  CHECK(Evict(Running(), {0, L(1, 1), {L(2, 1)}, ""}).code() == Errc::kInvalid);
}

TEST_CASE("transitions: a joiner needs the right cluster and config", "[cluster][unit]") {
  auto state = Fresh();
  auto args = JoinArgs(1, 5);
  args.cluster_name = "other";
  CHECK(BeginJoin(state, args).code() == Errc::kInvalid);
  args = JoinArgs(1, 5);
  args.config_hash = "other";
  CHECK(BeginJoin(state, args).code() == Errc::kStale);
  args = JoinArgs(9, 5);
  CHECK(BeginJoin(state, args).code() == Errc::kInvalid);
}

TEST_CASE("transitions: eviction makes victims of mounts, a new generation, and frees nothing", "[cluster][unit]") {
  auto state = Mount(Mount(Mount(Running(), L(1, 1), 101), L(2, 1), 102), L(3, 1), 103);
  auto before = ViewOf(state, "fs");
  CHECK(before.members.size() == 3);
  CHECK(before.members[2].mount == MountNo(2));
  state = EvictOne(state, L(1, 1), L(2, 1));
  auto view = ViewOf(state, "fs");
  CHECK(view.generation.v == before.generation.v + 1);
  REQUIRE(view.victims.size() == 1);
  CHECK(view.victims[0].id == M(2, 1, 102));
  CHECK(!view.victims[0].fenced);
  REQUIRE(FindFencing(state, L(2, 1)) != nullptr);
  CHECK(FindFencing(state, L(2, 1))->mounts_size() == 1);
  CHECK(FindFencing(state, L(2, 1))->keys_size() == 2);
  // The number is owed: the next mount gets another.
  state = Mount(state, L(1, 1), 104);
  CHECK(FindLockspaceMember(state, "fs", M(1, 1, 104))->mount() == 3);
  CHECK(LockspaceJoin(state, MountArgs(L(1, 1), 105)).code() == Errc::kNoSpace);
}

TEST_CASE("transitions: when all mounts are dead and all journals owed, the first to come takes over a fenced one", "[cluster][unit]") {
  auto state = Running();
  for (uint64_t nonce = 101; nonce <= 104; ++nonce) state = Mount(state, L(nonce == 101 ? 1 : 2, 1), nonce);
  REQUIRE(LockspaceJoin(state, MountArgs(L(1, 1), 105)).code() == Errc::kNoSpace);
  auto dead = MountDied(state, LockspaceArgs{New(), "fs", M(1, 1, 101)}, "killed");
  REQUIRE(dead.ok());
  state = EvictOne(*dead, L(1, 1), L(2, 1));
  CHECK(LockspaceJoin(state, MountArgs(L(1, 1), 105)).code() == Errc::kNoSpace);  // nobody is fenced yet
  state = FenceIt(state, L(1, 1), L(2, 1), STORAGE);
  state = Mount(state, L(1, 1), 105);
  CHECK(FindLockspaceMember(state, "fs", M(1, 1, 105))->mount() == 1);  // number 0 may still be written by the dead mount
  CHECK(ViewOf(state, "fs").victims.size() == 4);                       // all of them are still owed
  CHECK(LockspaceJoin(state, MountArgs(L(1, 1), 106)).code() == Errc::kNoSpace);  // a member lives and will replay
}

TEST_CASE("transitions: a lockspace without the victim keeps its generation", "[cluster][unit]") {
  auto state = Mount(Running(), L(1, 1), 101);
  auto generation = ViewOf(state, "fs").generation;
  state = EvictOne(state, L(1, 1), L(3, 1));
  state = FenceIt(state, L(1, 1), L(3, 1), STORAGE);
  CHECK(ViewOf(state, "fs").generation == generation);
}

TEST_CASE("transitions: replay waits for the token, one replayer, and both gates bury the victim", "[cluster][unit]") {
  auto state = Mount(Mount(Running(), L(1, 1), 101), L(2, 1), 102);
  state = EvictOne(state, L(1, 1), L(2, 1));
  ReplayArgs claim{New(), "fs", M(1, 1, 101), M(2, 1, 102)};
  CHECK(ClaimReplay(state, claim).code() == Errc::kConflict);
  state = FenceIt(state, L(1, 1), L(2, 1), STORAGE);
  CHECK(FindNode(state, NodeId(2))->state() == FENCED);
  auto view = ViewOf(state, "fs");
  CHECK(view.victims[0].fenced);
  CHECK(!view.victims[0].readers_ended);
  state = Mount(state, L(3, 1), 103);
  state = Do(state, [&](const auto& s) { return ClaimReplay(s, claim); });
  CHECK(ClaimReplay(state, {New(), "fs", M(3, 1, 103), M(2, 1, 102)}).code() == Errc::kBusy);
  CHECK(ReplayDone(state, {New(), "fs", M(3, 1, 103), M(2, 1, 102)}).code() == Errc::kConflict);
  // The replayer's death frees the replay.
  auto other = EvictOne(state, L(3, 1), L(1, 1));
  ReplayArgs takeover{New(), "fs", M(3, 1, 103), M(2, 1, 102)};
  other = Do(other, [&](const auto& s) { return ClaimReplay(s, takeover); });
  CHECK(ClaimReplay(other, {New(), "fs", M(1, 1, 101), M(2, 1, 102)}).code() == Errc::kFenced);
  // And the plain way.
  ReplayArgs done{New(), "fs", M(1, 1, 101), M(2, 1, 102)};
  state = Do(state, [&](const auto& s) { return ReplayDone(s, done); });
  CHECK(ViewOf(state, "fs").victims.size() == 1);
  FenceArgs readers{New(), L(3, 1), L(2, 1)};
  state = Do(state, [&](const auto& s) { return ReadersEnded(s, readers); });
  CHECK(ViewOf(state, "fs").victims.empty());
  CHECK(state.fencing().empty());
  CHECK(ClaimReplay(state, {New(), "fs", M(1, 1, 101), M(2, 1, 102)}).code() == Errc::kNotFound);
}

TEST_CASE("transitions: a power proof ends the readers too", "[cluster][unit]") {
  auto state = Mount(Mount(Running(), L(1, 1), 101), L(2, 1), 102);
  state = FenceIt(EvictOne(state, L(1, 1), L(2, 1)), L(1, 1), L(2, 1), POWER);
  CHECK(ViewOf(state, "fs").victims[0].readers_ended);
}

TEST_CASE("transitions: one fencer at a time, another only when it is gone", "[cluster][unit]") {
  auto state = EvictOne(Running(), L(1, 1), L(3, 1));
  FenceArgs one{New(), L(1, 1), L(3, 1)}, two{New(), L(2, 1), L(3, 1)};
  state = Do(state, [&](const auto& s) { return ClaimFencer(s, one); });
  CHECK(ClaimFencer(state, two).code() == Errc::kBusy);
  CHECK(WriteToken(state, {New(), L(2, 1), L(3, 1)}, {Proof(POWER)}).code() == Errc::kConflict);
  FenceStep step;
  step.set_what("preempt");
  FenceArgs record{New(), L(1, 1), L(3, 1)};
  state = Do(state, [&](const auto& s) { return RecordFenceStep(s, record, step); });
  CHECK(FindFencing(state, L(3, 1))->steps_size() == 1);
  auto resigned_args = FenceArgs{New(), L(1, 1), L(3, 1)};
  auto resigned = Do(state, [&](const auto& s) { return ResignFencer(s, resigned_args); });
  resigned = Do(resigned, [&](const auto& s) { return ClaimFencer(s, two); });
  // Evicted while at it: another may take over at once, but its late power-off may hit a successor until it is fenced.
  state = EvictOne(state, L(2, 1), L(1, 1));
  CHECK(FindFencing(state, L(3, 1))->fencer_node() == 0);
  state = FenceIt(state, L(2, 1), L(3, 1), POWER);  // nothing else is waited for
  CHECK(!FormerLivesEnded(state, NodeId(3)));
  state = FenceIt(state, L(2, 1), L(1, 1), STORAGE);
  CHECK(FormerLivesEnded(state, NodeId(3)));
}

TEST_CASE("transitions: a node that starts again evicts its former life and waits for its fencing", "[cluster][unit]") {
  auto state = Mount(Running(), L(2, 1), 102);
  state = Begin(state, 2, 22);
  CHECK(IsJoining(state, L(2, 2)));
  REQUIRE(FindFencing(state, L(2, 1)) != nullptr);
  CHECK(ViewOf(state, "fs").victims.size() == 1);
  AdmitJoinArgs admit{New(), L(1, 1), {{L(2, 2), 22}}};
  CHECK(AdmitJoin(state, admit).code() == Errc::kConflict);
  // It may prove its own former life gone; it may not fence others.
  CHECK(ClaimFencer(EvictOne(state, L(1, 1), L(3, 1)), {New(), L(2, 2), L(3, 1)}).code() == Errc::kConflict);
  state = FenceIt(state, L(2, 2), L(2, 1), LOCAL);
  CHECK(IsJoining(state, L(2, 2)));
  state = Do(state, [&](const auto& s) { return AdmitJoin(s, admit); });
  CHECK(IsMember(state, L(2, 2)));
  // The former life can do nothing any more.
  CHECK(LockspaceJoin(state, MountArgs(L(2, 1), 5)).code() == Errc::kFenced);
  CHECK(Evict(state, {New(), L(2, 1), {L(1, 1)}, ""}).code() == Errc::kFenced);
}

TEST_CASE("transitions: an evicted life may only ask to join, as a new one", "[cluster][unit]") {
  auto state = EvictOne(Running(), L(1, 1), L(2, 1));
  CHECK(BeginJoin(state, JoinArgs(2, 12)).code() == Errc::kFenced);
  CHECK(CleanLeave(state, {New(), L(2, 1)}).code() == Errc::kFenced);
  CHECK(LockspaceJoin(state, MountArgs(L(2, 1), 5)).code() == Errc::kFenced);
  CHECK(IsJoining(Begin(state, 2, 99), L(2, 2)));
}

TEST_CASE("transitions: an old admission retried after an eviction changes nothing", "[cluster][unit]") {
  auto state = Begin(Running(2), 2, 22);
  state = FenceIt(state, L(1, 1), L(2, 1), REBOOT);
  AdmitJoinArgs admit{New(), L(1, 1), {{L(2, 2), 22}}};
  state = Do(state, [&](const auto& s) { return AdmitJoin(s, admit); });
  state = EvictOne(state, L(1, 1), L(2, 2));
  auto retry = AdmitJoin(state, admit);
  REQUIRE(retry.ok());
  CHECK(retry->version() == state.version());
  CHECK(!IsMember(*retry, L(2, 2)));
  admit.change = New();
  CHECK(AdmitJoin(state, admit).code() == Errc::kConflict);
}

TEST_CASE("transitions: a cold start evicts exactly the members of the register", "[cluster][unit]") {
  auto state = Mount(Running(), L(3, 1), 103);
  state = Begin(state, 1, 21);
  state = Begin(state, 2, 22);
  state = FenceIt(state, L(1, 2), L(1, 1), LOCAL);
  ColdStartArgs cold{New(), L(1, 2), {{L(1, 2), 21}, {L(2, 2), 22}}, {}};
  CHECK(ColdStart(state, cold).code() == Errc::kConflict);  // 3.1 may be running
  cold.victims = {L(3, 1)};
  state = Do(state, [&](const auto& s) { return ColdStart(s, cold); });
  CHECK(IsMember(state, L(1, 2)));
  CHECK(IsJoining(state, L(2, 2)));  // its former life is not proven gone yet
  CHECK(FindFencing(state, L(3, 1)) != nullptr);
  CHECK(ViewOf(state, "fs").victims.size() == 1);
}

TEST_CASE("transitions: a clean leave needs its mounts gone and needs no fencing", "[cluster][unit]") {
  auto state = Mount(Running(), L(2, 1), 102);
  CHECK(CleanLeave(state, {New(), L(2, 1)}).code() == Errc::kBusy);
  LockspaceArgs leave{New(), "fs", M(2, 1, 102)};
  auto generation = ViewOf(state, "fs").generation.v;
  state = Do(state, [&](const auto& s) { return LockspaceLeave(s, leave); });
  CHECK(ViewOf(state, "fs").generation.v == generation + 1);
  CleanLeaveArgs out{New(), L(2, 1)};
  state = Do(state, [&](const auto& s) { return CleanLeave(s, out); });
  CHECK(FindNode(state, NodeId(2))->state() == LEFT);
  CHECK(state.fencing().empty());
  state = Begin(state, 2, 22);
  CHECK(state.fencing().empty());
}

TEST_CASE("transitions: a mount that dies on a living node has its own proof", "[cluster][unit]") {
  auto state = Mount(Mount(Running(), L(1, 1), 101), L(2, 1), 102);
  LockspaceArgs died{New(), "fs", M(2, 1, 102)};
  state = Do(state, [&](const auto& s) { return MountDied(s, died, "killed"); });
  CHECK(IsMember(state, L(2, 1)));
  CHECK(CleanLeave(state, {New(), L(2, 1)}).code() == Errc::kBusy);
  MountProofArgs dead{New(), L(2, 1), "fs", M(2, 1, 102), "byte lock", false};
  auto fenced = Do(state, [&](const auto& s) { return MountProof(s, dead); });
  CHECK(CleanLeave(fenced, {New(), L(2, 1)}).code() == Errc::kBusy);  // nobody else would tell that its readers have ended
  MountProofArgs proof{New(), L(2, 1), "fs", M(2, 1, 102), "byte lock", true};
  auto proven = Do(state, [&](const auto& s) { return MountProof(s, proof); });
  CHECK(ViewOf(proven, "fs").victims[0].fenced);
  CHECK(ViewOf(proven, "fs").victims[0].readers_ended);
  CHECK(FindNode(proven, NodeId(2))->keys_size() == 1);
  // The node dies before the proof: the node's token counts for the mount.
  state = EvictOne(state, L(1, 1), L(2, 1));
  CHECK(MountProof(state, {New(), L(1, 1), "fs", M(2, 1, 102), "x", true}).code() == Errc::kConflict);
  CHECK(FindFencing(state, L(2, 1))->mounts_size() == 1);
  state = FenceIt(state, L(1, 1), L(2, 1), POWER);
  CHECK(ViewOf(state, "fs").victims[0].fenced);
}

TEST_CASE("transitions: a person's word fences every waiting life of a node", "[cluster][unit]") {
  auto state = EvictOne(Running(), L(1, 1), L(3, 1));
  CHECK(ManualAck(state, {New(), NodeId(2), "root"}).code() == Errc::kConflict);
  ManualAckArgs args{New(), NodeId(3), "root"};
  state = Do(state, [&](const auto& s) { return ManualAck(s, args); });
  CHECK(FindNode(state, NodeId(3))->state() == FENCED);
  CHECK(FormerLivesEnded(state, NodeId(3)));
}

TEST_CASE("transitions: config versions only grow, from the version expected", "[cluster][unit]") {
  auto state = Running();
  CHECK(ConfigVersion(state, {New(), L(1, 1), 7, 8, "h"}).code() == Errc::kConflict);
  CHECK(ConfigVersion(state, {New(), L(1, 1), 1, 1, "h"}).code() == Errc::kInvalid);
  CHECK(ConfigVersion(state, {New(), L(9, 1), 1, 2, "h"}).code() == Errc::kFenced);
  ConfigVersionArgs args{New(), L(1, 1), 1, 2, "h"};
  CHECK(Do(state, [&](const auto& s) { return ConfigVersion(s, args); }).config_hash() == "h");
}

TEST_CASE("transitions: an acceptor that lost its memory is admitted under its new id", "[cluster][unit]") {
  auto state = Running();
  CHECK(ReadmitStorage(state, {New(), NodeId(2), 5, 6}).code() == Errc::kConflict);
  ReadmitStorageArgs args{New(), NodeId(2), 1002, 6};
  state = Do(state, [&](const auto& s) { return ReadmitStorage(s, args); });
  CHECK(state.acceptors().acceptors(2).storage() == 6);
}

TEST_CASE("transitions: applied ids are bounded", "[cluster][unit]") {
  auto state = Running();
  for (int i = 0; i < 300; ++i) {
    state = Mount(state, L(1, 1), 1000 + i);
    LockspaceArgs leave{New(), "fs", M(1, 1, 1000 + i)};
    state = Do(state, [&](const auto& s) { return LockspaceLeave(s, leave); });
  }
  CHECK(state.applied_size() == kAppliedMax);
}
