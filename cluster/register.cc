// CASPaxos: ballots, quorums, what is decided. See register.h.
#include "cluster/register.h"

#include <algorithm>
#include <utility>

#include "base/bytes.h"
#include "base/check.h"

namespace holdfast::cluster {

Ballot FromWire(const WireBallot& ballot) { return {ballot.counter(), NodeId(ballot.node()), ballot.nonce()}; }
void ToWire(const Ballot& ballot, WireBallot* out) {
  out->set_counter(ballot.counter);
  out->set_node(ballot.node.v);
  out->set_nonce(ballot.nonce);
}

namespace {

struct Votes {
  uint64_t with = 0, all = 0;
};

// A storage id of 0 in the value: nobody knows that acceptor's memory yet; it counts nothing until it is admitted.
Votes Count(const AcceptorSet& set, const Answers& answers, const Mutants& mutants) {
  Votes votes;
  for (const auto& acceptor : set.acceptors()) {
    votes.all += acceptor.votes();
    auto it = answers.storage.find(acceptor.node());
    if (it == answers.storage.end()) continue;
    bool same = acceptor.storage() != 0 && acceptor.storage() == it->second;
    if (same || mutants.wiped_counts) votes.with += acceptor.votes();
  }
  return votes;
}

std::shared_ptr<ClusterState> Parse(const std::string& bytes) {
  auto state = std::make_shared<ClusterState>();
  if (bytes.empty() || !state->ParseFromString(bytes) || state->version() == 0) return nullptr;
  return state;
}

}  // namespace

bool IsQuorum(const ClusterState& value, const Answers& answers, const Mutants& mutants) {
  Votes now = Count(value.acceptors(), answers, mutants);
  if (now.with * 2 <= now.all) return false;
  if (!value.has_acceptors_next()) return true;
  Votes next = Count(value.acceptors_next(), answers, mutants);
  return next.with * 2 > next.all;
}

Register::Register(RegisterOptions options, Executor* executor, Random* random, NodeAcceptor* acceptor,
                   DiskAcceptor* disk, std::function<void(NodeId, const RegisterMessage&)> send)
    : options_(std::move(options)), executor_(executor), random_(random), acceptor_(acceptor), disk_(disk),
      send_(std::move(send)) {}

Ballot Register::NextBallot() {
  highest_ = std::max({highest_, acceptor_->promised().counter, decided_ballot_.counter}) + 1;
  return {highest_, options_.self, options_.mutants.ballot_without_nonce ? 0 : options_.nonce};
}

StatePtr Register::accepted_here() {
  if (acceptor_->accepted() != accepted_ballot_) {
    accepted_ballot_ = acceptor_->accepted();
    accepted_ = Parse(acceptor_->value());
  }
  return accepted_;
}

// A value that we know to be decided: by our own ballot (ours), or because somebody says so.
void Register::Learn(const Ballot& ballot, const std::string& bytes, bool ours) {
  auto state = Parse(bytes);
  if (state == nullptr) return;
  if (StatePtr known = decided_ != nullptr ? decided_ : accepted_here();
      known != nullptr && known->cluster_uuid() != state->cluster_uuid()) {
    // Another `quorum init`. Only a quorum of our own counting takes us from one world to the other.
    if (!ours) return;
    decided_ = nullptr;
  }
  if (decided_ != nullptr && state->version() == decided_->version() && bytes != decided_bytes_) {
    // Nobody can tell which one is true, and who goes on may act on the other.
    std::string why = "two values of register version " + std::to_string(state->version()) + ": the register has forked";
    HF_CHECK(forked_, "%s", why.c_str());
    if (!std::exchange(fork_told_, true)) forked_(std::move(why));
    return;
  }
  Saw(ballot);
  bool newer = decided_ == nullptr || state->version() > decided_->version();
  bool again = !newer && state->version() == decided_->version() && ballot > decided_ballot_;
  if (newer || again) {
    decided_ballot_ = ballot;
    decided_bytes_ = bytes;
    if (newer) decided_ = state;
  }
  // Also a value that was only settled again: whoever does not know that ballot finds something newer on the disk than it knows,
  // settles it in its turn, and they keep each other from the disk's votes.
  if ((newer || again) && ours) {
    RegisterMessage message;
    message.set_kind(DECIDED);
    ToWire(ballot, message.mutable_ballot());
    message.set_value(bytes);
    for (NodeId node : options_.nodes)
      if (node != options_.self) send_(node, message);
  }
  if (newer && watcher_) watcher_();
}

// ---- answering others ----

void Register::OnMessage(NodeId from, const RegisterMessage& message) {
  if (stopping_) return;
  switch (message.kind()) {
    case PREPARE:
    case ACCEPT:
      background_.Spawn(Serve(from, message));
      return;
    case PROMISE:
    case ACCEPTED: {
      if (current_ == nullptr || message.attempt() != current_->attempt || current_->second != (message.kind() == ACCEPTED))
        return;
      if (FromWire(message.ballot()) != current_->ballot) return;
      current_->answers[from.v] = {message.storage(), FromWire(message.accepted()), message.value()};
      current_->changed.WakeAll();
      return;
    }
    case REFUSE: {
      Saw(FromWire(message.accepted()));
      if (current_ == nullptr || message.attempt() != current_->attempt || current_->second != message.phase2()) return;
      current_->refusals[from.v] = FromWire(message.accepted());
      current_->changed.WakeAll();
      return;
    }
    case DECIDED:
      if (decided_ == nullptr || message.version() == 0 || message.version() > decided_->version())
        Learn(FromWire(message.ballot()), message.value(), false);
      return;
    case FETCH: {
      if (decided_ == nullptr || decided_->version() <= message.version()) return;
      RegisterMessage answer;
      answer.set_kind(DECIDED);
      answer.set_version(decided_->version());
      ToWire(decided_ballot_, answer.mutable_ballot());
      answer.set_value(decided_bytes_);
      send_(from, answer);
      return;
    }
    default:
      return;
  }
}

Task<void> Register::Serve(NodeId from, RegisterMessage message) {
  Ballot ballot = FromWire(message.ballot());
  bool second = message.kind() == ACCEPT;
  // A ballot is its proposer's own.
  if (ballot.node != from || ballot.counter == 0) co_return;
  if (second && (message.value().empty() || message.value().size() > kValueBytesMax)) co_return;
  Saw(ballot);
  auto task = second ? acceptor_->Accept(ballot, message.value()) : acceptor_->Prepare(ballot);
  auto answer = co_await std::move(task);
  if (!answer.ok() || stopping_) co_return;
  RegisterMessage reply;
  reply.set_attempt(message.attempt());
  reply.set_storage(acceptor_->storage());
  ToWire(ballot, reply.mutable_ballot());
  if (!answer->ok) {
    reply.set_kind(REFUSE);
    reply.set_phase2(second);
    ToWire(answer->promised, reply.mutable_accepted());
  } else {
    reply.set_kind(second ? ACCEPTED : PROMISE);
    if (!second) {
      ToWire(answer->accepted, reply.mutable_accepted());
      reply.set_value(answer->value);
    }
  }
  send_(from, reply);
}

void Register::Fetch(NodeId from) {
  RegisterMessage message;
  message.set_kind(FETCH);
  message.set_version(decided_ == nullptr ? 0 : decided_->version());
  send_(from, message);
}

Task<void> Register::FetchFromDisk(Ballot ballot) {
  if (disk_ == nullptr || ballot.counter == 0) co_return;
  auto value = co_await disk_->ReadValue(ballot);
  if (value.ok() && !stopping_) Learn(ballot, *value, false);
}

// ---- asking ----

Task<void> Register::AskSelf(PhasePtr phase, std::string value) {
  auto task = phase->second ? acceptor_->Accept(phase->ballot, std::move(value)) : acceptor_->Prepare(phase->ballot);
  auto answer = co_await std::move(task);
  if (!answer.ok()) co_return;
  if (answer->ok) {
    Ballot accepted = phase->second ? Ballot{} : answer->accepted;
    phase->answers[options_.self.v] = {acceptor_->storage(), accepted, answer->value};
  } else {
    Saw(answer->promised);
    phase->refusals[options_.self.v] = answer->promised;
  }
  phase->changed.WakeAll();
}

Task<void> Register::AskDisk(PhasePtr phase, std::string value) {
  OwnAcceptor own{acceptor_->storage(), acceptor_->accepted()};
  auto task = phase->second ? disk_->Accept(phase->ballot, std::move(value), own) : disk_->Prepare(phase->ballot, own);
  auto answer = co_await std::move(task);
  if (!answer.ok()) co_return;  // it did not answer
  Saw(answer->highest);
  if (answer->ok)
    phase->answers[0] = {disk_->area_id(), answer->accepted, answer->value};
  else
    phase->refusals[0] = answer->highest;
  phase->changed.WakeAll();
}

void Register::AskPeers(const PhasePtr& phase, const std::string& value) {
  RegisterMessage message;
  message.set_kind(phase->second ? ACCEPT : PREPARE);
  message.set_attempt(phase->attempt);
  ToWire(phase->ballot, message.mutable_ballot());
  if (phase->second) message.set_value(value);
  for (NodeId node : options_.nodes)
    if (node != options_.self && !phase->answers.contains(node.v) && !phase->refusals.contains(node.v)) send_(node, message);
}

Task<void> Register::Wait(PhasePtr phase, Instant until) {
  TimerId timer = executor_->PostAt(until, [phase] { phase->changed.WakeAll(); });
  co_await phase->changed.Wait();
  executor_->Cancel(timer);
}

Task<bool> Register::RunPhase(PhasePtr phase, std::string value, std::function<bool(const Phase&)> enough,
                              std::function<bool(const Phase&)> hopeless) {
  Instant begin = executor_->clock().Now();
  Instant end = begin + options_.attempt, resend = begin + options_.resend;
  current_ = phase;
  background_.Spawn(AskSelf(phase, value));
  if (disk_ != nullptr && disk_->attached()) background_.Spawn(AskDisk(phase, value));
  AskPeers(phase, value);
  bool done = false;
  while (!stopping_) {
    if (enough(*phase)) {
      done = true;
      break;
    }
    Instant now = executor_->clock().Now();
    if (hopeless(*phase) || now >= end) break;
    if (now >= resend) {
      AskPeers(phase, value);
      resend = now + options_.resend;
    }
    co_await Wait(phase, std::min(end, resend));
  }
  current_ = nullptr;
  co_return done;
}

// Refusals have made a quorum impossible, as far as the votes are known.
bool Register::Hopeless(const Phase& phase, const ClusterState* value) const {
  if (phase.refusals.empty()) return false;
  if (value == nullptr) value = decided_.get();
  if (value == nullptr) return phase.refusals.size() > options_.nodes.size() / 2;
  Answers rest;
  for (const auto& acceptor : value->acceptors().acceptors())
    if (!phase.refusals.contains(acceptor.node())) rest.storage[acceptor.node()] = acceptor.storage();
  for (const auto& acceptor : value->acceptors_next().acceptors())
    if (!phase.refusals.contains(acceptor.node())) rest.storage[acceptor.node()] = acceptor.storage();
  return !IsQuorum(*value, rest, options_.mutants);
}

namespace {

// The newest value among promises.
struct Newest {
  Ballot ballot;
  const std::string* bytes = nullptr;
};

template <class Map>
Newest FindNewest(const Map& answers) {
  Newest newest;
  for (const auto& [node, answer] : answers)
    if (answer.accepted.counter != 0 && !answer.value.empty() && (newest.bytes == nullptr || answer.accepted > newest.ballot))
      newest = {answer.accepted, &answer.value};
  return newest;
}

// What the promises say, world by world: a store that slept through a `quorum init` still holds the value of the former
// cluster (another UUID), perhaps under a higher ballot. Its votes count in neither world; it must not hide the new one.
class Reading {
 public:
  explicit Reading(Mutants mutants) : mutants_(mutants) {}

  template <class Map>
  void Look(const Map& answers) {
    quorum_ = false;
    value_ = nullptr;
    std::map<std::string, std::pair<Newest, Answers>> worlds;
    Answers empty;
    for (const auto& [node, answer] : answers) {
      auto state = Parsed(answer.accepted, answer.value);
      if (state == nullptr) {
        empty.storage[node] = answer.storage;
        continue;
      }
      auto& [newest, who] = worlds[state->cluster_uuid()];
      who.storage[node] = answer.storage;
      if (newest.bytes == nullptr || answer.accepted > newest.ballot) newest = {answer.accepted, &answer.value};
    }
    for (auto& [uuid, world] : worlds) {
      auto& [newest, who] = world;
      who.storage.insert(empty.storage.begin(), empty.storage.end());
      auto state = Parsed(newest.ballot, *newest.bytes);
      bool quorum = IsQuorum(*state, who, mutants_);
      if (value_ != nullptr && !quorum && (quorum_ || newest.ballot < ballot_)) continue;
      value_ = state;
      ballot_ = newest.ballot;
      bytes_ = *newest.bytes;
      quorum_ = quorum;
      if (quorum) return;
    }
  }
  bool quorum() const { return quorum_; }
  const std::shared_ptr<ClusterState>& value() const { return value_; }
  const Ballot& ballot() const { return ballot_; }
  const std::string& bytes() const { return bytes_; }

 private:
  std::shared_ptr<ClusterState> Parsed(const Ballot& ballot, const std::string& bytes) {
    if (ballot.counter == 0 || bytes.empty()) return nullptr;
    auto& [known, state] = parsed_[ballot];
    if (state == nullptr || known != bytes) {
      known = bytes;
      state = Parse(bytes);
    }
    return state;
  }
  Mutants mutants_;
  std::map<Ballot, std::pair<std::string, std::shared_ptr<ClusterState>>> parsed_;
  bool quorum_ = false;
  std::shared_ptr<ClusterState> value_;
  Ballot ballot_;
  std::string bytes_;
};

template <class Map>
Answers Who(const Map& answers) {
  Answers who;
  for (const auto& [node, answer] : answers) who.storage[node] = answer.storage;
  return who;
}

}  // namespace

Task<Register::Outcome> Register::RunBallot(ChangeFn change, bool confirmed) {
  Outcome outcome;
  auto phase = std::make_shared<Phase>();
  phase->attempt = random_->Next();
  phase->ballot = NextBallot();
  Mutants mutants = options_.mutants;
  auto reading = std::make_shared<Reading>(mutants);
  size_t configured = options_.nodes.size();
  std::function<bool(const Phase&)> enough = [reading](const Phase& p) {
    reading->Look(p.answers);
    return reading->quorum();
  };
  bool disk = disk_ != nullptr && disk_->attached();
  std::function<bool(const Phase&)> hopeless = [this, reading, configured, disk](const Phase& p) {
    // Everybody has answered and nobody has a value: there is no register.
    if (FindNewest(p.answers).bytes == nullptr && p.answers.size() == configured + (disk ? 1 : 0)) return true;
    return Hopeless(p, reading->value().get());
  };
  auto first = RunPhase(phase, "", enough, hopeless);
  bool promised = co_await std::move(first);
  if (!promised) {
    if (stopping_) {
      outcome.result = Errc::kCancelled;
      co_return outcome;
    }
    bool nothing = FindNewest(phase->answers).bytes == nullptr;
    outcome.retry = true;
    if (nothing && phase->answers.size() == configured + (disk ? 1 : 0)) {
      outcome.retry = false;
      outcome.result = Error(Errc::kNotFound, "there is no cluster register: holdfast quorum init");
    } else if (!phase->refusals.empty()) {
      outcome.result = Error(Errc::kBusy, "another node is changing the register");
    } else {
      outcome.result = Error(Errc::kNoQuorum, "no majority of votes answered");
    }
    co_return outcome;
  }

  std::shared_ptr<ClusterState> value = reading->value();
  std::string bytes = reading->bytes();
  Ballot base_ballot = reading->ballot();
  if (mutants.read_not_accepted && !change) {
    Learn(base_ballot, bytes, true);
    outcome.result = StatePtr(value);
    co_return outcome;
  }
  auto next = std::make_shared<ClusterState>(*value);
  std::string next_bytes = bytes;
  Status refused;
  bool only_confirm = confirmed && base_ballot != decided_ballot_;
  if (change && !only_confirm) {
    auto changed = change(*value);
    if (!changed.ok()) {
      refused = changed.error();
    } else if (changed->version() != value->version()) {
      *next = std::move(*changed);
      next_bytes = next->SerializeAsString();
      if (next_bytes.size() > kValueBytesMax) {
        outcome.result = Error(Errc::kExhausted, "the cluster state does not fit 64 KiB");
        co_return outcome;
      }
    }
  }
  auto second = std::make_shared<Phase>();
  second->attempt = random_->Next();
  second->second = true;
  second->ballot = phase->ballot;
  enough = [value, next, mutants](const Phase& p) {
    Answers who = Who(p.answers);
    return IsQuorum(*value, who, mutants) && IsQuorum(*next, who, mutants);
  };
  hopeless = [this, value, next](const Phase& p) { return Hopeless(p, value.get()) || Hopeless(p, next.get()); };
  auto accept = RunPhase(second, next_bytes, enough, hopeless);
  bool accepted = co_await std::move(accept);
  if (!accepted) {
    outcome.retry = !stopping_;
    if (stopping_)
      outcome.result = Errc::kCancelled;
    else if (!second->refusals.empty())
      outcome.result = Error(Errc::kBusy, "another node is changing the register");
    else
      outcome.result = Error(Errc::kTimeout, "no majority of votes accepted in time");
    co_return outcome;
  }
  Learn(second->ballot, next_bytes, true);
  if (only_confirm) {
    outcome.retry = outcome.again = true;
    outcome.result = Errc::kBusy;
  } else if (!refused.ok()) {
    outcome.result = refused.error();
  } else {
    outcome.result = StatePtr(next);
  }
  co_return outcome;
}

Task<Result<StatePtr>> Register::Change(ChangeFn change, ChangeOptions options) {
  Instant end = executor_->clock().Now() + options.limit;
  auto guard = co_await changes_.Lock();
  if (executor_->clock().Now() >= end)  // it waited its turn too long; nothing of it has been tried
    co_return Error(Errc::kNoQuorum, trouble_.empty() ? "the register is busy" : trouble_);
  while (true) {
    // Also after a change that was given up: who met others and begins anew meets them again, and where a ballot takes long
    // nobody's would ever come through.
    if (rest_until_ >= end) co_return Error(Errc::kTimeout, "the register is busy");
    if (Duration rest = rest_until_ - executor_->clock().Now(); rest.ns > 0 && !stopping_) co_await SleepFor(rest);
    if (stopping_) co_return Errc::kCancelled;
    Instant begin = executor_->clock().Now();
    auto ballot = RunBallot(change, options.confirmed);
    auto outcome = co_await std::move(ballot);
    Instant now = executor_->clock().Now();
    trouble_ = outcome.result.ok() || !outcome.retry ? std::string() : outcome.result.error().message;
    if (!outcome.retry) {
      backoff_ = kBackoffMin;
      co_return outcome.result;
    }
    if (!outcome.again) {
      rest_until_ = now + Nanoseconds(static_cast<int64_t>(random_->Below(static_cast<uint64_t>(backoff_.ns)) + 1));
      // Those who meet need gaps longer than a ballot takes here, however slow the stores and the disk are.
      backoff_ = std::min(backoff_ * 2, std::max(options_.backoff_max, (now - begin) * 8));
    }
    if (now >= end) {
      if (outcome.result.code() == Errc::kBusy) co_return Error(Errc::kTimeout, "the register is busy");
      co_return outcome.result.error();
    }
  }
}

Task<Result<StatePtr>> Register::Read(ChangeOptions options) {
  ChangeFn nothing;
  auto change = Change(std::move(nothing), options);
  auto result = co_await std::move(change);
  co_return result;
}

// ---- the first value ----

// Every asked acceptor must be empty; their storage ids go into the value.
Task<Result<StatePtr>> Register::Initialize(InitClusterArgs args, Duration limit) {
  auto guard = co_await changes_.Lock();
  Instant end = executor_->clock().Now() + limit;
  bool disk = disk_ != nullptr && disk_->attached();
  if (args.disk_votes > 0 && !disk) co_return Error(Errc::kIo, "the quorum area does not answer");
  if (disk) args.area_id = disk_->area_id();
  uint32_t own = 0, all = args.disk_votes;
  for (const auto& node : args.nodes) {
    all += node.votes;
    if (node.id == options_.self) own = node.votes;
  }
  bool alone = args.disk_votes > 0 && 2 * (own + args.disk_votes) > all;
  size_t wanted = (alone ? 1 : options_.nodes.size()) + (disk ? 1 : 0);
  NodeId self = options_.self;
  while (!stopping_) {
    auto phase = std::make_shared<Phase>();
    phase->attempt = random_->Next();
    phase->ballot = NextBallot();
    std::function<bool(const Phase&)> enough = [wanted, alone, disk, self](const Phase& p) {
      if (alone) return p.answers.contains(self.v) && (!disk || p.answers.contains(0));
      return p.answers.size() == wanted;
    };
    std::function<bool(const Phase&)> hopeless = [](const Phase& p) {
      return !p.refusals.empty() || FindNewest(p.answers).bytes != nullptr;
    };
    auto first = RunPhase(phase, "", enough, hopeless);
    bool promised = co_await std::move(first);
    if (FindNewest(phase->answers).bytes != nullptr) {
      auto there = Parse(*FindNewest(phase->answers).bytes);
      if (there == nullptr || there->cluster_uuid() != args.cluster_uuid)
        co_return Error(Errc::kExists, "there is a register already");
      // Our own, half accepted the last time round.
      guard.Release();
      ChangeOptions how;
      how.limit = limit;
      auto reading = Read(how);
      auto result = co_await std::move(reading);
      co_return result;
    }
    if (promised) {
      for (auto& node : args.nodes) {
        auto it = phase->answers.find(node.id.v);
        node.storage = it == phase->answers.end() ? 0 : it->second.storage;
      }
      auto state = InitCluster(args);
      if (!state.ok()) co_return state.error();
      auto value = std::make_shared<ClusterState>(*state);
      auto second = std::make_shared<Phase>();
      second->attempt = random_->Next();
      second->second = true;
      second->ballot = phase->ballot;
      hopeless = [](const Phase& p) { return !p.refusals.empty(); };
      auto accept = RunPhase(second, value->SerializeAsString(), enough, hopeless);
      bool accepted = co_await std::move(accept);
      if (accepted) {
        Learn(second->ballot, value->SerializeAsString(), true);
        co_return StatePtr(value);
      }
    }
    if (executor_->clock().Now() >= end)
      co_return Error(Errc::kNoQuorum, alone ? "the quorum area does not answer"
                                             : "without enough disk votes every configured node must be up");
    co_await SleepFor(Milliseconds(50));
  }
  co_return Errc::kCancelled;
}

Task<void> Register::Stop() {
  stopping_ = true;
  if (current_ != nullptr) current_->changed.WakeAll();
  auto guard = co_await changes_.Lock();
  co_await background_.Join();
}

}  // namespace holdfast::cluster
